"""Every claim fails when the code it is about is wrong: defects planted in the functions that train."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from upslope.algo import (
    advantage,
    aggregate,
    conjugate,
    correction,
    critic,
    learnable,
    objective,
    regulariser,
    sample,
    turn_advantage,
    update,
)
from upslope.algo.advantage import ConstantBaseline, GroupZScore, spread
from upslope.algo.correction import MaskedWeights, TruncatedWeights
from upslope.algo.critic import SharedTrunk
from upslope.algo.log_ratio import log_ratio_to_sampler
from upslope.algo.objective import Objective
from upslope.algo.outcome import Scored
from upslope.algo.regulariser import EntropyBonus, SampledPenalty
from upslope.algo.shape import SoftOverlong
from upslope.algo.surrogate import ClippedRatio, ClippedWeight, ImportanceRatio, SequenceRatio
from upslope.algo.update import KLBall
from upslope.learn import learner, prepare, scorer, trust_region
from upslope.learn.critic_learner import CriticLearner
from upslope.learn.optimizer import LocalOptimizer
from upslope.learn.trust_region import MeasuredRegion
from upslope.model import head, policy
from upslope.model.distribution import TokenDistributions
from upslope.model.layout import HasTokens, Layout, Tokens
from upslope.prove import draws, world
from upslope.prove.catalogue import CLAIMS
from upslope.prove.claim import judged
from upslope.rollout import local
from upslope.training import statistics
from upslope.training.collect import Collected, Collector
from upslope.training.known import KnownProblems
from upslope.types import Batch, Group, Sampling, given

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

right_logp_R = TokenDistributions.logp_R
right_weighted_sum = objective.weighted_sum
right_centred = advantage.centred
right_rows = Objective.without_gradient
right_adjusted = policy.adjusted
right_lay_out = policy.lay_out
right_before_tokens = policy.before_tokens
right_gae = advantage.generalised_advantage
right_slopes = MeasuredRegion._kl_slopes
right_judge = learner.judge
right_disagreement = correction.disagreement
right_cut = MaskedWeights.cut
right_z_score = GroupZScore.__call__
right_bonus = EntropyBonus.__call__
right_value_error = critic.value_error
right_step = LocalOptimizer.step
right_search = KLBall.search
right_draw = draws.draw
right_refilled = Collector._refilled
right_outcome = prepare.outcome_at_last


def in_bits(self: TokenDistributions) -> Tensor:
    return right_logp_R.fget(self) / math.log(2)  # type: ignore[attr-defined]


def mean_over_tokens(value_NT: Tensor, weight_NT: Tensor | None, name: str, batch: Batch) -> Tensor:
    return right_weighted_sum(value_NT / batch.mask_NT.sum(dim=1, keepdim=True), weight_NT, name, batch)


def per_micro_batch(value_NT: Tensor, weight_NT: Tensor | None, name: str, batch: Batch) -> Tensor:
    weight = given(weight_NT, name)
    return right_weighted_sum(value_NT, weight / weight[:, 0].sum() / batch.num_rollouts, name, batch)


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


def all_but_the_first(self: Objective, batch: Batch) -> list[bool]:
    return [n == 0 for n in range(batch.num_rollouts)]


def skipped_despite_penalty(self: Objective, batch: Batch) -> list[bool]:
    return right_rows(Objective(self.recipe.patch(regulariser=regulariser.no_penalty)), batch)


def skipped_if_unrewarded(self: Objective, batch: Batch) -> list[bool]:
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


def larger_of_both(self: ClippedRatio, scored: Scored, batch: Batch) -> Tensor:
    return clip(self, scored.logp_NT, batch, self.low, self.high, torch.maximum)


def sides_swapped(self: ClippedRatio, scored: Scored, batch: Batch) -> Tensor:
    return clip(self, scored.logp_NT, batch, self.high, self.low, torch.minimum)


def clipped_alone(self: ClippedRatio, scored: Scored, batch: Batch) -> Tensor:
    return clip(self, scored.logp_NT, batch, self.low, self.high, lambda plain, clipped: clipped)


def k3_of_the_other_sign(logp_NT: Tensor, reference_NT: Tensor) -> Tensor:
    difference_NT = logp_NT - reference_NT
    return torch.expm1(difference_NT) - difference_NT


def k1_of_the_other_sign(logp_NT: Tensor, reference_NT: Tensor) -> Tensor:
    return reference_NT - logp_NT


def k2_without_half(logp_NT: Tensor, reference_NT: Tensor) -> Tensor:
    return (logp_NT - reference_NT) ** 2


def one_parameter_forgotten(self: MeasuredRegion) -> Iterator[Sequence[Tensor | None]]:
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


def no_line_search(self: KLBall, region: Any, direction: Tensor, *_: Any) -> dict[str, float]:
    region.move(direction * (4 * self.delta / float(direction @ region.fisher_product(direction))) ** 0.5)
    return self.report(0, 0) | {"kl_update": region.measure()[1], "gain": 0.0}


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
    return right_outcome(batch.reward_N - aggregate.lengths(batch) / batch.limit, batch.mask_NT)


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


def every_token_chosen(rollouts: Sequence[HasTokens], *args: Any, **kwargs: Any) -> Layout:
    return right_lay_out([Tokens(r.prompt, r.response, (True,) * len(r.mask)) for r in rollouts], *args, **kwargs)


def hotter_is_colder(logits_RV: Tensor, position_R: Tensor, sampling: Sampling, end_ids: Tensor) -> Tensor:
    return right_adjusted(logits_RV, position_R, replace(sampling, temperature=1 / sampling.temperature), end_ids)


def one_position_late(out_NSX: Tensor, rollouts: Sequence[Any]) -> Tensor:
    return right_before_tokens(out_NSX.roll(-1, dims=1), rollouts)


def product_of_ratios(self: SequenceRatio, logp_NT: Tensor, batch: Batch) -> Tensor:
    difference_NT = torch.where(batch.mask_NT, logp_NT - given(batch.old_logp_NT, ""), 0)
    return difference_NT.sum(dim=1, keepdim=True).expand_as(difference_NT)


def sequence_sides_swapped(self: SequenceRatio, scored: Scored, batch: Batch) -> Tensor:
    ratio_NT, advantage_NT = torch.exp(self.log_ratio(scored.logp_NT, batch)), given(batch.advantage_NT, "")
    return torch.minimum(ratio_NT * advantage_NT, ratio_NT.clamp(1 - self.high, 1 + self.low) * advantage_NT)


def unbounded(self: ClippedWeight, scored: Scored, batch: Batch) -> Tensor:
    ratio_NT = torch.exp(self.log_ratio(scored.logp_NT.detach(), batch))
    return ratio_NT * given(batch.advantage_NT, "") * scored.logp_NT


def dual_where_it_is_good(self: ClippedRatio, scored: Scored, batch: Batch) -> Tensor:
    value_NT, advantage_NT = (
        clip(self, scored.logp_NT, batch, self.low, self.high, torch.minimum),
        given(batch.advantage_NT, ""),
    )
    if not self.dual:
        return value_NT
    return torch.where(advantage_NT > 0, torch.maximum(value_NT, self.dual * advantage_NT), value_NT)


def no_ratio(self: ImportanceRatio, scored: Scored, batch: Batch) -> Tensor:
    return given(batch.advantage_NT, "") * scored.logp_NT


def uncapped(self: TruncatedWeights, scored: Scored, batch: Batch) -> Tensor:
    return right_disagreement(batch, self.level)


def by_last_token(batch: Batch, level: str) -> Tensor:
    """The gap at an attempt's last token for the gap at each of them: one version wrote it all."""
    log_NT = log_ratio_to_sampler(given(batch.old_logp_NT, ""), batch)
    last_N = batch.mask_NT.sum(dim=1) - 1
    return (log_NT.gather(1, last_N[:, None]) * batch.mask_NT.sum(dim=1, keepdim=True)).exp().expand_as(log_NT)


