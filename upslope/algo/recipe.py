"""A recipe: one value for every slot of the loop. The defaults are REINFORCE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from upslope.algo import advantage, aggregate, correction, critic, regulariser, shape, surrogate, update
from upslope.algo.outcome import Outcome, Scored
from upslope.algo.reuse import Reuse
from upslope.algo.sample import Attempts, Sample
from upslope.algo.slots import Place, members
from upslope.errors import UserError, nearest
from upslope.types import Batch


@dataclass(frozen=True)
class Recipe:
    """Which algorithm the loop runs. Slots hold pure functions or frozen dataclasses, so that a recipe prints,
    compares, pickles and serialises.

    >>> Recipe() == Recipe().patch()
    True
    >>> print(diff(Recipe(), Recipe().patch(advantage=advantage.group_mean)))
    {'advantage': ('returns', 'group_mean')}
    """

    sample: Sample = Attempts()
    """Who acts, how many attempts a problem, which are kept."""
    shape: Callable[[Batch], Tensor] = shape.identity
    """Is the raw reward changed."""
    advantage: Callable[[Batch], Tensor] = advantage.returns
    """How good was this, against what."""
    surrogate: Callable[[Scored, Batch], Tensor] = surrogate.likelihood
    """What is pushed."""
    critic: Callable[[Scored, Batch], Tensor | None] = critic.no_critic
    """Who predicts how an attempt will end."""
    regulariser: Callable[[Scored, Batch], Tensor | None] = regulariser.no_penalty
    """What penalty."""
    aggregate: Callable[[Batch], Tensor] = aggregate.sequence_sum
    """How per-token values become one number."""
    update: Callable[..., Outcome] = update.gradient_step
    """How far may a step go."""
    reuse: Reuse = Reuse()
    """Passes over one batch."""
    correction: Callable[[Scored, Batch], Tensor | None] = correction.no_correction
    """Sampler and learner disagree, or data is stale."""

    def patch(self, **slots: Any) -> Recipe:
        """The same recipe with some slots replaced. Raises UserError for a slot that there is not."""
        known = [f.name for f in fields(self)]
        for name in slots:
            if name not in known:
                raise UserError(f"{name} is not a slot of a recipe{nearest(name, known)}")
        return replace(self, **slots)

    @property
    def needs(self) -> frozenset[str]:
        """Everything the slots need computed: the union of their ``needs``."""
        return frozenset().union(*(self.asked(f.name).needs for f in fields(self)))

    def asked(self, slot: str) -> Any:
        """What the value of a slot declares; see ``upslope.algo.slots``."""
        return members(slot, getattr(self, slot))

    @property
    def penalty_place(self) -> Place | None:
        """Where the penalty acts; None without one."""
        place: Place | None = self.asked("regulariser").place
        return place

    @property
    def penalised(self) -> bool:
        """Whether the loss holds every row back, those without advantage too."""
        return self.penalty_place == "loss"

    @property
    def has_critic(self) -> bool:
        return self.critic is not critic.no_critic

    @property
    def gamma(self) -> float:
        """What a reward one token later counts for: the advantage's own discount, 1 in one that has none."""
        return float(self.asked("advantage").gamma)

    @property
    def refers(self) -> bool:
        """Whether a frozen reference is needed."""
        return any(need.startswith("reference") for need in self.needs)

    @property
    def acts(self) -> bool:
        """Whether the policy itself acts (else it imitates given text)."""
        return self.sample.source == "policy"


def show(value: Any) -> str:
    """A slot's value as text: ``group_mean``, ``ClippedRatio(low=0.2, high=0.2)``.

    >>> show(Attempts())
    'Attempts(group_size=8, keep=everything, refill=0.0, drop_truncated=False)'
    """
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    if is_dataclass(value) and not isinstance(value, type):
        inside = ", ".join(f"{f.name}={show(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__name__}({inside})"
    return repr(value)


def diff(parent: Recipe, child: Recipe) -> dict[str, tuple[str, str]]:
    """Exactly the slots that differ, each as (parent's value, child's value), in slot order."""
    pairs = {f.name: (getattr(parent, f.name), getattr(child, f.name)) for f in fields(Recipe)}
    return {name: (show(a), show(b)) for name, (a, b) in pairs.items() if a != b}
