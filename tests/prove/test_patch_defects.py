"""The claims of the recipes since DAPO hold, and fail when the code that they are about is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from upslope.algo import advantage, more_advantages, surrogate
from upslope.algo.advantage import spread
from upslope.algo.outcome import Scored
from upslope.algo.surrogate import ImportanceRatio
from upslope.prove.claim import judged
from upslope.prove.distillation import distillation
from upslope.prove.likelihood import max_rl
from upslope.types import Batch, given

CLAIMS = {claim.name: claim for claim in (max_rl, distillation)}


@dataclass(frozen=True)
class Defect:
    """What is wrong, where, and what stands there instead of the right thing."""

    claim: str
    told: str
    of: object
    name: str
    wrong: Callable[..., object]


def only_the_right_ones(batch: Batch) -> Tensor:
    """R / mean: one term of the series more."""
    mean_N = batch.reward_N - advantage.centred(batch.reward_N, batch.group_N)
    return spread(batch.reward_N / mean_N.clamp(min=1e-9), batch.mask_NT)


def by_deviation(batch: Batch) -> Tensor:
    return advantage.GroupZScore(eps=1e-9)(batch)


def not_divided(batch: Batch) -> Tensor:
    return advantage.group_mean(batch)


def turned_round(batch: Batch) -> Tensor:
    gap_NT = given(batch.old_logp_NT, "old_logp_NT") - given(batch.reference_logp_NT, "reference_logp_NT")
    return torch.where(batch.mask_NT, gap_NT, 0)


def teacher_alone(batch: Batch) -> Tensor:
    return torch.where(batch.mask_NT, given(batch.reference_logp_NT, "reference_logp_NT"), 0)


def whole_attempt(batch: Batch) -> Tensor:
    """Every token told of all: the KL of responses, and not of the states."""
    gap_NT = given(batch.reference_logp_NT, "reference_logp_NT") - given(batch.old_logp_NT, "old_logp_NT")
    return spread(torch.where(batch.mask_NT, gap_NT, 0).sum(dim=1), batch.mask_NT)


def ratio_forgotten(self: ImportanceRatio, scored: Scored, batch: Batch) -> Tensor:
    return torch.exp(scored.logp_NT) * given(batch.advantage_NT, "advantage_NT")


DEFECTS = (
    Defect("max-rl", "one term too many", more_advantages.success_rate, "__code__", only_the_right_ones),
    Defect("max-rl", "divided by the deviation", more_advantages.success_rate, "__code__", by_deviation),
    Defect("max-rl", "not divided at all", more_advantages.success_rate, "__code__", not_divided),
    Defect("distillation", "turned round", more_advantages.teacher_gap, "__code__", turned_round),
    Defect("distillation", "the teacher alone", more_advantages.teacher_gap, "__code__", teacher_alone),
    Defect("distillation", "every token told of all", more_advantages.teacher_gap, "__code__", whole_attempt),
    Defect("distillation", "a probability for a ratio", surrogate.ImportanceRatio, "__call__", ratio_forgotten),
)


@pytest.mark.parametrize("name", CLAIMS)
def test_holds(name: str) -> None:
    verdict = judged(CLAIMS[name])
    assert verdict.failure == ""
    assert [check for check in verdict.checks if not check.holds] == []
    assert len(verdict.checks) > 10


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: f"{d.claim}: {d.told}".replace(" ", "-"))
def test_a_defect_is_seen(defect: Defect, monkeypatch: pytest.MonkeyPatch) -> None:
    if defect.name == "__code__":  # a function that recipes already hold: another body, with the names that it reads
        globals_of = defect.of.__globals__  # type: ignore[attr-defined]
        for name in ("advantage", "spread", "torch", "given"):
            monkeypatch.setitem(globals_of, name, globals()[name])
        monkeypatch.setattr(defect.of, "__code__", defect.wrong.__code__)
    else:
        monkeypatch.setattr(defect.of, defect.name, defect.wrong)
    verdict = judged(CLAIMS[defect.claim])
    assert verdict.failure == ""
    assert any(not check.holds for check in verdict.checks)