def sampler_over_learner(batch: Batch, level: correction.Level) -> Tensor:
    return 1 / right_disagreement(batch, level)


def drop_what_agrees(self: MaskedWeights, scored: Scored, batch: Batch) -> Tensor:
    return ~right_cut(self, scored, batch)


def reward_of_the_token(reward_NT: Tensor, mask_NT: Tensor, gamma: float) -> Tensor:
    return torch.where(mask_NT, reward_NT, 0)


def whitened_with_padding(value_NT: Tensor, mask_NT: Tensor, eps: float = 1e-8, *_: Any, **__: Any) -> Tensor:
    scaled_NT = (value_NT - value_NT.mean()) / (value_NT.var(correction=0).sqrt() + eps)
    return torch.where(mask_NT, scaled_NT, 0)


def other_deviation(self: GroupZScore, batch: Batch) -> Tensor:
    return right_z_score(replace(self, std="population" if self.std == "sample" else "sample"), batch)


def entropy_falls(self: EntropyBonus, scored: Scored, batch: Batch) -> Tensor:
    return -given(right_bonus(self, scored, batch), "")


def paid_by_the_sampler(self: SampledPenalty, batch: Batch) -> Tensor:
    return self.coefficient * self._masked(given(batch.sampler_logp_NT, ""), batch)


