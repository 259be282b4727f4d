"""The learner's gradient through the native path: rows alone or packed, prompts shared or not, the head in chunks."""

import functools
from dataclasses import replace

import pytest
import torch
from tiny import TOKENIZER, drawn, learner

from upslope.algo.family import GRPO
from upslope.algo.objective import Objective
from upslope.learn.prepare import weigh
from upslope.model import layout, scores
from upslope.model.pocket import build_model
from upslope.model.policy import Policy
from upslope.model.precision import cast_weights
from upslope.rollout.address import Address
from upslope.tasks.pocket_problems import open_pocket
from upslope.types import Group, Sampling, Score

SAMPLING = Sampling(0.9, max_tokens=40, min_tokens=1)


@functools.cache
def groups():
    """Eight attempts at each of six problems, by the pocket model as it starts: some end early, most run on. Rewards
    are made up, as such a model would earn none."""
    subject = Policy(build_model(0), TOKENIZER)
    problems = open_pocket().problems("train")[:6]
    subject.renderer = replace(subject.renderer, end_ids=(*subject.end_ids, *range(20, 30)))
    found = drawn(subject, problems, 8, SAMPLING, Address(0, "sample"))
    assert len({len(r.response) for rollouts in found for r in rollouts}) > 5
    return [
        Group(p, tuple(replace(r, score=Score(float((3 * i + r.sample) % 4 == 0))) for r in rollouts))
        for i, (p, rollouts) in enumerate(zip(problems, found, strict=True))
    ]


def gradient(dtype, native=True, checkpointing=False, **settings):
    """All parameters' gradients as one vector; the batch's old log-probabilities are moved so that ratios are not 1."""
    model = build_model(0)
    cast_weights(model, dtype)
    of = Policy(model, TOKENIZER)
    assert (of.fast_trunk is not None) is (dtype == torch.float32)
    of.native, of.checkpointing = of.native and native, checkpointing
    subject = learner(GRPO, of=of, dtype=dtype, sampling=SAMPLING, **settings)
    batch = weigh(subject.prepare(groups()), GRPO)
    if batch.old_logp_NT is not None:
        batch = replace(batch, old_logp_NT=batch.old_logp_NT + 0.05 * batch.mask_NT)
    subject.gradient(Objective(GRPO), batch)
    return torch.cat([m.grad.double().flatten() for m in subject.optimizer.masters.values()])


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


def whole(monkeypatch):
    return {}


def row_by_row(monkeypatch):
    return {"micro_batch": 1}


def three_rows_at_a_time(monkeypatch):
    return {"micro_batch": 3}


def chunked(monkeypatch):
    monkeypatch.setattr(scores, "HEAD_BUDGET", 50 * len(TOKENIZER))
    return {}


def unshared(monkeypatch):
    plain = layout.lay_out
    monkeypatch.setattr("upslope.model.policy.lay_out", lambda *args, share_prompts: plain(*args, share_prompts=False))
    return {}


def computed_again(monkeypatch):
    return {"checkpointing": True}


@functools.cache
def truth():
    """float64, through transformers, all at once."""
    return gradient(torch.float64)


WAYS = [whole, row_by_row, three_rows_at_a_time, chunked, unshared, computed_again]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_gives_one_gradient_in_float32(way, monkeypatch):
    """Ways differ by up to 4.4e-7. Against float64 each is off by 9e-7, as transformers is in float32."""
    expected = gradient(torch.float32)
    found = gradient(torch.float32, **way(monkeypatch))
    assert error(found, expected) <= 1e-6
    assert error(found, truth()) <= 2e-6
    if way is computed_again:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("way", WAYS[1:-1], ids=lambda way: way.__name__)
def test_every_way_gives_one_gradient_in_float64(way, monkeypatch):
    expected = truth()
    assert error(gradient(torch.float64, **way(monkeypatch)), expected) <= 1e-10


def test_the_path_through_transformers_gives_the_same_gradient():
    """9e-7, the sum of two errors that are as large."""
    assert error(gradient(torch.float32), gradient(torch.float32, native=False)) <= 2e-6
