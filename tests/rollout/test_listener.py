"""The world speaks in the middle of an attempt: what it says is read and not chosen, and nothing else changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import tiny
import torch
from naive import ENDS, HERE, SAMPLING, policy
from samplers import PROMPTS, every

from upslope.errors import UserError
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.hf import use_attention
from upslope.rollout.base import Request
from upslope.rollout.draw import draw
from upslope.rollout.groups import sample_groups
from upslope.rollout.listener import Listeners
from upslope.rollout.local import LocalSampler
from upslope.rollout.scripted import ScriptedSampler
from upslope.tasks.episode import Episode
from upslope.types import Sampling

LONG = Sampling(max_tokens=12)


@dataclass(frozen=True)
class Echo:
    """After a token of its class it repeats the newest tokens, one of which may be an end token; now and then it has
    nothing to say, or was not asked."""

    every: int = 5
    length: int = 3

    def pauses(self, token):
        return token % self.every == 0

    def reply(self, response):
        if response[-1] % 3 == 1:
            return None
        return () if response[-1] % 3 == 2 else (ENDS[len(response) % len(ENDS)], *response[-self.length :])


def asked(world, samples=3):
    return [Request(f"toy/{i}", sample, p, world) for i, p in enumerate(PROMPTS) for sample in range(samples)]


def runs(mask):
    """(begin, end) of every stretch that the policy did not choose."""
    edges = [t for t in range(len(mask)) if mask[t] != (t == 0 or mask[t - 1])]
    return list(zip(edges[::2], [*edges[1::2], len(mask)], strict=False))


def naive(plain, request, sampling):
    """An attempt with its world, token by token, without cache or batch."""
    uniforms = torch.from_numpy(HERE.uniforms([(request.problem_id, request.sample)], sampling.max_tokens))
    tokens, mask, logps, unanswered = [], [], [], 0
    while len(tokens) < sampling.max_tokens:
        place = len(tokens)
        ids = torch.tensor([[*request.prompt, *tokens]])
        logits = plain(input_ids=ids, use_cache=False).logits[:, -1].detach()
        token, logp = draw(logits, torch.tensor([place]), uniforms[:, place], sampling, torch.tensor(ENDS))
        tokens, mask, logps = [*tokens, int(token)], [*mask, True], [*logps, float(logp)]
        if tokens[-1] in ENDS:
            return tokens, mask, logps, "stop", unanswered
        if len(tokens) < sampling.max_tokens and request.listener.pauses(tokens[-1]):
            reply = request.listener.reply(tokens)
            unanswered += reply == ()
            said = list(reply or ())[: sampling.max_tokens - len(tokens)]
            tokens, mask, logps = tokens + said, mask + [False] * len(said), logps + [0.0] * len(said)
    return tokens, mask, logps, "length", unanswered


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("sampling", [LONG, Sampling(0.7, 5, 0.9, 3, 10), Sampling(0.0, max_tokens=9)], ids=str)
def test_every_engine_writes_what_the_naive_way_does(packed, sampling):
    plain, subject = tiny.model(), policy()
    if not packed:
        use_attention(subject.model, "sdpa")
    requests = asked(Echo(), samples=6)
    got = LocalSampler(subject, max_rows=4, packed=packed).generate(requests, sampling, HERE)
    for request, r in zip(requests, got, strict=True):
        tokens, mask, logps, ended, unanswered = naive(plain, request, sampling)
        assert (list(r.response), list(r.mask), r.ended, r.unanswered) == (tokens, mask, ended, unanswered)
        assert r.logp == pytest.approx(logps, abs=1e-10)
    if sampling == LONG:
        assert sum(not all(r.mask) for r in got) >= 3, "the world hardly spoke"
        assert any(r.unanswered for r in got)
        assert {r.ended for r in got} == {"stop", "length"}
        assert any(t in ENDS for r in got for t, m in zip(r.response, r.mask, strict=True) if not m)


def test_an_attempt_with_a_world_is_the_same_alone_and_among_63_others_in_float32():
    subject = policy(dtype=torch.float32)
    requests = asked(Echo(), samples=22)[:64]
    among = LocalSampler(subject).generate(requests, LONG, HERE)
    assert sum(not all(r.mask) for r in among) > 10
    for place in (0, 23, 50):
        (alone,) = LocalSampler(subject).generate(requests[place : place + 1], LONG, HERE)
        assert (alone.response, alone.mask) == (among[place].response, among[place].mask)


def test_whoever_has_no_world_does_not_notice_those_who_have():
    subject = policy()
    quiet = [replace(request, listener=None) for request in asked(None)]
    expected = LocalSampler(subject).generate(quiet, LONG, HERE)
    mixed = [replace(q, listener=Echo() if i % 2 else None) for i, q in enumerate(quiet)]
    got = LocalSampler(subject).generate(mixed, LONG, HERE)
    words, before = ([(r.response, r.mask) for r in rollouts] for rollouts in (got, expected))
    assert words[::2] == before[::2] and words[1::2] != before[1::2]


def test_a_world_that_has_nothing_to_say_changes_nothing_and_is_counted():
    @dataclass(frozen=True)
    class Silent:
        answer: tuple[int, ...] | None

        def pauses(self, token):
            return True

        def reply(self, response):
            return self.answer

    subject = policy()
    expected = LocalSampler(subject).generate(asked(None), LONG, HERE)
    assert LocalSampler(subject).generate(asked(Silent(None)), LONG, HERE) == expected  # the same company: all bits
    counted = LocalSampler(subject).generate(asked(Silent(())), LONG, HERE)
    assert [replace(r, unanswered=0) for r in counted] == expected
    # Asked after every token but the last: an end token, or the one that fills the room.
    assert [r.unanswered for r in counted] == [len(r.response) - 1 for r in expected]


def test_the_learner_scores_the_chosen_tokens_as_they_were_drawn():
    subject = policy(dtype=torch.float32)
    got = LocalSampler(subject).generate(asked(Echo()), LONG, HERE)
    assert any(not all(r.mask) for r in got)
    with torch.no_grad():
        logp_NT, _ = subject.score(got, LONG, LONG.max_tokens)
    for row, r in enumerate(got):
        for t, chosen in enumerate(r.mask):
            assert float(logp_NT[row, t]) == pytest.approx(r.logp[t] if chosen else 0.0, abs=1e-4)


@every
def test_the_contract_holds_with_a_world(make):
    """Replies stand where they were called for, up to the limit; the policy's last token ends the attempt."""
    world = Echo(every=2)
    got = make(LONG).generate(asked(world), LONG, HERE)
    assert any(not all(r.mask) for r in got)
    for r in got:
        assert len(r.response) == len(r.mask) == len(r.logp) <= LONG.max_tokens
        assert all(x == 0 for x, m in zip(r.logp, r.mask, strict=True) if not m)
        for begin, end in runs(r.mask):
            assert begin > 0 and world.pauses(r.response[begin - 1])
            said = world.reply(r.response[:begin])
            assert said[: end - begin] == r.response[begin:end]
            assert end - begin == len(said) or end == LONG.max_tokens
        ends = [t for t, token in enumerate(r.response) if token in ENDS and r.mask[t]]
        assert ends in ([], [len(r.response) - 1])
        assert r.ended == ("stop" if ends else "length")