def paid_at_the_end(self: SampledPenalty, batch: Batch) -> Tensor:
    cost_NT = self.coefficient * self._masked(given(batch.old_logp_NT, ""), batch)
    return right_outcome(cost_NT.sum(dim=1), batch.mask_NT)


def smaller_error(value_NT: Tensor, old_NT: Tensor, return_NT: Tensor, clip: float) -> Tensor:
    near_NT = old_NT + (value_NT - old_NT).clamp(-clip, clip) if clip else value_NT
    return torch.minimum((value_NT - return_NT) ** 2, (near_NT - return_NT) ** 2) / 2


def error_to_be_raised(value_NT: Tensor, old_NT: Tensor, return_NT: Tensor, clip: float) -> Tensor:
    return -right_value_error(value_NT, old_NT, return_NT, clip)


def whitened_targets(batch: Batch, *_: Any) -> Tensor:
    return given(batch.advantage_NT, "") + given(batch.value_NT, "")


def uphill(self: LocalOptimizer) -> dict[str, float]:
    for master in self.masters.values():
        if master.grad is not None:
            master.grad.neg_()
    return right_step(self)


def denominators_of_the_whole(batch: Batch, recipe: Any, address: Any) -> Iterator[Batch]:
    whole = prepare.weigh(batch, recipe)
    for epoch in range(recipe.reuse.epochs):
        for rows in prepare._split_groups(batch.group_N.tolist(), recipe.reuse.minibatches, address, epoch):
            yield whole.take(rows)


def denominators_of_equals(batch: Batch, recipe: Any, address: Any) -> Iterator[Batch]:
    for epoch in range(recipe.reuse.epochs):
        for rows in prepare._split_groups(batch.group_N.tolist(), recipe.reuse.minibatches, address, epoch):
            yield prepare.weigh(batch.take(rows), recipe)


class Easy:
    """A region on which every step is a gain."""

    loss = math.inf

    def __init__(self, region: Any) -> None:
        self.fisher_product, self.move, self.measure = region.fisher_product, region.move, region.measure


def any_step_will_do(self: KLBall, region: Any, direction: Tensor) -> dict[str, float]:
    return right_search(self, Easy(region), direction)  # type: ignore[arg-type]


def first_token(logits_RV: Tensor, position_R: Tensor, uniform_R: Tensor, *more: Any) -> tuple[Tensor, Tensor]:
    return right_draw(logits_RV, position_R, torch.zeros_like(uniform_R), *more)


def drawn_from_the_top(logits_RV: Tensor, position_R: Tensor, uniform_R: Tensor, *more: Any) -> tuple[Tensor, Tensor]:
    return right_draw(logits_RV, position_R, uniform_R.square(), *more)


def as_they_come(self: Collector, tried: Any, groups: list[Group], sample: Any, *more: Any) -> Collected:
    return Collected(groups, self._kept(groups, sample))


def last_ones(self: Collector, tried: Any, groups: list[Group], sample: Any, *more: Any) -> Collected:
    found = right_refilled(self, tried, groups, sample, *more)
    return Collected(found.attempted, self._kept(found.attempted, sample)[-self._per_step :])


def right_and_wrong(group: Group) -> Group | None:
    return group if len({r.reward > 0 for r in group.rollouts}) > 1 else None


def plugged_in(num_samples: int, num_correct: int, k: int) -> float:
    return 1.0 - (1.0 - num_correct / num_samples) ** k  # type: ignore[no-any-return]


def all_of_it(earned_NK: Tensor, mask_NK: Tensor, gamma: float) -> Tensor:
    return earned_NK.sum(dim=1, keepdim=True).expand_as(earned_NK).clone()


def as_if_many(value_N: Tensor, group_N: Tensor) -> Tensor:
    return torch.full_like(value_N, 1e9)


