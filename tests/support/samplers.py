"""Every kind of sampler, and what all of them are asked."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from naive import ENDS, HERE, SAMPLING, policy

from upslope.model.hf import use_attention
from upslope.rollout.base import Request, Sampler
from upslope.rollout.local import LocalSampler
from upslope.rollout.scripted import ScriptedSampler
from upslope.types import Rollout, Sampling

Make = Callable[[Sampling], Sampler]
PROMPTS = [(7,), (9, 30, 4), (12, 5, 40, 41, 8, 9, 77)]
REQUESTS = [Request(f"toy/{i}", sample, prompt) for i, prompt in enumerate(PROMPTS) for sample in (0, 1, 2)]
SAMPLINGS = [SAMPLING, Sampling(0.7, 5, 0.9, 3, 10), Sampling(0.0, max_tokens=8), Sampling(min_tokens=4, max_tokens=4)]


def packed(_: Sampling) -> Sampler:
    return LocalSampler(policy(), max_rows=4)


def plain(_: Sampling) -> Sampler:
    subject = policy()
    use_attention(subject.model, "sdpa")
    return LocalSampler(subject, max_rows=4, packed=False)


def scripted(sampling: Sampling) -> Sampler:
    """Responses of every length that the sampling allows, some ended and some cut."""

    def write(request: Request) -> tuple[list[int], list[float]]:
        rng = random.Random(f"{request.problem_id}/{request.sample}")
        length = min(rng.randint(sampling.min_tokens + 1, 2 * sampling.max_tokens), sampling.max_tokens)
        tokens = [rng.choice([t for t in range(50) if t not in ENDS]) for _ in range(length)]
        if length < sampling.max_tokens:
            tokens[-1] = ENDS[length % len(ENDS)]
        return tokens, [-rng.random() for _ in tokens]

    return ScriptedSampler(write, end_ids=ENDS, max_positions=256)


every = pytest.mark.parametrize("make", [packed, plain, scripted], ids=lambda make: make.__name__)


def require_told_once(sampler: Sampler) -> None:
    """It tells of every rollout once, with its place, and after the progress that counts it."""
    progress: list[tuple[int, int]] = []
    told: dict[int, Rollout] = {}

    def finished(place: int, rollout: Rollout) -> None:
        assert place not in told
        told[place] = rollout
        assert progress[-1][1] >= len(told)

    got = sampler.generate(REQUESTS, SAMPLING, HERE, lambda *now: progress.append(now), finished)
    assert [told[place] for place in range(len(REQUESTS))] == got
    assert all(b[0] >= a[0] and b[1] >= a[1] for a, b in itertools.pairwise(progress))
    assert progress[-1] == (sum(len(r.response) for r in got), len(got))
    assert progress[0][1] < len(got), "all of it came at the end"
