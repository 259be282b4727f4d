"""Several positions between two looks: the same attempts, token for token, with few reads of the device."""

from __future__ import annotations

import pytest
import torch
from gauges import StandInGauge, holding
from naive import HERE, SAMPLING, flat, policy
from tiny import drawn, problems
from torch.utils._python_dispatch import TorchDispatchMode

from upslope.errors import NonFinite, UserError
from upslope.model import decoder
from upslope.model.hf import use_attention
from upslope.rollout import local
from upslope.rollout.base import Request
from upslope.rollout.block_draw import BLOCK, draw_in_blocks
from upslope.rollout.draw import draw
from upslope.rollout.local import LocalSampler
from upslope.types import Sampling

NO_END = torch.tensor([], dtype=torch.long)
KINDS = ("native", "shared", "plain")
HOW = [
    Sampling(max_tokens=12),
    Sampling(1.3, min_tokens=4, max_tokens=11),
    Sampling(0.8, top_k=9, top_p=0.9, max_tokens=12),
    Sampling(temperature=0, max_tokens=12),
]


def subject_of(kind):
    subject = policy(dtype=torch.float64 if kind == "plain" else torch.float32)
    subject.native = subject.native and kind == "native"
    if kind == "plain":
        use_attention(subject.model, "sdpa")
    return subject


def sampled(subject, kind, sampling, **settings):
    sampler = LocalSampler(subject, packed=kind != "plain", **settings)
    return flat(drawn(subject, problems(5), 4, sampling, HERE, by=sampler))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampling", HOW, ids=str)
def test_ends_found_afterwards_are_cut_to_the_same_attempts(kind, sampling):
    subject = subject_of(kind)
    expected = sampled(subject, kind, sampling)
    lengths = {len(r.response) for r in expected}
    assert len(lengths) > 2 or sampling.greedy, "all ended at once, so nothing was tested"
    for every, rows in ((8, 0), (5, 3), (16, 7)):
        got = sampled(subject, kind, sampling, look_every=every, max_rows=rows)
        assert [(r.response, r.ended) for r in got] == [(r.response, r.ended) for r in expected]
        pairs = [(a, b) for r, o in zip(got, expected, strict=True) for a, b in zip(r.logp, o.logp, strict=True)]
        assert max(abs(a - b) for a, b in pairs) < 1e-4


