"""The contracts of the slots: what is called with what, what has to come back, and what else a slot may declare.

A slot holds a function or a frozen dataclass that is called. Whatever other code asks of it (what it ``needs``, where a
penalty is paid, against whom an advantage compares) is a member declared here, with a default. A dataclass inherits
from its slot's class and overrides members; a function gives them to ``kind``; anything else callable has the
defaults. ``members`` answers for all of them.

>>> @kind("advantage", compares="group")
... def best_of_group(batch):
...     '''1 for the best attempts at a problem, else 0.'''
>>> members("advantage", best_of_group).compares, kinds("advantage")["best_of_group"] is best_of_group
('group', True)
>>> _ = KINDS["advantage"].pop("best_of_group")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import isfunction
from typing import Any, Literal, TypeVar, get_args

from torch import Tensor

from upslope.algo.outcome import Outcome, Scored
from upslope.algo.protocols import Loss, Stepper
from upslope.plugins import is_own, snake
from upslope.types import Batch

Need = Literal[
    "sampler_logp",
    "old_logp",
    "old_logp_before",
    "old_entropy",
    "present_logp",
    "reference_logp",
    "reference_kl",
    "reference_kl_before",
    "entropy_gradient",
    "values",
    "curvature",
]
"""Everything that can be computed for a slot. docs/extending.md says what each fills and costs."""
NEEDS: frozenset[str] = frozenset(get_args(Need))
Place = Literal["loss", "reward"]
Compares = Literal["nothing", "constant", "group", "batch", "values"]
ByToken = Literal["never", "if they are rewarded", "always"]
Level = Literal["token", "trajectory"]


class Slot:
    """What every slot may declare."""

    @property
    def needs(self) -> frozenset[str]:
        """What has to be computed before it is called, out of ``NEEDS``."""
        return frozenset()

    def over_update(self, batch: Batch) -> Tensor | None:
        """A look at a whole update, before it is cut into pieces: [N, T], read later as ``batch.marks[slot]``. For
        masks by rank or quantile, and weights normalised over the batch. None: no such look."""
        return None

    @property
    def pools_batch(self) -> bool:
        """Whether it has a mean, a deviation or a denominator over all attempts of a batch, whatever their problems."""
        return False


class Shape(Slot):
    """Is the raw reward changed: ``batch -> reward_NT``, the reward of every token, in the task's units."""

    def __call__(self, batch: Batch) -> Tensor:
        raise NotImplementedError


class Advantage(Slot):
    """How good was this, against what: ``batch -> advantage_NT``, in units of reward, zero outside the mask."""

    @property
    def gamma(self) -> float:
        """What a reward one token later counts for."""
        return 1.0

    @property
    def compares(self) -> Compares:
        """With what: nothing, a constant, the attempts at the same problem, the whole batch, a critic's values."""
        return "nothing"

    @property
    def reads_reward(self) -> bool:
        """False: good by decree, whatever was earned."""
        return True

    @property
    def by_token(self) -> ByToken:
        """Whether the tokens of an attempt get values of their own."""
        return "never"

    def __call__(self, batch: Batch) -> Tensor:
        raise NotImplementedError


