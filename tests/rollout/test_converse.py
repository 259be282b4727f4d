"""Conversations: every turn's tokens are those that were sampled, whatever the template; slow worlds stop nobody."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import templated
import torch
from naive import ENDS
from tiny import policy as tiny_policy

from upslope.errors import UserError
from upslope.forks import Fork
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.hf import use_attention
from upslope.model.layout import Tokens
from upslope.rollout.address import Address
from upslope.rollout.base import Request
from upslope.rollout.converse import Attempted, converse
from upslope.rollout.groups import sample_groups
from upslope.rollout.local import LocalSampler
from upslope.rollout.scripted import ScriptedSampler
from upslope.tasks.episode import ConversationLimits, Episode, Reply
from upslope.types import Problem, Rollout, Sampling, Score

HERE, SAMPLING = Address(0, "sample", 3), Sampling(max_tokens=400)
ASKED = Problem("toy/0", ({"role": "user", "content": "What is 2 + 2?"},))
FAMILIES = ("qwen2.5", "qwen3", "llama3", "mistral", "gemma", "smollm2")
WRITTEN = ("I think of it.", "The answer is  4 .", "Thank you")
"""Turns that no template changes but in space."""
THOUGHTS = (
    "<think>\nTwo and two.\n</think>\n\nIs it 4?",
    "<think>\nYes.\n</think>\n\nIt is 4.",
    "<think>\n\n</think>\n\nBye.",
)


ENDLESS = (
    "{% for m in messages %}{{ m.role + ':' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


class Asking(Episode):
    """Says these one after the other, and then nothing more."""

    stops: Sequence[str] = ()

    def __init__(self, *replies: Reply, limits: ConversationLimits | None = None) -> None:
        self._left, self.limits, self.heard = list(replies), limits or ConversationLimits(), list[str]()

    def reply(self, text: str) -> Reply:
        self.heard.append(text)
        return self._left.pop(0) if self._left else None

    def score(self, chat: Any) -> Score | None:
        return Score(float(len(chat)))


class Slow(Asking):
    """Takes ten seconds to reply."""

    now = 0.0

    def reply(self, text: str) -> Reply:
        self.now += 10
        return super().reply(text)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def tool(text: str) -> list[dict[str, str]]:
    return [{"role": "tool", "name": "add", "content": text}]


def renderer(family: str) -> ChatRenderer:
    return ChatRenderer.of(templated.tokenizer(family))


def saying(subject: ChatRenderer, *texts: str, odd: bool = False) -> ScriptedSampler:
    """A policy that writes these turns; if ``odd`` character by character, as no tokenizer would split the text."""
    turns: dict[tuple[str, int], list[str]] = {}

    def ids(text: str) -> list[int]:
        return [i for c in text for i in subject.ids(c)] if odd else list(subject.ids(text))

    def write(request: Request) -> tuple[list[int], list[float]]:
        left = turns.setdefault((request.problem_id, request.sample), list(texts))
        tokens = [*ids(left.pop(0)), subject.turn_end_id]
        return tokens, [-0.5 - 0.001 * (request.begin + i) for i in range(len(tokens))]

    return ScriptedSampler(write, end_ids=subject.end_ids)


def one(sampler: Any, subject: ChatRenderer, episode: Episode, sampling: Sampling = SAMPLING) -> Rollout:
    (found,) = converse(sampler, subject, [Attempted(ASKED, 0, episode)], sampling, HERE)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_after_three_turns_the_tokens_are_those_that_were_sampled(family: str) -> None:
    """Written as no tokenizer would split them, with space that templates trim: read back, and compared by hand."""
    subject = renderer(family)
    sampler = saying(subject, *WRITTEN, odd=True)
    found = one(sampler, subject, Asking(user("Is it?"), user("Good.")))
    turns = [(*(i for c in text for i in subject.ids(c)), subject.turn_end_id) for text in WRITTEN]
    begins = (0, *found.turns)
    assert [found.response[b : b + len(t)] for b, t in zip(begins, turns, strict=True)] == turns
    inside = {b + i for b, t in zip(begins, turns, strict=True) for i in range(len(t))}
    assert [i in inside for i in range(len(found.response))] == list(found.mask)
    assert found.logp == tuple(-0.5 - 0.001 * i if i in inside else 0.0 for i in range(len(found.response)))
    assert (found.forks, found.num_turns, found.ended) == ((), 3, "stop")
    chat = [*ASKED.messages]
    for text, said in zip(WRITTEN, ("Is it?", "Good.", None), strict=True):
        chat += [{"role": "assistant", "content": text}, *(user(said) if said else [])]
    whole = subject.tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
    read = subject.spelled((*found.prompt, *found.response))
    assert "".join(read.split()).startswith("".join(whole.split()))
    assert found.chat == tuple(chat[1:])
    # The naive way tokenises all of it again, and would score tokens that nobody drew.
    naive = subject.ids(whole)
    sampled = (*found.prompt, *found.response[: begins[2]])
    assert naive != sampled


def test_a_request_is_all_that_was_read_and_written_and_its_draws_go_on() -> None:
    subject = renderer("qwen2.5")
    sampler = saying(subject, *WRITTEN)
    found = one(sampler, subject, Asking(user("Is it?"), user("Good.")))
    assert [r.begin for r in sampler.asked] == [0, *found.turns]
    assert [r.prompt for r in sampler.asked] == [(*found.prompt, *found.response[: r.begin]) for r in sampler.asked]


def test_thinking_that_the_template_drops_forks_the_attempt_and_the_forks_are_counted() -> None:
    subject = renderer("qwen3")
    found = one(saying(subject, *THOUGHTS), subject, Asking(user("Is it?"), user("Good.")))
    assert [fork.begin for fork in found.forks] == list(found.turns)
    assert all(found.mask), "what the world says stands in the prompts of the forks"
    later = [subject.spelled(fork.prompt) for fork in found.forks]
    assert "Two and two." not in later[0] and "Is it 4?" in later[0] and later[0].endswith("<|im_start|>assistant\n")
    assert "Yes." not in later[1] and "It is 4." in later[1]
    chat = [*ASKED.messages, {"role": "assistant", "content": THOUGHTS[0]}, *user("Is it?")]
    assert found.forks[0].prompt == subject.prompt_ids(chat)


def test_thinking_stays_while_only_tools_reply() -> None:
    subject = renderer("qwen3")
    found = one(saying(subject, *THOUGHTS), subject, Asking(tool("4"), tool("5")))
    assert (found.forks, found.num_turns) == ((), 3)
    assert "<tool_response>\n4\n</tool_response>" in found.text


@pytest.mark.parametrize("template", [None, ENDLESS])
def test_whichever_end_a_policy_ends_its_turns_with_is_no_reason_to_fork(template: str | None) -> None:
    """Qwen2.5's template writes ``<|im_end|>``, the other one nothing; the policy writes the tokenizer's end token."""
    subject = ChatRenderer.of(templated.tokenizer("qwen2.5", template))
    (end,) = subject.ids("<|endoftext|>")
    left = [(*subject.ids(text), end) for text in WRITTEN]
    turns = list(left)
    sampler = ScriptedSampler(lambda request: (turns[0], [-0.5] * len(turns.pop(0))), end_ids=subject.end_ids)
    found = one(sampler, subject, Asking(user("Is it?"), user("Good.")))
    assert (found.forks, found.num_turns) == ((), 3)
    begins = (0, *found.turns)
    assert [found.response[b : b + len(t)] for b, t in zip(begins, left, strict=True)] == left
    heard = subject.spelled(found.response[len(left[0]) : begins[1]])
    behind = (
        "\n<|im_start|>user\nIs it?<|im_end|>\n<|im_start|>assistant\n"
        if template is None
        else "\nuser:Is it?\nassistant:"
    )
    assert heard == behind


def test_a_sampler_that_tokenises_the_conversation_again_is_refused() -> None:
    subject = renderer("qwen2.5")

    class Naive(ScriptedSampler):
        def generate(self, requests: Any, *how: Any, **more: Any) -> list[Rollout]:
            again = [replace(r, prompt=subject.ids(subject.spelled(r.prompt))) for r in requests]
            return super().generate(again, *how, **more)

    def naive() -> Naive:
        tokens = [i for c in WRITTEN[0] for i in subject.ids(c)]
        return Naive(
            lambda request: ([*tokens, subject.turn_end_id], [-0.5] * (len(tokens) + 1)), end_ids=subject.end_ids
        )

    why = r"problem toy/0: the sampler wrote behind a prompt of \d+ tokens that is not the one of \d+ tokens .*again"
    with pytest.raises(UserError, match=why):
        one(naive(), subject, Asking(user("Is it?")))
    raw = replace(ASKED, messages=user("I think  of"), form="raw")
    odd = replace(subject)
    object.__setattr__(odd, "raw_ids", lambda text: tuple(i for c in text for i in subject.ids(c)))
    with pytest.raises(UserError, match=why):
        sample_groups(naive(), odd, [raw], 1, SAMPLING, HERE)


def test_tokens_and_text_are_replies_too() -> None:
    subject = renderer("smollm2")
    given = subject.ids("<|im_start|>user\nGood.<|im_end|>\n<|im_start|>assistant\n")
    by_text = one(saying(subject, *WRITTEN[:2]), subject, Asking("Good."))
    by_ids = one(saying(subject, *WRITTEN[:2]), subject, Asking(given))
    assert by_ids.response[: by_ids.turns[0]][-len(given) :] == given
    assert (
        by_text.response
        == by_ids.response[: by_ids.turns[0] - len(given)]
        + subject.ids("\n")
        + by_ids.response[by_ids.turns[0] - len(given) :]
    )


def test_an_attempt_ends_for_a_reason() -> None:
    subject = renderer("smollm2")

    def ended(episode: Episode, sampling: Sampling = SAMPLING, clock: Any = None) -> tuple[str, int, float]:
        how = {} if clock is None else {"clock": clock}
        world = Attempted(ASKED, 0, episode)
        (found,) = converse(saying(subject, *WRITTEN, *WRITTEN), subject, [world], sampling, HERE, **how)
        assert found.earned is not None
        return found.ended, found.num_turns, found.earned.reward

    assert ended(Asking(user("a"))) == ("stop", 2, 3.0)
    assert ended(Asking(user("a"), user("b"), limits=ConversationLimits(turns=2))) == ("turns", 2, 3.0)
    assert ended(Asking(user("a"), limits=ConversationLimits(turns=2))) == ("stop", 2, 3.0)
    first = len(subject.ids(WRITTEN[0])) + 1
    assert ended(Asking(user("a"), limits=ConversationLimits(tokens=first + 3))) == ("length", 1, 2.0)
    assert ended(Asking(user("a")), replace(SAMPLING, max_tokens=first + 3)) == ("length", 1, 2.0)
    slow = Slow(user("a"), user("b"), user("c"), limits=ConversationLimits(seconds=15))
    assert ended(slow, clock=lambda: slow.now) == ("seconds", 2, 3.0)


def test_the_text_that_the_world_is_told_is_the_turn_s_own() -> None:
    subject, world = renderer("qwen2.5"), Asking(user("Is it?"))
    one(saying(subject, *WRITTEN), subject, world)
    assert world.heard == list(WRITTEN[:2])


class Meeting(Episode):
    """Replies only once all of a party have come to reply: a world that stopped the others would never get there."""

    stops: Sequence[str] = ()

    def __init__(self, party: threading.Barrier, say: str) -> None:
        self._party, self._say, self._met = party, say, False

    def reply(self, text: str) -> Reply:
        if self._met:
            return None
        self._met = True
        self._party.wait(timeout=30)
        return user(self._say)


def small() -> Any:
    """A random model with a chat template and several end tokens, so that its turns end early."""
    subject = tiny_policy()
    subject.renderer = replace(subject.renderer, end_ids=ENDS)
    return subject


@pytest.mark.parametrize("rows", [2, 6])
def test_worlds_that_wait_for_each_other_leave_their_rows_to_others(rows: int) -> None:
    """With two rows for six attempts, each of the six has to give its row up before the last can come."""
    subject = small()
    party = threading.Barrier(6)
    sampling = Sampling(max_tokens=60)
    got = sample_groups(
        LocalSampler(subject, max_rows=rows),
        subject.renderer,
        [replace(ASKED, id=f"toy/{i}") for i in range(3)],
        2,
        sampling,
        HERE,
        episode=lambda problem: Meeting(party, "Tom has 3 apples ."),
    )
    assert {r.num_turns for group in got for r in group} == {2}


def test_what_is_written_does_not_depend_on_rows_or_on_who_comes_first() -> None:
    """Turns in one table, in rounds, with one row or many: the same tokens, from the same draws."""
    asked = [replace(ASKED, id=f"toy/{i}") for i in range(2)]
    subject = small()
    found, seen = [], []
    for rows, rounds in ((1, False), (4, False), (4, True)):
        sampler = LocalSampler(subject, max_rows=rows)
        if rounds:
            sampler.takes_more = False
        how = (sampler, subject.renderer, asked, 2, Sampling(max_tokens=40), HERE)
        groups = sample_groups(*how, episode=lambda problem: Asking(user("Tom has 3 apples ."), user("Sam has 2 .")))
        found.append([(r.response, r.mask, r.turns, r.ended) for g in groups for r in g])
        seen.append([p for g in groups for r in g for p in r.logp or ()])
        assert found[0] == found[-1] and seen[-1] == pytest.approx(seen[0], abs=1e-9)
    assert max(len(turns) for _, _, turns, _ in found[0]) == 2


def test_the_learner_scores_what_was_sampled_over_turns() -> None:
    """The log-probabilities that were logged, turn by turn, are the learner's of the whole attempt in one row."""
    subject, sampling = small(), Sampling(max_tokens=50)
    groups = sample_groups(
        LocalSampler(subject),
        subject.renderer,
        [ASKED],
        4,
        sampling,
        HERE,
        episode=lambda p: Asking(user("Sam has 2 .")),
    )
    for rollout in groups[0]:
        logp_NT, _ = subject.score([rollout], sampling, len(rollout.response))
        assert rollout.logp is not None and max(rollout.turns) > 0
        assert logp_NT[0].tolist() == pytest.approx(list(rollout.logp), abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_turn_that_the_prompt_begins_is_one_turn_for_the_template(family: str) -> None:
    subject, begun = renderer(family), {"role": "assistant", "content": "I think"}
    asked = replace(ASKED, messages=(*ASKED.messages, begun))
    (found,) = converse(
        saying(subject, " of it.", "4."), subject, [Attempted(asked, 0, Asking(user("Is it?")))], SAMPLING, HERE
    )
    assert (found.forks, found.num_turns) == ((), 2)
    chat = [*ASKED.messages, {**begun, "content": "I think of it."}, *user("Is it?")]
    whole = subject.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    read = subject.spelled((*found.prompt, *found.response[: found.turns[0]]))
    assert "".join(read.split()) == "".join(whole.split())


def test_progress_and_ends_are_told_as_for_single_turns() -> None:
    subject = renderer("smollm2")
    told: list[tuple[int, int]] = []
    ended: list[int] = []
    attempts = [Attempted(ASKED, sample, Asking(user("a")) if sample else None) for sample in range(3)]
    found = converse(
        saying(subject, *WRITTEN),
        subject,
        attempts,
        SAMPLING,
        HERE,
        lambda *n: told.append(n),
        lambda i, _: ended.append(i),
    )
    assert sorted(ended) == [0, 1, 2] and told == sorted(told)
    assert told[-1] == (sum(r.num_chosen for r in found), 3)
    assert [r.num_turns for r in found] == [1, 2, 2] and found[0].chat == () and found[0].earned is None


def test_a_world_that_crashes_stops_the_generation_and_messages_have_their_place() -> None:
    subject = renderer("smollm2")

    class Broken(Asking):
        def reply(self, text: str) -> Reply:
            raise UserError("task t: the episode's reply() crashed")

    with pytest.raises(UserError, match="crashed"):
        one(saying(subject, *WRITTEN), subject, Broken())


@pytest.mark.parametrize("packed", [True, False])
def test_a_forked_attempt_is_scored_piece_by_piece_behind_its_own_prompts(packed: bool) -> None:
    """One row of 7 tokens with two forks has the scores of three rows, in value and in gradient."""
    subject = tiny_policy()
    if not packed:
        use_attention(subject.model, "sdpa")
        subject.packs = False
    response, mask = (9, 8, 7, 30, 31, 5, 6), (True, True, False, True, True, True, True)
    forked = Tokens((5, 6), response, mask, (Fork(3, (5, 9, 9)), Fork(5, (11,))))
    alone = [
        Tokens((5, 6), response[:3], mask[:3]),
        Tokens((5, 9, 9), (30, 31), mask[3:5]),
        Tokens((11,), (5, 6), mask[5:]),
    ]
    other = Tokens((5, 6), (4, 3), (True, True))
    both_NT, _ = subject.score([other, forked, other], Sampling(), 7)
    apart = [subject.score([row], Sampling(), len(row.response))[0][0] for row in alone]
    assert both_NT[1].tolist() == pytest.approx([x for row in apart for x in row.tolist()], abs=1e-12)
    (found,) = torch.autograd.grad(both_NT[1].sum(), subject.model.get_input_embeddings().weight, retain_graph=True)
    (wanted,) = torch.autograd.grad(sum(row.sum() for row in apart), subject.model.get_input_embeddings().weight)
    torch.testing.assert_close(found, wanted)
