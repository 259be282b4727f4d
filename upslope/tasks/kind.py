"""What is known of a task before it is opened: what makes it, what that takes, and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from upslope.errors import UserError, nearest

GIVEN: Mapping[str, str] = {
    "data": "--data",
    "eval_data": "--eval-data",
    "rewards": "--reward",
    "reward_weights": "--reward-weights",
    "columns": "task.columns",
}
"""What a user may give to a task that takes it, and how."""
_SPELT: Mapping[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class TaskKind:
    """One entry of the registry.

    >>> kind = TaskKind(lambda seed, level=1: (seed, level), "Toy sums.", frozenset({"seed"}), {"level": int})
    >>> kind.check("toy", {"level": 2}, {"data": None})
    >>> kind.factory(seed=7, level=2)
    (7, 2)
    """

    factory: Callable[..., Any]
    """Called with keywords only: whatever it takes, and the options that were given."""
    help: str
    """One line for the command line's help."""
    takes: frozenset[str] = frozenset()
    """Which of data, eval_data, rewards (with their weights: a ``Rewards``), columns, seed and limits (the
    ``ConversationLimits``) the factory has as parameters. What is given and not taken is refused, but for the seed, of
    which a task that draws nothing has no use."""
    options: Mapping[str, type | None] = field(default_factory=dict)
    """What else it understands, and the type of its value; None: the factory itself looks at it."""
    any_option: bool = False
    """The factory has ``**keywords``: it understands every option."""

    def check(self, name: str, options: Mapping[str, object], given: Mapping[str, object]) -> None:
        """Raise UserError for an unknown option, a value of the wrong type, and what is given (by the names of
        ``GIVEN``; what is empty is not) and not taken."""
        for key, value in options.items():
            self._check_option(name, key, value)
        taken = self.takes | {"reward_weights"} if "rewards" in self.takes else self.takes
        for key, flag in GIVEN.items():
            if given.get(key) and key not in taken:
                raise UserError(f"task {name} cannot use {flag}; drop it")

    def _check_option(self, name: str, key: str, value: object) -> None:
        if key in GIVEN or key == "seed":
            raise UserError(f"task {name} has no option {key!r}; give {GIVEN.get(key, 'seed')} itself")
        if key not in self.options and not self.any_option:
            hint = nearest(key, self.options) if self.options else "; it has none"
            raise UserError(f"task {name} has no option {key!r}{hint}")
        kind = self.options.get(key)
        if kind is float and type(value) is int:
            return
        if kind is not None and type(value) is not kind:  # exactly: true is no whole number
            raise UserError(f"option {key!r} of task {name} must be {_SPELT[kind]}, not {value!r}")