class Surrogate(Slot):
    """What is pushed: ``(scored, batch) -> value_NT``, to be made larger. ``scored.logp_NT`` carries the gradient."""

    @property
    def one_ratio(self) -> bool:
        """Whether all tokens of an attempt share one ratio with its gradient, and so one advantage: their mean."""
        return False

    @property
    def against_sampler(self) -> bool:
        """Whether its ratio is taken against the sampler, so that a correction would count that twice."""
        return False

    @property
    def weighs_attempts(self) -> bool:
        """Whether its value is one weight for the whole attempt, spread over its tokens."""
        return False

    @property
    def has_ratio(self) -> bool:
        """False: right only where the policy has not moved since the batch was drawn."""
        return True

    def log_ratio(self, logp_NT: Tensor, batch: Batch) -> Tensor:
        """The logarithm of what the advantage is multiplied by; without an answer of its own, log (pi / pi_old)."""
        return logp_NT - (logp_NT if batch.old_logp_NT is None else batch.old_logp_NT)

    def clipped(self, logp_NT: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """(low_NT, high_NT), bool: whose gradient (or weight) was cut because the ratio fell, or rose, far enough."""
        return None

    def __call__(self, scored: Scored, batch: Batch) -> Tensor:
        raise NotImplementedError


class Critic(Slot):
    """Who predicts how an attempt will end: ``(scored, batch) -> error_NT``, a loss a token; None without a critic."""

    @property
    def warmup(self) -> int:
        """Updates in which it alone learns."""
        return 0

    @property
    def lam(self) -> float:
        """Of its targets, the lambda-returns."""
        return 1.0

    def __call__(self, scored: Scored, batch: Batch) -> Tensor | None:
        raise NotImplementedError


class Regulariser(Slot):
    """What penalty: ``(scored, batch) -> cost_NT``, subtracted from the objective; None: nothing is held back."""

    @property
    def place(self) -> Place | None:
        """Where it acts: in the loss, or (``cost``) in the reward. None: it does not."""
        return "loss"

    @property
    def holds(self) -> bool:
        """False: its coefficient is 0."""
        return True

    def cost(self, batch: Batch) -> Tensor:
        """What every token pays in the reward; constant, zero outside the mask. For ``place="reward"``."""
        raise NotImplementedError

    def __call__(self, scored: Scored, batch: Batch) -> Tensor | None:
        raise NotImplementedError


class Aggregate(Slot):
    """How per-token values become one number: ``batch -> weight_NT``, what a token counts for. All denominators."""

    @property
    def divides_by_length(self) -> bool:
        """Whether a token of a long attempt counts less, or all tokens of the batch share one denominator."""
        return False

    def __call__(self, batch: Batch) -> Tensor:
        raise NotImplementedError


class Correction(Slot):
    """Sampler and learner disagree, or data is stale: ``(scored, batch) -> factor_NT``, constant; None: trust it."""

    @property
    def reweighs(self) -> bool:
        """False: its factors are 0 and 1 and only say which tokens count, so it may be combined with a surrogate whose
        ratio is taken against the sampler."""
        return True

    def cut(self, scored: Scored, batch: Batch) -> Tensor | None:
        """bool NT: whose factor was bounded, or which were dropped. None: nothing of the kind."""
        return None

    def __call__(self, scored: Scored, batch: Batch) -> Tensor | None:
        raise NotImplementedError


class Update(Slot):
    """How far may a step go: ``(learner, objective, minibatch) -> outcome``."""

    @property
    def moves_policy_alone(self) -> bool:
        """Whether it moves the policy's weights without the optimizer, so that nothing may share them."""
        return False

    def __call__(self, learner: Stepper, objective: Loss, minibatch: Batch) -> Outcome:
        raise NotImplementedError


class Sampled(Slot):
    """Who acts. Not called: the loop reads its fields (``upslope.algo.sample``)."""


class Reused(Slot):
    """Passes over one batch. Not called: the loop reads its fields (``upslope.algo.reuse``)."""


CONTRACTS: Mapping[str, type[Slot]] = {
    "sample": Sampled,
    "shape": Shape,
    "advantage": Advantage,
    "surrogate": Surrogate,
    "critic": Critic,
    "regulariser": Regulariser,
    "aggregate": Aggregate,
    "update": Update,
    "reuse": Reused,
    "correction": Correction,
}
"""By slot, in the order in which the loop comes to them."""
NUM_ARGUMENTS: Mapping[str, int] = {
    **dict.fromkeys(("shape", "advantage", "aggregate"), 1),
    **dict.fromkeys(("surrogate", "critic", "regulariser", "correction"), 2),
    "update": 3,
}
KINDS: dict[str, dict[str, Any]] = {slot: {} for slot in CONTRACTS}
"""Every value that a slot can take by name: functions and dataclasses; see ``kind``."""
_DECLARED: dict[Any, dict[str, Any]] = {}
"""What functions have declared to ``kind``."""

Value = TypeVar("Value", bound=Callable[..., Any])


def kind(slot: str, **declared: Any) -> Callable[[Value], Value]:
    """Register a function, or a dataclass, as a value of ``slot``: run files and KEY=VALUE then know it by its name (a
    dataclass by its name in snake case). ``declared`` are members of the slot's contract, for a function.

    Raises TypeError for a slot or a member that there is not, for members declared of a class (it has its own), and
    for a name that a value of the package has.
    """
    if slot not in CONTRACTS:
        raise TypeError(f"there is no slot {slot!r}; slots: {', '.join(CONTRACTS)}")
    unknown = [name for name in declared if name not in _member_names(slot)]
    if unknown:
        raise TypeError(f"slot {slot} declares no {unknown[0]!r}; it declares: {', '.join(_member_names(slot))}")

    def register(value: Value) -> Value:
        name = snake(value.__name__)
        if declared and not isfunction(value):
            raise TypeError(f"{value.__name__} is no function; write {next(iter(declared))} as a member of the class")
        taken = KINDS[slot].get(name)
        if is_own(taken) and not is_own(value):
            raise TypeError(f"{slot} has a value of its own called {name!r}; give yours another name")
        KINDS[slot][name] = value
        if declared:
            _DECLARED[value] = declared
        return value

    return register


def kinds(slot: str) -> Mapping[str, Any]:
    """The values that ``slot`` can take, by name."""
    return KINDS[slot]


def members(slot: str, value: Any) -> Any:
    """What a slot's value declares: itself, if it is of the slot's class; else an object with the slot's defaults, on
    which stands what ``kind`` was told, or what the value has under a declared name."""
    contract = CONTRACTS[slot]
    if isinstance(value, contract):
        return value
    told = {name: getattr(value, name) for name in _member_names(slot) if hasattr(value, name)}
    told |= _DECLARED.get(value, {}) if isfunction(value) else {}
    answers = {name: staticmethod(found) if isfunction(found) else found for name, found in told.items()}
    return type(contract.__name__, (contract,), answers)()


def _member_names(slot: str) -> list[str]:
    contract = CONTRACTS[slot]
    own = [n for c in reversed(contract.__mro__[:-1]) for n in vars(c) if not n.startswith("_")]
    return list(dict.fromkeys(own))