class Reads(TorchDispatchMode):
    """Counts what a device would have to be waited for: scalars that leave it, and sizes that depend on what it has."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        if name.startswith(("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique")):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_between_two_looks_nothing_is_read_from_the_device(monkeypatch):
    subject = subject_of("shared")
    read, inside = [], []
    advance, look = decoder.SharedPromptDecoder.advance, local.RunningBatch.look

    def advanced(self, token_N):
        inside.append(1)
        return advance(self, token_N)

    monkeypatch.setattr(decoder.SharedPromptDecoder, "advance", advanced)
    monkeypatch.setattr(local.RunningBatch, "look", lambda self: read.append(len(mode.names)) or look(self))
    sampler = LocalSampler(subject, look_every=6)
    with Reads() as mode:
        drawn(subject, problems(3), 4, Sampling(max_tokens=60), HERE, by=sampler)
    assert len(inside) > 3 * len(read) > 6
    # One check that all is finite stands before a look; what a look and new rows read comes after it.
    per_look = len(mode.names) / len(read)
    assert per_look <= 4, mode.names[:20]  # one for each of six positions would be six more


def test_shapes_come_again(monkeypatch):
    """Rows by powers of two, columns of the cache by 64 at a time."""
    subject, shapes = subject_of("shared"), set()
    monkeypatch.setattr(local, "COLUMNS", 8)
    opened = decoder.SharedPromptDecoder.advance

    def advance(self, token_N):
        logits = opened(self, token_N)
        shapes.add((len(token_N), self._cache._visible_NS.shape[1]))
        return logits

    monkeypatch.setattr(decoder.SharedPromptDecoder, "advance", advance)
    sampled(subject, "shared", Sampling(max_tokens=24), look_every=4)
    rows, columns = {n for n, _ in shapes}, {c for _, c in shapes}
    assert all(n == 20 or n & (n - 1) == 0 for n in rows)
    longest = max(len(subject.renderer.prompt_ids(p.messages)) for p in problems(5)) + 23
    assert len(rows) > 2 and all(c % 8 == 0 or c == longest for c in columns)


def test_logits_that_are_not_finite_are_told_at_the_next_look():
    subject = subject_of("shared")
    with torch.no_grad():
        subject.model.lm_head.weight[3, 3] = torch.nan
    with pytest.raises(NonFinite, match="logits are not finite"):
        sampled(subject, "shared", SAMPLING, look_every=4)


def test_progress_is_told_at_every_look_and_ends_at_the_totals():
    subject, seen = subject_of("shared"), []
    sampler = LocalSampler(subject, look_every=4, max_rows=6)
    rollouts = flat(drawn(subject, problems(4), 3, SAMPLING, HERE, lambda *told: seen.append(told), by=sampler))
    assert seen == sorted(seen)
    assert seen[-1] == (sum(len(r.response) for r in rollouts), len(rollouts))


@pytest.mark.parametrize("kind", KINDS)
def test_later_turns_of_attempts_are_cut_where_they_end_whenever_it_is_looked(kind):
    """Turns that begin at a token of their own, and are cut before others, beside whole attempts."""
    subject, sampling = subject_of(kind), Sampling(max_tokens=20)
    prompts = [subject.renderer.prompt_ids(p.messages) for p in problems(6)]
    spans = ((0, 0), (7, 0), (3, 11), (0, 5), (12, 19), (19, 0))
    requests = [
        Request(f"p/{i}", 0, (*prompt, *range(5, 5 + begin)), begin=begin, end=end)
        for i, (prompt, (begin, end)) in enumerate(zip(prompts, spans, strict=True))
    ]
    how = {"packed": kind != "plain"}
    expected = LocalSampler(subject, **how).generate(requests, sampling, HERE)
    assert any(r.ended == "length" for r in expected)
    for rollout, (begin, end) in zip(expected, spans, strict=True):
        assert len(rollout.response) <= (end or 20) - begin
    for every, rows in ((8, 0), (5, 2), (16, 4)):
        told = []
        sampler = LocalSampler(subject, look_every=every, max_rows=rows, **how)
        got = sampler.generate(requests, sampling, HERE, lambda *now: told.append(now))  # noqa: B023
        assert [(r.response, r.ended) for r in got] == [(r.response, r.ended) for r in expected]
        assert told == sorted(told) and told[-1] == (sum(len(r.response) for r in got), len(got))


@pytest.mark.parametrize("kind", ["shared", "plain"])
def test_turns_that_come_later_are_kept_where_attempts_begin_anew(kind):
    """Memory is short once further requests have come: those without a rollout are written again, and no others."""
    subject = subject_of(kind)
    prompts = [subject.renderer.prompt_ids(p.messages) for p in problems(5)]
    requests = [Request(p.id, n, prompt) for p, prompt in zip(problems(5), prompts, strict=True) for n in range(4)]
    how = {"packed": kind != "plain"}
    expected = LocalSampler(subject, **how).generate(requests, SAMPLING, HERE)
    other, lines, ended = subject_of(kind), [], []
    other.budgets.gauge, other.budgets.say = StandInGauge(10**9), lines.append
    later, calls = [requests[12:16], requests[16:]], [0]

    def refuse(module, given):
        calls[0] += 1
        if given[0].shape[-1] == 1 and given[0].numel() > 7 and calls[0] > 9:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def more(idle):
        return later.pop(0) if later else None

    other.model.get_input_embeddings().register_forward_pre_hook(refuse)
    sampler = LocalSampler(other, max_rows=12, **how)
    got = sampler.generate(requests[:12], SAMPLING, HERE, None, lambda place, _: ended.append(place), more)
    assert [r.response for r in got] == [r.response for r in expected]
    assert lines and sorted(ended) == list(range(20))


@pytest.mark.parametrize("kind", ["shared", "plain"])
def test_attempts_that_are_too_many_at_once_begin_anew_in_half_as_many(kind):
    subject = subject_of(kind)
    expected = sampled(subject, kind, SAMPLING)
    other, lines, seen = subject_of(kind), [], []
    other.budgets.gauge, other.budgets.say = StandInGauge(10**9), lines.append
    sampler = LocalSampler(other, packed=kind != "plain", max_rows=16)
    prompts = 400  # tokens of a pass over prompts, which is not what is too much here
    calls = [0]

    def refuse(module, given):
        calls[0] += 1
        if given[0].shape[-1] == 1 and given[0].numel() > 9 and calls[0] > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")

    other.model.get_input_embeddings().register_forward_pre_hook(refuse)
    got = flat(drawn(other, problems(5), 4, SAMPLING, HERE, lambda *told: seen.append(told), by=sampler))
    assert [r.response for r in got] == [r.response for r in expected]
    assert lines == ["out of memory while sampling 16 attempts at once: from now on at most 8"]
    assert other.budgets.caps == {"sampled_rows": 8}
    assert seen == sorted(seen) and seen[-1] == (sum(len(r.response) for r in got), len(got))
    with holding(other, prompts):
        again = flat(drawn(other, problems(5), 4, SAMPLING, HERE, by=sampler))
    assert [r.response for r in again] == [r.response for r in expected] and len(lines) == 1


def test_one_attempt_that_is_too_much_ends_it():
    subject = subject_of("shared")
    subject.budgets.say = lambda line: None
    with holding(subject, 0), pytest.raises(UserError, match="out of memory while sampling one attempt"):
        sampled(subject, "shared", SAMPLING)


def test_rows_come_from_free_memory_on_a_device():
    """2 layers x (keys, values) x 2 heads x 8 deep x 4 bytes = 256 a token, and 16 bytes a logit."""
    subject = subject_of("shared")
    each = lambda longest: 256 * longest + 16 * subject.vocabulary  # noqa: E731
    longest = max(len(subject.renderer.prompt_ids(p.messages)) for p in problems(5)) + SAMPLING.max_tokens
    subject.budgets.gauge = StandInGauge(int(7 * each(longest) / 0.7) + 100)
    sampler, sizes = LocalSampler(subject), []
    made = sampler._decoder
    sampler._decoder = lambda num, *rest: sizes.append(num) or made(num, *rest)
    drawn(subject, problems(5), 4, SAMPLING, HERE, by=sampler)
    assert sizes == [7]


def test_blocks_draw_what_the_whole_sum_draws():
    """Over several blocks; where the two sums differ by rounding, no draw here lies within it of a boundary."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 3 * BLOCK + 77, generator=generator) * 3
    uniform = torch.rand(64, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(64, dtype=torch.long)
    for sampling in (Sampling(), Sampling(0.7), Sampling(top_k=50), Sampling(top_p=0.5), Sampling(temperature=0)):
        token, logp = draw(logits.clone(), zeros, uniform, sampling, NO_END)
        found, found_logp = draw_in_blocks(logits.clone(), zeros, uniform, sampling, NO_END)
        assert torch.equal(token, found)
        assert (logp - found_logp).abs().max() < 1e-5


def test_blocks_keep_to_tokens_that_are_possible():
    """The last number below 1 and 0 itself draw the last and the first possible token; impossible ones none."""
    logits = torch.full((2, 2 * BLOCK + 5), -torch.inf)
    logits[:, [5, BLOCK - 1, BLOCK, 2 * BLOCK + 1]] = 0.0
    uniform = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    token, logp = draw_in_blocks(logits, torch.zeros(2, dtype=torch.long), uniform, Sampling(), NO_END)
    assert token.tolist() == [5, 2 * BLOCK + 1]
    assert logp.tolist() == pytest.approx([-(4**0.5) * 0.6931471805599453] * 2)
    quarters = torch.tensor([0.25, 0.5, 0.75, 0.2499999], dtype=torch.float64)
    token, _ = draw_in_blocks(logits[:1].expand(4, -1), torch.zeros(4, dtype=torch.long), quarters, Sampling(), NO_END)
    assert token.tolist() == [BLOCK - 1, BLOCK, 2 * BLOCK + 1, 5]


def test_blocks_mark_rows_that_nothing_can_be_drawn_from():
    logits = torch.zeros(3, 9)
    logits[0, 4], logits[1] = torch.nan, -torch.inf
    token, logp = draw_in_blocks(logits, torch.zeros(3, dtype=torch.long), torch.full((3,), 0.5), Sampling(), NO_END)
    assert token.tolist() == [0, 0, 4]
    assert logp.isnan().tolist() == [True, True, False]