def test_a_scripts_tokens_and_the_worlds_between_them_by_hand():
    class Two:
        def pauses(self, token):
            return token == 4

        def reply(self, response):
            return (8, 9)

    asks = [Request("toy/0", 0, (3,), Two())]
    (r,) = ScriptedSampler({("toy/0", 0): (7, 4, 6, 2)}, end_ids=(2,)).generate(asks, Sampling(max_tokens=9), HERE)
    assert r.response == (7, 4, 8, 9, 6, 2)
    assert r.mask == (True, True, False, False, True, True)
    assert r.ended == "stop"
    (cut,) = ScriptedSampler({("toy/0", 0): (7, 4, 6, 2)}, end_ids=(2,)).generate(asks, Sampling(max_tokens=3), HERE)
    assert (cut.response, cut.mask, cut.ended) == ((7, 4, 8), (True, True, False), "length")


# -- text to tokens -------------------------------------------------------------------------------------------------


def test_a_stop_of_a_character_that_several_tokens_make():
    """A byte is a token: no single one of them tells that a stop ends with it."""

    class Bytes:
        def text(self, response):
            return bytes(response).decode("utf-8", "replace")

        def middle_ids(self, text):
            return tuple(text.encode())

    class Watch:
        stops = ("→", "答：")

        def reply(self, text):
            return "ok"

    world = Listeners(Bytes()).of(Watch())
    script = "a→é b 答：c答b→→".encode()
    asked = [
        i + 1 for i, byte in enumerate(script) if world.pauses(byte) and world.reply(tuple(script[: i + 1])) is not None
    ]
    ends = [end for end in range(1, len(script) + 1) if script[:end].endswith(("→".encode(), "答：".encode()))]
    assert asked == ends and len(ends) == 4


