"""What goes into an update and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from upslope.types import Batch, Rollout

Stats = dict[str, float]


@dataclass(frozen=True)
class Scored:
    """What the learner's forward pass says about the sampled tokens; zeros outside the mask."""

    logp_NT: Tensor
    """log pi(y_t) at the sampling temperature, with gradient."""
    entropy_NT: Tensor
    """Entropy of the distribution y_t was drawn from, in nats; with gradient if a slot needs ``entropy_gradient``."""
    reference_kl_NT: Tensor | None = None
    """Exact KL(pi || reference) at the state before y_t, with gradient, if a slot needs ``reference_kl``."""
    value_NT: Tensor | None = None
    """The critic's V(state before y_t), with gradient, in a recipe with a critic."""
    top_NTK: Tensor | None = None
    """int64; the K likeliest tokens at every state, likeliest first, where somebody asked for them."""
    top_logp_NTK: Tensor | None = None
    """Their log-probabilities, without gradient."""


@dataclass(frozen=True)
class Losses:
    """What is to be made smaller. ``value`` is None without a critic."""

    policy: Tensor
    value: Tensor | None = None

    @property
    def total(self) -> Tensor:
        return self.policy if self.value is None else self.policy + self.value


@dataclass(frozen=True)
class Trace:
    """What happened to every token of a batch in one pass, without gradient; kept for journal and rollout files."""

    logp_NT: Tensor
    entropy_NT: Tensor
    ratio_NT: Tensor
    clipped_low_NT: Tensor
    clipped_high_NT: Tensor
    correction_NT: Tensor | None = None
    """The factor that the surrogate was multiplied by; None in a recipe that trusts the sampler."""
    cut_NT: Tensor | None = None
    """bool; whose factor was bounded, or which were dropped."""
    push_NT: Tensor | None = None
    """-d loss / d logp: how hard the update pushed the token, up (above 0) or down; None where no gradient was
    taken."""
    top_NTK: Tensor | None = None
    top_logp_NTK: Tensor | None = None
    """As in ``Scored``."""

    @staticmethod
    def join(traces: Sequence[Trace]) -> Trace | None:
        """The traces of consecutive micro-batches as one; None of none."""
        if not traces:
            return None
        columns = ([getattr(t, f.name) for t in traces] for f in fields(Trace))
        return Trace(*(torch.cat(parts) if parts[0] is not None else None for parts in columns))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Outcome:
    """What one update looked at and what came of it."""

    minibatch: Batch
    """The rows that had a gradient."""
    trace: Trace | None
    """Their tokens before the update; None if no row had a gradient."""
    stats: Stats


@dataclass(frozen=True)
class Rescored:
    """Attempts as a step left them.

    >>> Rescored((), torch.zeros(0, 4)).logp_NT.shape
    torch.Size([0, 4])
    """

    rollouts: tuple[Rollout, ...]
    logp_NT: Tensor
    """log pi(y_t) after the step's last update, nats, without gradient; zeros outside the mask."""