def last_word(reward_N: Tensor, mask_NT: Tensor) -> Tensor:
    """The outcome in the last column."""
    return torch.nn.functional.pad(reward_N[:, None], (mask_NT.shape[1] - 1, 0))


def by_share_of_choices(weight_N: Tensor, batch: Batch) -> Tensor:
    """An attempt counts by how much of it was chosen."""
    lengths_N = weight_N.new_tensor([len(r.response) for r in batch.rollouts])
    return (weight_N * batch.mask_NT.sum(dim=1) / lengths_N)[:, None] * batch.mask_NT


def all_alike(estimates: Sequence[float], num: float, floor: float) -> list[float]:
    """Whatever is known of them."""
    return [num / len(estimates)] * len(estimates)


DEFECTS = [
    Defect("log-derivative", "logarithms to base 2", putting(TokenDistributions, "logp_R", property(in_bits))),
    Defect("log-derivative", "tokens scored a position late", putting(policy, "before_tokens", one_position_late)),
    Defect("log-derivative", "tokens scored that were not chosen", putting(policy, "lay_out", every_token_chosen)),
    Defect("reinforce", "a mean over tokens for the sum", putting(objective, "weighted_sum", mean_over_tokens)),
    Defect("reinforce", "a row lost", putting(Objective, "without_gradient", all_but_the_first)),
    Defect("imitation", "RFT keeps wrong attempts too", rewriting(sample.rewarded, keep_all)),
    Defect("imitation", "imitated with half the reward", rewriting(advantage.ones, halved)),
    Defect("constant-baseline", "the baseline scales", putting(ConstantBaseline, "__call__", baseline_as_factor)),
    Defect("group-baselines", "the group mean leaves out its own", putting(advantage, "centred", without_own)),
    Defect("group-baselines", "the z-score is not divided", putting(GroupZScore, "__call__", only_centred)),
    Defect(
        "equal-groups",
        "skipped despite the penalty",
        putting(Objective, "without_gradient", skipped_despite_penalty),
    ),
    Defect("equal-groups", "skipped for want of reward", putting(Objective, "without_gradient", skipped_if_unrewarded)),
    Defect("importance", "a trajectory weighed token by token", putting(ImportanceRatio, "log_ratio", always_by_token)),
    Defect("ppo-clip", "the larger of both", putting(ClippedRatio, "__call__", larger_of_both)),
    Defect("ppo-clip", "no minimum", putting(ClippedRatio, "__call__", clipped_alone)),
    Defect("kl-penalty", "k3 of the other sign", putting(regulariser, "estimate_k3", k3_of_the_other_sign)),
    Defect("kl-penalty", "k1 of the other sign", putting(regulariser, "estimate_k1", k1_of_the_other_sign)),
    Defect("kl-penalty", "k2 without its half", putting(regulariser, "estimate_k2", k2_without_half)),
    Defect("natural-gradient", "a parameter forgotten", putting(MeasuredRegion, "_kl_slopes", one_parameter_forgotten)),
    Defect("natural-gradient", "directions not conjugate", putting(update, "conjugate_gradients", steepest_descent)),
    Defect("natural-gradient", "no line search", putting(KLBall, "search", no_line_search)),
    Defect("natural-gradient", "the KL the other way round", putting(trust_region, "divergence", kl_turned_round)),
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
    Defect("sampling-distribution", "top-k admitted", putting(scorer, "require_scorable", lambda sampling: None)),
    Defect("splitting", "denominators of each micro-batch", putting(objective, "weighted_sum", per_micro_batch)),
    Defect("splitting", "packed attempts miss a token", putting(policy, "lay_out", branches_blind)),
    Defect(
        "splitting", "the mask forgotten", putting(objective, "masked", lambda value_NT, batch: value_NT), raises=True
    ),
    Defect("detached-ratio", "no gradient through the ratio", putting(ImportanceRatio, "log_ratio", constant_ratio)),
    Defect("detached-ratio", "the ratio's gradient reversed", putting(ImportanceRatio, "log_ratio", upside_down)),
    Defect("sequence-ratio", "the product of the ratios", putting(SequenceRatio, "log_ratio", product_of_ratios)),
    Defect("sequence-ratio", "clip's sides swapped", putting(SequenceRatio, "__call__", sequence_sides_swapped)),
    Defect("bounded-weight", "no bound", putting(ClippedWeight, "__call__", unbounded)),
    Defect("bounded-weight", "the dual bound where A > 0", putting(ClippedRatio, "__call__", dual_where_it_is_good)),
    Defect("stale-sampler", "the cap ignored", putting(TruncatedWeights, "__call__", uncapped)),
    Defect("stale-sampler", "mu over pi", putting(correction, "disagreement", sampler_over_learner)),
    Defect("stale-sampler", "dropped what agrees", putting(MaskedWeights, "cut", drop_what_agrees)),
    Defect("naive-reuse", "the ratio forgotten", putting(ImportanceRatio, "__call__", no_ratio)),
    Defect(
        "exact-critic",
        "the next state's value for this one's",
        putting(advantage, "generalised_advantage", values_one_late),
    ),
    Defect("critic-fixed-point", "the smaller of both errors", putting(critic, "value_error", smaller_error)),
    Defect("critic-fixed-point", "the error is raised", putting(critic, "value_error", error_to_be_raised)),
    Defect("critic-fixed-point", "targets whitened", putting(prepare, "targets", whitened_targets)),
    Defect("critic-fixed-point", "no warm-up", putting(CriticLearner, "warming", property(lambda self: False))),
    Defect("critic-fixed-point", "a shared trunk pulled in full", putting(SharedTrunk, "share", 1.0)),
    Defect("performance-difference", "the ratio forgotten", putting(ImportanceRatio, "__call__", no_ratio)),
    Defect("kl-to-go", "the sampler's log-probabilities", putting(SampledPenalty, "cost", paid_by_the_sampler)),
    Defect("kl-to-go", "the cost at the last token", putting(SampledPenalty, "cost", paid_at_the_end)),
    Defect("batch-z-score", "no reward to go", putting(advantage, "discounted", reward_of_the_token)),
    Defect("batch-z-score", "padding counted", putting(advantage, "whitened", whitened_with_padding)),
    Defect("entropy-bonus", "of the other sign", putting(EntropyBonus, "__call__", entropy_falls)),
    Defect("overlong-filter", "filtered before compared", putting(learner, "judge", filter_before_comparing)),
    Defect("z-score-multiple", "the other deviation", putting(GroupZScore, "__call__", other_deviation)),
    Defect("draw", "nothing drawn", lambda patch: [patch.setattr(m, "draw", first_token) for m in (draws, local)]),
    Defect("draw", "numbers not uniform", lambda p: [p.setattr(m, "draw", drawn_from_the_top) for m in (draws, local)]),
    Defect("draw", "nothing drawn in the sampler alone", putting(local, "draw", first_token)),
    Defect("refill", "no refill", putting(Collector, "_refilled", as_they_come)),
    Defect("refill", "the last groups kept", putting(Collector, "_refilled", last_ones)),
    Defect("refill", "mixed sees right and wrong alone", rewriting(sample.mixed, right_and_wrong)),
    Defect("pass-at-k", "the plug-in estimate", rewriting(statistics.pass_at_k, plugged_in)),
    Defect("mini-batches", "denominators of the whole", putting(prepare, "passes", denominators_of_the_whole)),
    Defect("mini-batches", "a short one counts in full", putting(prepare, "passes", denominators_of_equals)),
    Defect("ascent", "the other way", putting(LocalOptimizer, "step", uphill)),
    Defect("replies", "the outcome at the last word, whoever spoke", putting(prepare, "outcome_at_last", last_word)),
    Defect("replies", "as many choices as words", putting(aggregate, "alike_in_rollout", by_share_of_choices)),
    Defect("turn-credit", "what was earned before counts too", putting(turn_advantage, "discounted", all_of_it)),
    Defect("turn-credit", "the mean holds the attempt itself", putting(turn_advantage, "size_by_group", as_if_many)),
    Defect("learnable-problems", "all alike", putting(learnable, "chances", all_alike)),
    Defect("learnable-problems", "weights forgotten", putting(KnownProblems, "weight", lambda self, chance, num: 1.0)),
    Defect("stale-versions", "the cap ignored", putting(TruncatedWeights, "__call__", uncapped)),
    Defect("stale-versions", "mu over pi", putting(correction, "disagreement", sampler_over_learner)),
    Defect("stale-versions", "the last version taken for all", putting(correction, "disagreement", by_last_token)),
    Defect("kl-ball", "no test for improvement", putting(KLBall, "search", any_step_will_do)),
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
    elsewhere = {"max-rl", "distillation"}  # test_patch_defects.py
    assert {d.claim for d in DEFECTS} | elsewhere == {c.name for c in CLAIMS}
