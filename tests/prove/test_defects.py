"""Every claim fails when the code it is about is wrong: defects planted in the functions that train."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from upslope.algo import advantage, aggregate, conjugate, objective, regulariser, sample, update
from upslope.algo.advantage import ConstantBaseline, GroupZScore, spread
from upslope.algo.shape import SoftOverlong
from upslope.algo.surrogate import ClippedRatio, ImportanceRatio
from upslope.algo.update import KLBall
from upslope.model import head, policy
from upslope.model.layout import Layout
from upslope.model.policy import Said
from upslope.prove import world
from upslope.prove.catalogue import CLAIMS
from upslope.prove.claim import judged
from upslope.train import landscape, learner, prepare
from upslope.train.landscape import Landscape
from upslope.types import Batch, Group, Rollout, Sampling, given

Plant = Callable[[pytest.MonkeyPatch], object]


@dataclass(frozen=True)
class Defect:
    """What is wrong, and how to make it so."""

    claim: str
    told: str
    plant: Plant
    raises: bool = False
    """Whether production itself notices and stops."""


def putting(target: Any, name: str, wrong: Any) -> Plant:
    return lambda monkeypatch: monkeypatch.setattr(target, name, wrong)


def adjusting(*where: Any, wrong: Any) -> Plant:
    """Another distribution made of the same logits, wherever one is."""
    return lambda monkeypatch: [monkeypatch.setattr(module, "adjusted", wrong) for module in (policy, head, *where)]


def rewriting(function: Any, wrong: Any) -> Plant:
    """Give a function that recipes already hold another body."""
    return lambda monkeypatch: monkeypatch.setattr(function, "__code__", wrong.__code__)


# -- what goes wrong ------------------------------------------------------------------------------------------------

right_logp_R = Said.logp_R
right_weighted_sum = objective.weighted_sum
right_centred = advantage.centred
right_silent_rows = learner.silent_rows
right_adjusted = policy.adjusted
right_lay_out = policy.lay_out
right_before_tokens = policy.before_tokens
right_gae = advantage.generalised_advantage
right_slopes = Landscape._kl_slopes
right_judge = learner.judge


def in_bits(self: Said) -> Tensor:
    return right_logp_R.fget(self) / math.log(2)  # type: ignore[attr-defined]


def mean_over_tokens(value_NT: Tensor, weight_N: Tensor | None, name: str, batch: Batch) -> Tensor:
    return right_weighted_sum(value_NT / batch.mask_NT.sum(dim=1, keepdim=True), weight_N, name, batch)


def per_micro_batch(value_NT: Tensor, weight_N: Tensor | None, name: str, batch: Batch) -> Tensor:
    weight = given(weight_N, name)
    return right_weighted_sum(value_NT, weight / weight.sum() / batch.num_rollouts, name, batch)


def keep_all(group: Group) -> Group | None:
    return group


def halved(batch: Batch) -> Tensor:
    return spread(torch.ones_like(batch.reward_N) / 2, batch.mask_NT)


def baseline_as_factor(self: ConstantBaseline, batch: Batch) -> Tensor:
    return spread(batch.reward_N * (1 - self.value), batch.mask_NT)


def without_own(value_N: Tensor, group_N: Tensor) -> Tensor:
    size_N = advantage.size_by_group(value_N, group_N)
    return right_centred(value_N, group_N) * size_N / (size_N - 1).clamp(min=1)


def only_centred(self: GroupZScore, batch: Batch) -> Tensor:
    return spread(right_centred(batch.reward_N, batch.group_N), batch.mask_NT)


def all_but_the_first(batch: Batch, recipe: Any) -> list[bool]:
    return [n == 0 for n in range(batch.num_rollouts)]


def silent_despite_leash(batch: Batch, recipe: Any) -> list[bool]:
    return right_silent_rows(batch, recipe.patch(regulariser=regulariser.no_leash))


def silent_if_unrewarded(batch: Batch, recipe: Any) -> list[bool]:
    return (batch.reward_N == 0).tolist()


def always_by_token(self: ImportanceRatio, logp_NT: Tensor, batch: Batch) -> Tensor:
    return torch.where(batch.mask_NT, logp_NT - given(batch.sampler_logp_NT, ""), 0)


def upside_down(self: ImportanceRatio, logp_NT: Tensor, batch: Batch) -> Tensor:
    return torch.where(batch.mask_NT, 2 * logp_NT.detach() - logp_NT - given(batch.sampler_logp_NT, ""), 0)


def constant_ratio(self: ImportanceRatio, logp_NT: Tensor, batch: Batch) -> Tensor:
    return torch.where(batch.mask_NT, (logp_NT - given(batch.sampler_logp_NT, "")).detach() + 0 * logp_NT, 0)


def clip(self: ClippedRatio, logp_NT: Tensor, batch: Batch, low: float, high: float, choose: Any) -> Tensor:
    ratio_NT, advantage_NT = torch.exp(self.log_ratio(logp_NT, batch)), given(batch.advantage_NT, "")
    return choose(ratio_NT * advantage_NT, ratio_NT.clamp(1 - low, 1 + high) * advantage_NT)  # type: ignore[no-any-return]


def larger_of_both(self: ClippedRatio, logp_NT: Tensor, batch: Batch) -> Tensor:
    return clip(self, logp_NT, batch, self.low, self.high, torch.maximum)


def sides_swapped(self: ClippedRatio, logp_NT: Tensor, batch: Batch) -> Tensor:
    return clip(self, logp_NT, batch, self.high, self.low, torch.minimum)


def clipped_alone(self: ClippedRatio, logp_NT: Tensor, batch: Batch) -> Tensor:
    return clip(self, logp_NT, batch, self.low, self.high, lambda plain, clipped: clipped)


def k3_of_the_other_sign(logp_NT: Tensor, reference_NT: Tensor) -> Tensor:
    difference_NT = logp_NT - reference_NT
    return torch.expm1(difference_NT) - difference_NT


def k1_of_the_other_sign(logp_NT: Tensor, reference_NT: Tensor) -> Tensor:
    return reference_NT - logp_NT


def k2_without_half(logp_NT: Tensor, reference_NT: Tensor) -> Tensor:
    return (logp_NT - reference_NT) ** 2


def one_parameter_forgotten(self: Landscape) -> Iterator[Sequence[Tensor | None]]:
    for slopes in right_slopes(self):
        yield [None, *slopes[1:]]


def kl_turned_round(logp_RV: Tensor, other_RV: Tensor) -> Tensor:
    """KL(now || old): the same curvature at the origin, another distance."""
    return (other_RV.exp() * (other_RV - logp_RV)).sum(dim=1)


def steepest_descent(product: Any, b: Tensor, *, iterations: int, tolerance: float = 1e-10) -> conjugate.Solution:
    """Conjugate gradients that forget to conjugate."""
    x = torch.zeros_like(b)
    for _ in range(min(iterations, 30)):
        residual = b - product(x)
        x = x + residual * float(residual @ residual) / float(residual @ product(residual))
    return conjugate.Solution(x, 0.0, iterations, True)


def no_line_search(self: KLBall, terrain: Any, direction: Tensor, *_: Any) -> dict[str, float]:
    terrain.move(direction * (4 * self.delta / float(direction @ terrain.fisher_product(direction))) ** 0.5)
    return self.report(0, 0) | {"kl_update": terrain.measure()[1], "gain": 0.0}


def values_one_late(reward_NT: Tensor, value_NT: Tensor, mask_NT: Tensor, gamma: float, lam: float) -> Tensor:
    return right_gae(reward_NT, value_NT.roll(1, dims=1), mask_NT, gamma, lam)


def lambda_on_the_value(reward_NT: Tensor, value_NT: Tensor, mask_NT: Tensor, gamma: float, lam: float) -> Tensor:
    return right_gae(reward_NT, value_NT, mask_NT, gamma * lam, 1.0)


def outcome_at_first(reward_N: Tensor, mask_NT: Tensor) -> Tensor:
    reward_NT = torch.zeros(mask_NT.shape, dtype=reward_N.dtype)
    reward_NT[:, 0] = reward_N
    return reward_NT


def group_median(value_N: Tensor, group_N: Tensor) -> Tensor:
    return value_N - torch.stack([value_N[group_N == g].median() for g in group_N])


def padded_lengths(batch: Batch) -> Tensor:
    return torch.full_like(batch.reward_N, batch.mask_NT.shape[1])


def ramp_from_zero(self: SoftOverlong, batch: Batch) -> Tensor:
    return batch.reward_N - aggregate.lengths(batch) / batch.limit


def filter_before_comparing(batch: Batch, recipe: Any) -> Batch:
    if getattr(recipe.sample, "drop_truncated", False):
        batch = batch.take((~batch.truncated_N).nonzero()[:, 0].tolist())
    return right_judge(batch, recipe)


def temperature_ignored(logits_RV: Tensor, position_R: Tensor, sampling: Sampling, end_ids: Tensor) -> Tensor:
    return right_adjusted(logits_RV, position_R, replace(sampling, temperature=1.0), end_ids)


def ban_ignored(logits_RV: Tensor, position_R: Tensor, sampling: Sampling, end_ids: Tensor) -> Tensor:
    return right_adjusted(logits_RV, position_R, replace(sampling, min_tokens=0), end_ids)


def branches_blind(*args: Any, **kwargs: Any) -> Layout:
    """Attempts that share a prompt do not see its first token."""
    layout = right_lay_out(*args, **kwargs)
    for segments in layout.segments:
        if segments.visible_B1LS is not None:
            segments.visible_B1LS[:, :, :, 0] = False
    return layout


def every_token_chosen(rollouts: Sequence[Rollout], *args: Any, **kwargs: Any) -> Layout:
    return right_lay_out([replace(r, mask=(True,) * len(r.mask)) for r in rollouts], *args, **kwargs)


def hotter_is_colder(logits_RV: Tensor, position_R: Tensor, sampling: Sampling, end_ids: Tensor) -> Tensor:
    return right_adjusted(logits_RV, position_R, replace(sampling, temperature=1 / sampling.temperature), end_ids)


def one_position_late(out_NSX: Tensor, rollouts: Sequence[Any]) -> Tensor:
    return right_before_tokens(out_NSX.roll(-1, dims=1), rollouts)


DEFECTS = [
    Defect("log-derivative", "logarithms to base 2", putting(Said, "logp_R", property(in_bits))),
    Defect("log-derivative", "tokens scored a position late", putting(policy, "before_tokens", one_position_late)),
    Defect("log-derivative", "tokens scored that were not chosen", putting(policy, "lay_out", every_token_chosen)),
    Defect("reinforce", "a mean over tokens for the sum", putting(objective, "weighted_sum", mean_over_tokens)),
    Defect("reinforce", "a row lost", putting(learner, "silent_rows", all_but_the_first)),
    Defect("imitation", "RFT keeps wrong attempts too", rewriting(sample.rewarded, keep_all)),
    Defect("imitation", "imitated with half the reward", rewriting(advantage.ones, halved)),
    Defect("constant-baseline", "the baseline scales", putting(ConstantBaseline, "__call__", baseline_as_factor)),
    Defect("group-baselines", "the group mean leaves out its own", putting(advantage, "centred", without_own)),
    Defect("group-baselines", "the z-score is not divided", putting(GroupZScore, "__call__", only_centred)),
    Defect("equal-groups", "rows skipped despite the leash", putting(learner, "silent_rows", silent_despite_leash)),
    Defect("equal-groups", "rows skipped for want of reward", putting(learner, "silent_rows", silent_if_unrewarded)),
    Defect("importance", "a trajectory weighed token by token", putting(ImportanceRatio, "log_ratio", always_by_token)),
    Defect("ppo-clip", "the larger of both", putting(ClippedRatio, "__call__", larger_of_both)),
    Defect("ppo-clip", "no minimum", putting(ClippedRatio, "__call__", clipped_alone)),
    Defect("kl-leash", "k3 of the other sign", putting(regulariser, "estimate_k3", k3_of_the_other_sign)),
    Defect("kl-leash", "k1 of the other sign", putting(regulariser, "estimate_k1", k1_of_the_other_sign)),
    Defect("kl-leash", "k2 without its half", putting(regulariser, "estimate_k2", k2_without_half)),
    Defect("natural-gradient", "a parameter forgotten", putting(Landscape, "_kl_slopes", one_parameter_forgotten)),
    Defect("natural-gradient", "directions not conjugate", putting(update, "conjugate_gradients", steepest_descent)),
    Defect("natural-gradient", "no line search", putting(KLBall, "search", no_line_search)),
    Defect("natural-gradient", "the KL the other way round", putting(landscape, "divergence", kl_turned_round)),
    Defect(
        "gae", "the next state's value for this one's", putting(advantage, "generalised_advantage", values_one_late)
    ),
    Defect("gae", "lambda on the value too", putting(advantage, "generalised_advantage", lambda_on_the_value)),
    Defect("grpo-is-ppo", "the outcome at the first token", putting(prepare, "outcome_at_last", outcome_at_first)),
    Defect("grpo-is-ppo", "the group's median", putting(advantage, "centred", group_median)),
    Defect("length", "lengths with padding", putting(aggregate, "lengths", padded_lengths)),
    Defect("dapo-rules", "clip's sides swapped", putting(ClippedRatio, "__call__", sides_swapped)),
    Defect("dapo-rules", "punished from the first token", putting(SoftOverlong, "__call__", ramp_from_zero)),
    Defect("dapo-rules", "filtered before compared", putting(learner, "judge", filter_before_comparing)),
    Defect("sampling-distribution", "temperature ignored", adjusting(wrong=temperature_ignored)),
    Defect(
        "sampling-distribution",
        "temperature upside down, everywhere",
        adjusting(world, wrong=hotter_is_colder),
    ),
    Defect("sampling-distribution", "the ban ignored", adjusting(wrong=ban_ignored)),
    Defect("sampling-distribution", "top-k admitted", putting(learner, "require_scorable", lambda sampling: None)),
    Defect("splitting", "denominators of each micro-batch", putting(objective, "weighted_sum", per_micro_batch)),
    Defect("splitting", "packed attempts miss a token", putting(policy, "lay_out", branches_blind)),
    Defect(
        "splitting", "the mask forgotten", putting(objective, "masked", lambda value_NT, batch: value_NT), raises=True
    ),
    Defect("detached-ratio", "no gradient through the ratio", putting(ImportanceRatio, "log_ratio", constant_ratio)),
    Defect("detached-ratio", "the ratio's gradient reversed", putting(ImportanceRatio, "log_ratio", upside_down)),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: f"{d.claim}: {d.told}".replace(" ", "-"))
def test_a_defect_is_seen(defect: Defect, monkeypatch: pytest.MonkeyPatch) -> None:
    (claim,) = [c for c in CLAIMS if c.name == defect.claim]
    defect.plant(monkeypatch)
    verdict = judged(claim)
    assert not verdict.holds
    assert bool(verdict.failure) == defect.raises
    assert defect.raises or any(not check.holds for check in verdict.checks)


def test_every_claim_has_a_defect() -> None:
    assert {d.claim for d in DEFECTS} == {c.name for c in CLAIMS}
