"""The policy around its present weights, for updates that measure before they move: slopes, products with the Fisher
matrix, and the KL and the surrogate of a trial step. Everything as one flat vector over all trainable parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from upslope.algo.protocols import Loss
from upslope.learn.optimizer import Optimizer, flat
from upslope.learn.ranks import sum_numbers
from upslope.learn.scorer import Scorer
from upslope.learn.settings import LOGITS_BUDGET, TOKEN_BUDGET
from upslope.model.budgets import LOGIT_BYTES
from upslope.model.distribution import TokenDistributions, divergence
from upslope.model.policy import Policy
from upslope.model.states import rectangle
from upslope.types import Batch

KEPT_BUDGET = 128 * 2**20
"""Entries of the old distributions that are kept on a CPU; beyond it they are computed anew at every measurement."""
KEPT_BYTES = 4
"""Of each."""
SECOND_ORDER_BUDGET = 8 * 2**20
"""Tokens x layers x hidden size in one micro-batch of a Fisher product: a gradient that can be differentiated again
holds several hundred bytes for each."""
LEAST_CURVED = 8
"""Problems that Fisher products are averaged over, whatever the share: with one or two, most steps go astray."""


def most_kept(policy: Policy) -> int:
    """Entries of distributions that may be kept: so many bytes as logits at work may take, on a device of known
    memory."""
    budgets = policy.budgets
    if not budgets.measured(budgets.shares.logits):
        return KEPT_BUDGET
    return budgets.logits(KEPT_BUDGET) * LOGIT_BYTES // KEPT_BYTES


class MeasuredRegion:
    """Stands at the weights it was made at (the origin). No matrix is ever formed: beside the model there are a handful
    of vectors of a gradient's size, and the graph of one micro-batch; and the origin, if the weights are to be moved
    from here, or its distributions are too many to be kept. It lies in the host's memory where the device has one of
    its own."""

    def __init__(
        self, scorer: Scorer, optimizer: Optimizer, objective: Loss, states: Batch, fisher_share: float = 1.0
    ) -> None:
        """``states`` has its weights and advantages; old log-probabilities are filled in where the recipe needs them
        and has none. ``fisher_share`` of its problems, evenly spaced, give the states of Fisher products."""
        self._scorer, self._optimizer, self._objective = scorer, optimizer, objective
        self._masters = list(optimizer.masters.values())
        self._origin: list[Tensor] | None = None
        self._sizes = [m.numel() for m in self._masters]
        self._num_states = int(states.mask_NT.sum())
        self._graphs: list[Sequence[Tensor | None]] | None = None
        keep = self._num_states * scorer.policy.vocabulary <= most_kept(scorer.policy)
        if not keep:
            self._remembered()
        mine, logits = scorer.ranks.share(states), scorer.policy.budgets.logits(LOGITS_BUDGET)
        self._cut = [part.num_rollouts for part in scorer.micro_batches(mine, most_logits=logits)]
        """Rows of every micro-batch: the same ones at every measurement."""
        kept: list[Tensor] = []
        old: list[Tensor] = []
        loss = 0.0
        for part, counts in self._passes(states):
            now = self._distributions(part)
            kept += [now.logp_RV] if keep else []
            if counts:
                old.append(rectangle(now.logp_R, part.mask_NT))
                loss += self._loss(objective.with_old(part, old[-1]), now)
        self.loss = self._summed(loss)
        self._kept = kept if keep else None
        self.states = states = objective.with_old(states, self._of_all_ranks(states, old))
        self.after_NT: Tensor | None = None
        self._curved = spaced(states, fisher_share)

    def slope(self) -> Tensor:
        """Minus the gradient in the masters; a parameter that got none counts with zeros."""
        return -flat([m.grad for m in self._masters], self._masters)

    def fisher_product(self, vector: Tensor) -> Tensor:
        """F v with F = mean over states of J^T (diag(p) - p p^T) J, J the Jacobian of the logits: the exact Fisher
        matrix over the whole vocabulary, not the empirical one of the sampled tokens.

        F is the Hessian of KL(old || now) at now = old, so F v is the derivative of (gradient of that KL) . v: two
        backward passes (Pearlmutter 1994; arXiv 1502.05477, appendix C.1). Must be called at the origin.
        """
        total = torch.zeros_like(vector)
        pieces = torch.split(vector, self._sizes)
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels have no second derivative on a CPU
            for slopes in self._kl_slopes():
                pairs = [(s, p.view_as(s)) for s, p in zip(slopes, pieces, strict=True) if s is not None]
                dot = sum(((s * p).sum() for s, p in pairs), torch.zeros((), dtype=vector.dtype, device=vector.device))
                if dot.requires_grad:
                    keep = self._graphs is not None
                    images = torch.autograd.grad(dot, self._masters, retain_graph=keep, allow_unused=True)
                    total += flat(images, self._masters)
        self._scorer.ranks.sum([total])
        return total

    def _kl_slopes(self) -> Iterator[Sequence[Tensor | None]]:
        """The gradient of the mean KL, micro-batch by micro-batch, each with a graph of its own; one that stands alone
        is kept for all products."""
        if self._graphs is not None:
            yield from self._graphs
            return
        tokens = max(1, min(TOKEN_BUDGET, SECOND_ORDER_BUDGET // self._scorer.policy.width))
        mine = self._scorer.ranks.share(self._curved)
        parts = list(self._scorer.micro_batches(mine, most_tokens=tokens, most_logits=2 * SECOND_ORDER_BUDGET))
        for part in parts:
            logp_RV = self._scorer.distributions(part).logp_RV
            kl = divergence(logp_RV.detach(), logp_RV).sum() / int(self._curved.mask_NT.sum())
            slopes = torch.autograd.grad(kl, self._masters, create_graph=True, allow_unused=True)
            if len(parts) == 1:
                self._graphs = [slopes]
            yield slopes

    @torch.no_grad()
    def move(self, step: Tensor) -> None:
        """Set the weights to origin + step; a zero step restores them bit for bit."""
        self._optimizer.moved = True
        pieces = torch.split(step, self._sizes)
        for master, origin, piece in zip(self._masters, self._remembered(), pieces, strict=True):
            master.copy_(origin.to(master.device) + piece.view_as(origin))
        self._optimizer.publish()
        self._graphs = None

    @torch.no_grad()
    def measure(self) -> tuple[float, float]:
        """(policy loss, mean KL(origin || now) in nats a token) over the states, at the weights as moved."""
        loss = kl = 0.0
        for index, (part, counts) in enumerate(self._passes(self.states)):
            now = self._distributions(part)
            loss += counts * self._loss(part, now)
            kl += counts * self._far(index, part, now)
        return self._summed(loss), self._summed(kl)

    def _far(self, index: int, part: Batch, now: TokenDistributions) -> float:
        """The part's share of the mean KL(origin || now)."""
        kl = divergence(self._before(index, part), now.logp_RV).sum().item()
        return kl / max(self._num_states, 1)

    @torch.no_grad()
    def _loss(self, part: Batch, now: TokenDistributions) -> float:
        losses, _ = self._objective(self._scorer.scored(part, now), part)
        return losses.policy.item()

    def _summed(self, number: float) -> float:
        return sum_numbers(self._scorer.ranks, {"": number})[""]

    @torch.no_grad()
    def distance(self) -> float:
        """Mean KL(origin || now) in nats a token over the states; ``after_NT`` then has the log-probabilities of their
        tokens as they are now."""
        kl = 0.0
        after: list[Tensor] = []
        for index, (part, counts) in enumerate(self._passes(self.states)):
            now = self._distributions(part)
            kl += counts * self._far(index, part, now)
            after += [rectangle(now.logp_R, part.mask_NT)] if counts else []
        self.after_NT = self._of_all_ranks(self.states, after)
        return self._summed(kl)

    def _of_all_ranks(self, states: Batch, parts: Sequence[Tensor]) -> Tensor:
        """[N, T] of all states, from this rank's micro-batches in order; a rank may have none."""
        none = states.mask_NT[:0] * states.reward_N.new_zeros(())
        return torch.cat([part for of_rank in self._scorer.ranks.gather([none, *parts]) for part in of_rank])

    def _passes(self, states: Batch) -> Iterator[tuple[Batch, bool]]:
        ranks, ends = self._scorer.ranks, itertools.accumulate(self._cut)
        mine = ranks.share(states)
        parts = (mine.take(range(end - num, end)) for num, end in zip(self._cut, ends, strict=True))
        return ranks.passes(parts, states)

    def _before(self, index: int, part: Batch) -> Tensor:
        if self._kept is not None:
            return self._kept[index]
        with self._at_origin():
            return self._distributions(part).logp_RV

    @contextmanager
    def _at_origin(self) -> Iterator[None]:
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _remembered(self) -> list[Tensor]:
        """The origin, which is where the weights are when this is asked first."""
        if self._origin is None:
            self._origin = [m.detach().to("cpu", copy=True) for m in self._masters]
        return self._origin

    @torch.no_grad()
    def _exchange(self) -> None:
        """The masters take the origin's place, and it theirs, one after the other."""
        for master, origin in zip(self._masters, self._remembered(), strict=True):
            held = master.detach().clone()
            master.copy_(origin)
            origin.copy_(held)
        self._optimizer.publish()

    @torch.no_grad()
    def _distributions(self, part: Batch) -> TokenDistributions:
        return self._scorer.distributions(part)


def spaced(batch: Batch, share: float, least: int | None = None) -> Batch:
    """About that share of the batch's problems, evenly spaced and each with all its rows, but not fewer than ``least``
    (``LEAST_CURVED``) while there are any."""
    groups = list(dict.fromkeys(batch.group_N.tolist()))
    num = min(len(groups), max(LEAST_CURVED if least is None else least, round(share * len(groups))))
    chosen = {groups[i * len(groups) // num] for i in range(num)} if groups else set()
    return batch.take([row for row, group in enumerate(batch.group_N.tolist()) if group in chosen])
