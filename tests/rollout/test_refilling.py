"""A place whose attempt ended goes to the next in the queue; what anybody writes does not depend on it."""

import naive
import pytest
import torch
from naive import HERE, SAMPLING, continued, flat, policy, watched
from tiny import drawn, model, problems

from upslope.model.decoder import PlainDecoder, SharedPromptDecoder
from upslope.model.hf import use_attention

PROMPTS = [(7,), (9, 30, 4), (7,), (12, 5, 40, 41, 8, 9, 77), (31, 2, 3), (6, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59)]
"""By problem: single tokens, equal ones, and longer ones later."""


def prompted(packed):
    """A policy whose problem i has prompt ``PROMPTS[i]``."""
    subject = naive.prompted(policy(), PROMPTS)
    if not packed:
        use_attention(subject.model, "sdpa")
    return subject


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("max_rows", [1, 2, 5, 17, 0])
def test_every_size_of_table_gives_what_the_naive_way_gives(packed, max_rows):
    """Prompts of one token, prompts longer than any before, attempts that end at different times."""
    got = drawn(prompted(packed), problems(6), 3, SAMPLING, HERE, max_rows=max_rows, packed=packed)
    assert len({len(r.response) for r in flat(got)}) > 3
    plain = model()
    for problem, prompt, attempts in zip(problems(6), PROMPTS, got, strict=True):
        assert [r.sample for r in attempts] == [0, 1, 2]
        for attempt in attempts:
            tokens, logps, ended = continued(plain, list(prompt), problem, attempt.sample, SAMPLING)
            assert (attempt.prompt, attempt.response, attempt.ended) == (prompt, tuple(tokens), ended)
            assert attempt.logp == pytest.approx(logps, abs=1e-10)


def test_rows_carried_along_after_their_end_disturb_nobody():
    """The longest row goes on for three times what it was made for, while the other one is refilled twice."""
    subject, plain = prompted(True), model()
    decoder = SharedPromptDecoder(subject.model, 2, 4)
    with torch.no_grad():
        decoder.place([0], [PROMPTS[5]])
        for prompt in (PROMPTS[1], PROMPTS[4], PROMPTS[3]):
            decoder.place([1], [prompt])
            ids = list(prompt)
            for _ in range(4):
                logits = decoder.advance(torch.tensor([0, ids[-1]]))[1]
                assert torch.allclose(logits, plain(input_ids=torch.tensor([ids])).logits[0, -1], atol=1e-10)
                ids.append(int(logits.argmax()))


@pytest.mark.parametrize("packed", [True, False])
def test_an_engine_that_drops_no_row_writes_the_same(packed, monkeypatch):
    kind = SharedPromptDecoder if packed else PlainDecoder
    monkeypatch.setattr(kind, "slack", 1.0)
    monkeypatch.setattr(kind, "keep", None)
    got = drawn(prompted(packed), problems(6), 3, SAMPLING, HERE, max_rows=4, packed=packed)
    expected = drawn(prompted(True), problems(6), 3, SAMPLING, HERE)
    assert [r.response for r in flat(got)] == [r.response for r in flat(expected)]


def test_the_table_is_full_while_anybody_waits(monkeypatch):
    subject = policy()
    widths, _ = watched(subject, monkeypatch)
    rollouts = flat(drawn(subject, problems(5), 4, SAMPLING, HERE, max_rows=4))
    tokens_drawn = num_begun = 0
    left = [len(r.response) for r in rollouts]
    table = []
    for width in widths:
        while left and len(table) < 4:
            table.append(left.pop(0))
            num_begun += 1
        assert width == 4 if left else len(table) <= width <= 4
        tokens_drawn += len(table)
        table = [n - 1 for n in table if n > 1]
    assert num_begun == 20 and tokens_drawn == sum(len(r.response) for r in rollouts)


def test_a_prompt_is_computed_once_though_its_group_does_not_fit_the_table(monkeypatch):
    subject, asked = policy(), problems(3)
    _, prompts = watched(subject, monkeypatch)
    drawn(subject, asked, 9, SAMPLING, HERE, max_rows=4)
    assert sum(prompts) == sum(len(subject.renderer.prompt_ids(p.messages)) - 1 for p in asked)


def test_both_decoders_say_what_the_whole_sequences_say():
    """Placed out of order, one prompt twice; rows dropped and turned round; in ours two rows begin anew, one with the
    prompt of the other, and the table is widened."""
    plain, prompts, rows = model(), [PROMPTS[3], PROMPTS[0], PROMPTS[1], PROMPTS[3]], [2, 0, 3, 1]
    for packed in (True, False):
        subject = prompted(packed)
        decoder = (SharedPromptDecoder if packed else PlainDecoder)(subject.model, 4, 8)
        text = [list(PROMPTS[i]) for i in (0, 3, 3, 1)]

        def agree(decoder=decoder, text=text):
            logits = decoder.advance(torch.tensor([t[-1] for t in text]))
            for row, ids in zip(logits, text, strict=True):
                assert torch.allclose(row, plain(input_ids=torch.tensor([ids])).logits[0, -1], atol=1e-10)
            for i, ids in enumerate(text):
                ids.append(20 + len(ids) + i)

        with torch.no_grad():
            decoder.place(rows, prompts)
            agree()
            agree()
            decoder.keep(torch.tensor([2, 3, 0]))
            text[:] = [text[2], text[3], text[0]]
            agree()
            if packed:
                decoder.place([1, 0], [PROMPTS[3], PROMPTS[5]])  # row 0 held what row 1 is given
                text[:2] = [list(PROMPTS[5]), list(PROMPTS[3])]
                agree()
                agree()
            else:
                with pytest.raises(RuntimeError, match="begin at once"):
                    decoder.place([1], [PROMPTS[3]])


def test_a_group_is_handed_over_once_when_its_last_attempt_ends():
    subject, asked = policy(), problems(5)
    events = []
    got = drawn(
        subject,
        asked,
        4,
        SAMPLING,
        HERE,
        lambda tokens, rows: events.append(rows),
        lambda index, rollouts: events.append((index, rollouts)),
        max_rows=3,
    )
    groups = [event for event in events if isinstance(event, tuple)]
    assert sorted(index for index, _ in groups) == [0, 1, 2, 3, 4]
    assert all(rollouts == got[index] for index, rollouts in groups)
    assert events.index(groups[0]) < events.index(12), "the first group came only when most rows had ended"


def test_what_a_listener_raises_ends_the_generation(monkeypatch):
    subject = policy()
    widths, _ = watched(subject, monkeypatch)

    def refuse(index, rollouts):
        raise LookupError(index)

    with pytest.raises(LookupError):
        drawn(subject, problems(5), 2, SAMPLING, HERE, None, refuse, max_rows=2)
    assert len(widths) <= 2 * SAMPLING.max_tokens
