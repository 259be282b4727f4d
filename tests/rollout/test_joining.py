"""Whoever joins a batch in the middle is written as if alone, by every kind of decoder."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from family import made
from naive import ENDS
from tiny import TOKENIZER

from upslope.model.decoder import PlainDecoder, SharedPromptDecoder
from upslope.model.hf import use_attention
from upslope.model.llama.trunk import Trunk
from upslope.model.policy import Policy
from upslope.model.precision import cast_weights
from upslope.native import build, kernels, torch_ops
from upslope.rollout.joining import Guest, JoinedRows, TokenTold
from upslope.rollout.reading import read_texts
from upslope.types import Rollout, Sampling

LONG = tuple(3 + 5 * i % 100 for i in range(70))
GUESTS = [
    Guest((7,), Sampling(max_tokens=9), seed=1, sample=0),
    Guest((9, 30, 4), Sampling(0.7, max_tokens=30), seed=2, sample=1),
    Guest(LONG, Sampling(max_tokens=70), seed=3, sample=0),
    Guest((9, 30, 4), Sampling(1.0, 5, 0.9, 3, 12), seed=4, sample=0, num_top=5),
    Guest((12, 5, 40, 41), Sampling(0.0, max_tokens=20), seed=5, sample=0),
    Guest((12, 5, 40, 41), Sampling(1.3, min_tokens=4, max_tokens=20), seed=5, sample=3),
]
KINDS = {"kernels": kernels, "torch": torch_ops, "shared": None, "plain": None}


def subject(kind: str) -> Policy:
    """float32, as the kernels need it; the others in float64, where nothing but a defect could part them."""
    model = made("llama", 0, initializer_range=0.1)
    cast_weights(model, torch.float32 if kind == "kernels" else torch.float64)
    policy = Policy(model, TOKENIZER)
    policy.renderer = replace(policy.renderer, end_ids=ENDS)
    ops = KINDS[kind]
    policy.native, policy._admit = ops is not None, lambda body: Trunk(body, ops)
    if kind == "plain":
        use_attention(model, "sdpa")
        policy.packs = False
    return policy


def table(policy: Policy, num_rows: int) -> JoinedRows:
    decoder = policy.decoder(num_rows, 70)
    return JoinedRows(decoder, num_rows, 70, policy.end_ids, policy.device)


@torch.no_grad()
def written(policy: Policy, arrivals: dict[int, list[int]], num_rows: int) -> list[list[TokenTold]]:
    """What every guest is told who joins after so many tokens, and whether the rows are all in one."""
    rows, seats, told = table(policy, num_rows), {}, [[] for _ in GUESTS]
    for moment in range(300):
        who = arrivals.get(moment, [])
        if who:
            assert rows.num_free >= len(who)
            seats |= dict(zip(rows.join([GUESTS[i] for i in who]), who, strict=True))
        for seat, token, ended in rows.step():
            told[seats[seat]].append(token)
            assert ended == (len(told[seats[seat]]) == seat.guest.sampling.max_tokens or token.id in ENDS)
    assert not rows.live
    return told


def alone(policy: Policy) -> list[list[TokenTold]]:
    return [written(policy, {0: [i]}, 1)[i] for i in range(len(GUESTS))]


def require_same(found: list[list[TokenTold]], expected: list[list[TokenTold]], gap: float) -> None:
    assert [[t.id for t in one] for one in found] == [[t.id for t in one] for one in expected]
    assert len({len(one) for one in expected}) > 3
    for mine, theirs in zip(found, expected, strict=True):
        assert [t.logp for t in mine] == pytest.approx([t.logp for t in theirs], abs=gap)
        tops = [[[i for i, logp in t.top if math.isfinite(logp)] for t in one] for one in (mine, theirs)]
        assert tops[0] == tops[1]


needs_kernels = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())
JOINING = [pytest.param("kernels", marks=needs_kernels), "torch", "shared"]


@pytest.mark.parametrize("kind", JOINING)
def test_who_joins_in_the_middle_is_written_as_if_alone(kind: str) -> None:
    """With rows to spare, and with places that others have left."""
    policy = subject(kind)
    expected = alone(policy)
    for arrivals, num_rows in (
        ({0: [2], 3: [0, 1], 4: [3], 20: [4, 5]}, 6),
        ({0: [0, 1], 40: [3], 41: [2], 60: [5], 100: [4]}, 3),
    ):
        require_same(written(policy, arrivals, num_rows), expected, 2e-5 if kind == "kernels" else 1e-9)


@pytest.mark.parametrize("kind", ["torch", "shared", "plain"])
def test_all_at_once_are_written_as_if_alone(kind: str) -> None:
    policy = subject(kind)
    require_same(written(policy, {0: [*range(6)]}, 6), alone(policy), 1e-9)


@pytest.mark.parametrize("kind", JOINING)
def test_those_who_joined_share_every_pass(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = subject(kind)
    rows = table(policy, 6)
    widths: list[int] = []
    advance = rows._decoder.advance
    monkeypatch.setattr(rows._decoder, "advance", lambda token_N: widths.append(len(token_N)) or advance(token_N))
    with torch.no_grad():
        rows.join([GUESTS[2]])
        rows.step()
        rows.join(GUESTS[3:5])
        rows.step()
    assert widths == [1, 3]


def test_nobody_joins_a_plain_batch_later() -> None:
    policy = subject("plain")
    rows = table(policy, 3)
    assert isinstance(rows._decoder, PlainDecoder) and rows.num_free == 3
    with torch.no_grad():
        rows.join(GUESTS[:3])
    assert rows.num_free == 0
    assert isinstance(subject("shared").decoder(2, 9), SharedPromptDecoder)


@pytest.mark.parametrize("kind", [*JOINING[:1], "torch"])
def test_a_table_has_no_more_rows_than_it_was_made_for(kind: str) -> None:
    decoder = subject(kind).decoder(2, 9)
    decoder.keep(torch.tensor([1]))
    decoder.widen(1)
    with pytest.raises(RuntimeError, match="a table of 2 rows has no room for 1 beside 2"):
        decoder.widen(1)


@pytest.mark.parametrize("kind", [*JOINING, "plain"])
def test_log_probabilities_are_the_learners(kind: str) -> None:
    """Of what was drawn, under what it was drawn from; of greedy decoding and of given texts, the model's."""
    policy = subject(kind)
    told = written(policy, {0: [*range(6)]}, 6)
    for guest, tokens in zip(GUESTS, told, strict=True):
        sampling = replace(guest.sampling, temperature=1.0) if guest.sampling.greedy else guest.sampling
        if sampling.top_k:  # what cannot be scored exactly by a learner
            assert all(sum(math.exp(logp) for _, logp in t.top) == pytest.approx(1.0, abs=1e-6) for t in tokens)
            continue
        expected = scored(policy, guest.prompt, tuple(t.id for t in tokens), sampling)
        assert [t.logp for t in tokens] == pytest.approx(expected, abs=1e-4 if kind == "kernels" else 1e-9)
    texts = [LONG, (7,), (9, 30, 4), LONG[:65]]
    for text, found in zip(texts, read_texts(policy, texts, 2), strict=True):
        assert [t.id for t in found] == list(text[1:])
        expected = scored(policy, text[:1], text[1:], Sampling()) if len(text) > 1 else []
        assert [t.logp for t in found] == pytest.approx(expected, abs=1e-4 if kind == "kernels" else 1e-9)
        assert all(t.top[0][1] >= max(t.top[1][1], t.logp) for t in found)


def scored(policy: Policy, prompt: tuple[int, ...], response: tuple[int, ...], sampling: Sampling) -> Any:
    rollout = Rollout("", 0, prompt, response, (True,) * len(response), None, 0, "length", "")
    with torch.no_grad():
        return policy.score([rollout], sampling, len(response))[0][0].tolist()
