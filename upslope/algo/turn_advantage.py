"""Credit by turn: an attempt of several turns, each compared with the same turn of the attempts at the same problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from upslope.algo.advantage import Divisor, centred, scaled, size_by_group
from upslope.algo.returns import discounted
from upslope.algo.slots import Advantage, ByToken, Compares, kind
from upslope.types import Batch, given


@kind("advantage")
@dataclass(frozen=True)
class ByTurn(Advantage):
    """A_ik = G_ik - mean_{j != i} G_jk for all tokens of turn k of attempt i, where G_ik = R_ik + gamma G_i,k+1 is what
    the attempt earned from that turn on, and j are the other attempts at the problem that have a turn k.

    What was earned before a turn cannot depend on it, so leaving it out takes away noise alone, and a baseline of the
    others' is independent of i: the expected gradient is that of expected reward (claim ``turn-credit``). Whoever is
    alone in a turn has no baseline there. An attempt of one turn is ``leave_one_out``'s.

    ``std`` divides by the deviation of the turn's G over the attempts, own one included, and compares with their mean
    then (GRPO's, turn by turn; no multiple of the gradient any more): ``sample`` divides by one less than there are,
    ``population`` by how many. With it, whoever is alone in a turn gets 0.
    """

    gamma: float = 1.0
    std: Divisor | Literal["none"] = "none"
    eps: float = 1e-4
    compares: ClassVar[Compares] = "group"
    by_token: ClassVar[ByToken] = "always"

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1 or not self.eps >= 0:
            raise ValueError(f"needs 0 <= gamma <= 1 and eps >= 0, not gamma={self.gamma}, eps={self.eps}")

    def __call__(self, batch: Batch) -> Tensor:
        reward_NT = given(batch.reward_NT, "reward_NT")
        if not reward_NT.numel():
            return torch.zeros_like(reward_NT)
        turn_NT = torch.zeros_like(batch.mask_NT, dtype=torch.long) if batch.turn_NT is None else batch.turn_NT
        earned_NK = by_turn(reward_NT * batch.mask_NT, turn_NT)
        has_NK = by_turn(batch.mask_NT.to(reward_NT.dtype), turn_NT) > 0
        to_go_NK = discounted(earned_NK, torch.ones_like(has_NK), self.gamma)
        row_P, turn_P = has_NK.nonzero(as_tuple=True)
        group_P = batch.group_N[row_P] * has_NK.shape[1] + turn_P
        value_P = to_go_NK[row_P, turn_P]
        centred_P = centred(value_P, group_P)
        if self.std == "none":
            size_P = size_by_group(value_P, group_P)
            advantage_P = torch.where(size_P > 1, centred_P * size_P / (size_P - 1).clamp(min=1), value_P)
        else:
            advantage_P = scaled(centred_P, group_P, self.eps, self.std)
        advantage_NK = torch.zeros_like(to_go_NK).index_put((row_P, turn_P), advantage_P)
        return torch.where(batch.mask_NT, advantage_NK.gather(1, turn_NT), 0)


def by_turn(value_NT: Tensor, turn_NT: Tensor) -> Tensor:
    """[N, K]: the sum over each turn's tokens.

    >>> by_turn(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0, 1, 1]])).tolist()
    [[1.0, 6.0]]
    """
    num_turns = int(turn_NT.max()) + 1
    return value_NT.new_zeros(len(value_NT), num_turns).scatter_add(1, turn_NT, value_NT)
