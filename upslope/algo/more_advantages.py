"""Further answers to "how good was this, against what": patches of 2025 and 2026."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from upslope.algo.advantage import centred, scaled, size_by_group, spread, sum_by_group
from upslope.algo.log_ratio import log_ratio_to_old
from upslope.algo.slots import Advantage, Compares, kind
from upslope.errors import UserError
from upslope.types import Batch, given


@kind("advantage", compares="group")
def success_rate(batch: Batch) -> Tensor:
    """A_i = (R_i - mean) / mean over the group, 0 where the mean is 0 (MaxRL, arXiv 2602.02710): for rewards of 0 and 1
    and success rate p, G attempts have the gradient of the first G - 1 terms of log p = -sum_k (1 - p)^k / k: plain
    reward at G = 2, grad log p = grad p / p in the limit (``upslope prove --only max-rl``). Raises UserError for
    rewards below 0: then the mean is no rate of success.
    """
    if bool((batch.reward_N < 0).any()):
        raise UserError(
            f"advantage=success_rate divides by the mean reward, and there is a reward of "
            f"{float(batch.reward_N.min()):g}; give rewards from 0 on, or set advantage=group_z_score"
        )
    centred_N = centred(batch.reward_N, batch.group_N)
    mean_N = sum_by_group(batch.reward_N, batch.group_N) / size_by_group(batch.reward_N, batch.group_N)
    return spread(torch.where(mean_N > 0, centred_N / mean_N.clamp(min=1e-12), 0), batch.mask_NT)


@kind("advantage")
@dataclass(frozen=True)
class BatchScale(Advantage):
    """A_i = (R_i - mean of the group) / (deviation over the batch + eps), of what is left after the group's mean
    (ScaleRL, arXiv 2510.13786, section 3.2): one scale for all problems, so none weighs more for being easy or hard."""

    eps: float = 1e-6
    compares: ClassVar[Compares] = "group"
    pools_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.eps >= 0:
            raise ValueError(f"eps must be at least 0, not {self.eps}")

    def __call__(self, batch: Batch) -> Tensor:
        centred_N = centred(batch.reward_N, batch.group_N)
        deviation = centred_N.square().mean().sqrt() if len(centred_N) else centred_N.sum()
        scaled_N = centred_N / (deviation + self.eps)
        return spread(torch.where(centred_N == 0, 0, scaled_N), batch.mask_NT)


@kind("advantage")
@dataclass(frozen=True)
class DecoupledZScore(Advantage):
    """A_i = z(sum_k w_k z_group(R_ik)): every reward function's value against its group, by its own deviation, then the
    weighed sum over the batch by its own (GDPO, arXiv 2601.05242). A z-score of the sum gives (1, 0) and (0, 2) one
    advantage; this tells them apart. ``weights`` in the order of the task's rewards; empty: 1 each. What a function
    leaves out (None) counts 0. The reward itself, and so a shape or a penalty paid in it, has no say."""

    weights: tuple[float, ...] = ()
    eps: float = 1e-6
    compares: ClassVar[Compares] = "group"
    pools_batch: ClassVar[bool] = True
    reads_reward: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.eps >= 0:
            raise ValueError(f"eps must be at least 0, not {self.eps}")

    def __call__(self, batch: Batch) -> Tensor:
        values = parts(batch)
        if len(self.weights or values) != len(values):
            raise UserError(
                f"advantage.weights are {len(self.weights)}, and the task has {len(values)} rewards: {[*values]}"
            )
        total_N = torch.zeros_like(batch.reward_N)
        for weight, value_N in zip(self.weights or (1.0,) * len(values), values.values(), strict=True):
            total_N = total_N + weight * scaled(centred(value_N, batch.group_N), batch.group_N, self.eps)
        whole_N = torch.zeros_like(batch.group_N)
        return spread(scaled(centred(total_N, whole_N), whole_N, self.eps), batch.mask_NT)


@kind("advantage", needs=frozenset({"reference_logp", "old_logp_before"}), by_token="always", reads_reward=False)
def teacher_gap(batch: Batch) -> Tensor:
    """A_t = log ref(y_t) - log pi_old(y_t), the reference being a teacher (``reference.model``): minus the reverse KL,
    estimated at every token that the student itself drew (Lu and Thinking Machines Lab 2025, "On-policy distillation";
    arXiv 2306.13649). No reward is read."""
    return log_ratio_to_old(given(batch.reference_logp_NT, "reference_logp_NT"), batch)


def parts(batch: Batch) -> dict[str, Tensor]:
    """The value of every reward function, by name; 0 where it was not applicable. Raises UserError without several."""
    names = dict.fromkeys(name for r in batch.rollouts for name in r.score.parts)
    if batch.num_rollouts and len(names) < 2:
        raise UserError(
            "advantage=decoupled_z_score compares several rewards one by one, and this task gives "
            f"{len(names) or 'none'}; give several with --reward, or set advantage=group_z_score"
        )
    found = {name: [r.score.parts.get(name) or 0.0 for r in batch.rollouts] for name in names}
    return {name: batch.reward_N.new_tensor(values) for name, values in found.items()}
