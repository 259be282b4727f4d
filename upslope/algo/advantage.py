"""Slot ``advantage``: how good was this, against what.

Each function maps a batch whose rewards are final (shaped, and less what a penalty in the reward costs) to
``advantage_NT``, one value per token in units of reward, zero outside the mask. An outcome judges the whole attempt,
so most of these give every token of it one value, from ``reward_N``; those that tell tokens apart read ``reward_NT``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from upslope.algo.equal import alike
from upslope.algo.returns import discounted, generalised_advantage
from upslope.algo.slots import Advantage, ByToken, Compares, kind
from upslope.types import Batch, given

Divisor = Literal["sample", "population"]
"""What a sum of squares is divided by: one less than how many there are, or how many."""


def spread(value_N: Tensor, mask_NT: Tensor) -> Tensor:
    """Give every chosen token its rollout's value, and zero to the rest."""
    return torch.where(mask_NT, value_N[:, None], torch.zeros((), dtype=value_N.dtype, device=value_N.device))


def sum_by_group(value_N: Tensor, group_N: Tensor) -> Tensor:
    """The sum over a rollout's own group, at every rollout: shape N to N."""
    num_groups = int(group_N.max()) + 1 if len(group_N) else 0
    return value_N.new_zeros(num_groups).index_add(0, group_N, value_N)[group_N]


def size_by_group(value_N: Tensor, group_N: Tensor) -> Tensor:
    """How many rollouts a rollout's own group has, at every rollout: shape N to N."""
    return sum_by_group(torch.ones_like(value_N), group_N)


def centred(value_N: Tensor, group_N: Tensor) -> Tensor:
    """Value minus the mean of its group; exactly zero in a group of values that are alike (``upslope.algo.equal``),
    which rounding alone would miss."""
    num_groups = int(group_N.max()) + 1 if len(group_N) else 0
    highest = value_N.new_zeros(num_groups).scatter_reduce(0, group_N, value_N, "amax", include_self=False)[group_N]
    lowest = value_N.new_zeros(num_groups).scatter_reduce(0, group_N, value_N, "amin", include_self=False)[group_N]
    mean_N = sum_by_group(value_N, group_N) / size_by_group(value_N, group_N)
    return torch.where(alike(highest, lowest), 0, value_N - mean_N)


def largest(*values_NT: Tensor, mask_NT: Tensor) -> Tensor | None:
    """The largest magnitude that any of them has at a chosen token; None without one."""
    inside = torch.cat([v[mask_NT] for v in values_NT])
    return inside.abs().amax() if len(inside) else None


def whitened(value_NT: Tensor, mask_NT: Tensor, eps: float = 1e-8, size: Tensor | None = None) -> Tensor:
    """(value - mean) / (std + eps) over all chosen tokens (population deviation); zero outside the mask.

    All zeros if the values are alike, up to roundings of ``size``: the largest magnitude of what they are differences
    of (None: their own). Rounding noise over its own deviation would be 1.
    """
    inside = value_NT[mask_NT]
    if not len(inside):
        return value_NT
    if bool(alike(inside.amax(), inside.amin(), size)):
        return torch.zeros_like(value_NT)
    scaled_NT = (value_NT - inside.mean()) / (inside.var(correction=0).sqrt() + eps)
    return torch.where(mask_NT, scaled_NT, torch.zeros_like(value_NT))


def scaled(centred_N: Tensor, group_N: Tensor, eps: float, std: Divisor = "population") -> Tensor:
    """Divided by the deviation of its group, with eps added; exactly 0 where the group has none, with eps = 0 too."""
    size_N = size_by_group(centred_N, group_N)
    freedom_N = (size_N - 1).clamp(min=1) if std == "sample" else size_N
    deviation_N = (sum_by_group(centred_N**2, group_N) / freedom_N).sqrt()
    return torch.where(centred_N == 0, 0, centred_N / (deviation_N + eps))


@kind("advantage", reads_reward=False)
def ones(batch: Batch) -> Tensor:
    """A_t = 1: what is imitated is good by decree (SFT, RFT)."""
    return spread(torch.ones_like(batch.reward_N), batch.mask_NT)


@kind("advantage")
def returns(batch: Batch) -> Tensor:
    """A_t = R: the plain return (Williams 1992, REINFORCE). For 0/1 rewards only the right attempts push."""
    return spread(batch.reward_N, batch.mask_NT)


@kind("advantage")
@dataclass(frozen=True)
class ConstantBaseline(Advantage):
    """A_t = R - b: any constant b leaves the expected gradient alone, and the best one makes its variance least."""

    value: float = 0.5
    compares: ClassVar[Compares] = "constant"

    def __call__(self, batch: Batch) -> Tensor:
        return spread(batch.reward_N - self.value, batch.mask_NT)