class Shout:
    """Says so whenever ``has`` is complete."""

    stops = ("has",)

    def __init__(self):
        self.heard = []

    def reply(self, text):
        self.heard.append(text)
        return " apples"


def test_an_episode_is_asked_when_a_stop_is_complete_and_its_text_becomes_tokens():
    renderer = ChatRenderer.of(tiny.TOKENIZER)
    script = renderer.middle_ids("Tom has 3 pens")
    problem = tiny.problems(1)[0]
    shout = Shout()
    sampler = ScriptedSampler({(problem.id, 0): (*script, renderer.end_ids[0])}, end_ids=renderer.end_ids)
    ((r,),) = sample_groups(sampler, renderer, [problem], 1, SAMPLING, HERE, episode=lambda p: shout)
    assert shout.heard == ["Tom has"]
    assert r.text == "Tom has apples 3 pens"
    said = renderer.text([t for t, m in zip(r.response, r.mask, strict=True) if not m])
    assert said.strip() == "apples"


@pytest.mark.parametrize("stops", [("has",), ()])
@pytest.mark.parametrize("token", [-1, len(tiny.TOKENIZER), 10**6])
def test_a_token_that_the_model_does_not_have_is_refused(stops, token):
    renderer = ChatRenderer.of(tiny.TOKENIZER, None, len(tiny.TOKENIZER))
    script = renderer.middle_ids("Tom has")
    problem = tiny.problems(1)[0]

    class Numbers(Episode):
        def reply(self, text):
            return [5, token]

    world = Numbers()
    world.stops = stops
    sampler = ScriptedSampler({(problem.id, 0): (*script, renderer.end_ids[0])}, end_ids=renderer.end_ids)
    with pytest.raises(UserError, match=rf"replied with the token {token}, and the model has tokens 0 to "):
        sample_groups(sampler, renderer, [problem], 1, SAMPLING, HERE, episode=lambda p: world)


def test_a_stop_over_several_tokens_and_one_inside_a_token():
    class Letters:
        """One token a text."""

        TEXTS = ("<", "<", "a", "=", "=$", "=<<")

        def text(self, response):
            return "".join(self.TEXTS[t] for t in response)

        def middle_ids(self, text):
            return (99,)

    class Watch:
        stops = ("<<", "=")

        def reply(self, text):
            return f"{len(text)}"

    world = Listeners(Letters()).of(Watch())
    assert [world.pauses(t) for t in range(6)] == [True, True, False, True, True, True]
    assert world.reply((0,)) is None, "half a stop"
    assert world.reply((2, 0, 1)) == (99,), "complete with its second half"
    assert world.reply((0, 1, 1)) == (99,), "the last two again"
    assert world.reply((0, 1, 2)) is None, "complete before, not now"
    assert world.reply((2, 4)) == (99,), "inside a token"


def test_a_stop_that_ends_with_a_space_is_heard_where_the_next_word_brings_the_space():
    """SentencePiece's way: the space stands in a text and not in a word's token by itself."""

    class Words:
        TEXTS = ("search:", "pens", "18")

        def text(self, response):
            return " ".join(self.TEXTS[t] for t in response)

        def middle_ids(self, text):
            return (2,)

    class Watch:
        stops = ("search: ",)

        def reply(self, text):
            return "18"

    world = Listeners(Words()).of(Watch())
    assert world.pauses(1) and world.reply((0,)) is None and world.reply((0, 1)) == (2,)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_world_that_asks_for_special_tokens_reads_them_in_the_middle_of_a_turn(keeps):
    renderer = ChatRenderer.of(tiny.TOKENIZER)
    special = next(number for number, token in tiny.TOKENIZER.added_tokens_decoder.items() if token.special)
    spelt = tiny.TOKENIZER.decode([special])

    class Watch:
        stops = ("has",)
        keep_special = keeps

        def reply(self, text):
            self.heard = text
            return [5, 6]

    watch = Watch()
    world = Listeners(renderer).of(watch)
    response = (special, *renderer.middle_ids("Tom has"))
    assert world.pauses(response[-1]) and world.reply(response) == (5, 6)
    assert (spelt in watch.heard) is keeps and watch.heard.endswith("Tom has")