@kind("advantage", compares="group")
def group_mean(batch: Batch) -> Tensor:
    """A_i = R_i - mean_j R_j over the group, own sample included.

    The baseline contains R_i itself, so the expected gradient is (1 - 1/G) times the true one: same direction,
    shorter by a factor that a learning rate absorbs.
    """
    return spread(centred(batch.reward_N, batch.group_N), batch.mask_NT)


@kind("advantage", compares="group")
def leave_one_out(batch: Batch) -> Tensor:
    """A_i = R_i - mean_{j != i} R_j (RLOO, arXiv 2402.14740, section 3.2): the baseline is independent of R_i.

    Equals G / (G - 1) times ``group_mean``, so its expected gradient is the true one. An attempt whose siblings were
    all dropped has nobody to be compared with and gets zero.
    """
    size_N = size_by_group(batch.reward_N, batch.group_N)
    return spread(centred(batch.reward_N, batch.group_N) * size_N / (size_N - 1).clamp(min=1), batch.mask_NT)


@kind("advantage")
@dataclass(frozen=True)
class GroupZScore(Advantage):
    """A_i = (R_i - mean_j R_j) / (std_j R_j + eps) (DeepSeekMath, arXiv 2402.03300, section 4.1.2).

    Where projects differ: ``std="sample"`` divides by G - 1 (TRL, verl), ``"population"`` by G; ``eps`` is 1e-4 in
    TRL, 1e-6 in verl. Dividing by the deviation weighs a problem by how unlikely its rarer outcome is, which is no
    multiple of the gradient of expected reward. A group whose rewards are all equal gets zeros, a group of one too.
    """

    eps: float = 1e-4
    std: Divisor = "sample"
    compares: ClassVar[Compares] = "group"

    def __post_init__(self) -> None:
        if not self.eps >= 0:
            raise ValueError(f"eps must be at least 0, not {self.eps}")

    def __call__(self, batch: Batch) -> Tensor:
        centred_N = centred(batch.reward_N, batch.group_N)
        return spread(scaled(centred_N, batch.group_N, self.eps, self.std), batch.mask_NT)


@kind("advantage")
@dataclass(frozen=True)
class BatchZScore(Advantage):
    """A_t = (G_t - mean) / (std + eps) over all tokens of the batch, G_t the reward to go from token t (REINFORCE++,
    arXiv 2501.03262, section 3): one scale for all problems, where a z-score per group has one for each.

    ``centre="group"`` subtracts the group's mean outcome first (the paper's REINFORCE++-baseline).
    """

    centre: Literal["batch", "group"] = "batch"
    eps: float = 1e-8
    by_token: ClassVar[ByToken] = "if they are rewarded"
    pools_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.eps >= 0:
            raise ValueError(f"eps must be at least 0, not {self.eps}")

    @property
    def compares(self) -> Compares:
        return self.centre

    def __call__(self, batch: Batch) -> Tensor:
        reward_NT = given(batch.reward_NT, "reward_NT")
        to_go_NT = discounted(reward_NT, batch.mask_NT, 1.0)
        size = largest(to_go_NT, mask_NT=batch.mask_NT)
        if self.centre == "group":
            mean_N = batch.reward_N - centred(batch.reward_N, batch.group_N)
            to_go_NT = to_go_NT - spread(mean_N, batch.mask_NT)
        return whitened(to_go_NT, batch.mask_NT, self.eps, size)


@kind("advantage")
@dataclass(frozen=True)
class GAE(Advantage):
    """A_t = sum_k (gamma lam)^k delta_{t+k}, delta_t = r_t + gamma V_{t+1} - V_t (arXiv 1506.02438, equation 16).

    A step is a chosen token; tokens the policy did not choose are stepped over. After the last one V is 0, for an
    attempt cut by the length limit too: the limit is a rule of the task. ``whiten`` then shifts and scales over all
    tokens of the batch, which biases the gradient a little and frees the learning rate from the reward's units.
    """

    gamma: float = 1.0
    lam: float = 0.95
    whiten: bool = True
    needs: ClassVar[frozenset[str]] = frozenset({"values"})
    compares: ClassVar[Compares] = "values"
    by_token: ClassVar[ByToken] = "always"

    def __post_init__(self) -> None:
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ValueError(f"needs 0 <= gamma <= 1 and 0 <= lam <= 1, not gamma={self.gamma}, lam={self.lam}")

    @property
    def pools_batch(self) -> bool:
        return self.whiten

    def estimate(self, batch: Batch) -> Tensor:
        """The advantages before whitening, in units of reward."""
        reward_NT, value_NT = given(batch.reward_NT, "reward_NT"), given(batch.value_NT, "value_NT")
        return generalised_advantage(reward_NT, value_NT, batch.mask_NT, self.gamma, self.lam)

    def __call__(self, batch: Batch) -> Tensor:
        advantage_NT = self.estimate(batch)
        if not self.whiten:
            return advantage_NT
        terms = given(batch.reward_NT, "reward_NT"), given(batch.value_NT, "value_NT")
        return whitened(advantage_NT, batch.mask_NT, size=largest(*terms, mask_NT=batch.mask_NT))
