"""What TRL's trainer hands to reward functions besides the rows: how far it is, and ways to write something down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from upslope.errors import UserError
from upslope.plugins import said
from upslope.tasks.response import Standing
from upslope.tasks.reward_values import finite


@dataclass
class TrainerState:
    """``trainer_state``: what of transformers' ``TrainerState`` makes sense here, under its names.

    >>> TrainerState(global_step=3, max_steps=10).is_world_process_zero
    True
    """

    global_step: int = 0
    """Steps that are done."""
    max_steps: int = 0
    """Of the whole run; 0 where there is none (``upslope score``)."""
    epoch: float = 0.0
    num_train_epochs: int = 0
    log_history: list[dict[str, float]] = field(default_factory=list)
    """Always empty: the journal has that."""
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True

    @staticmethod
    def of(standing: Standing) -> TrainerState:
        """A fresh one: whatever a function does to it is its own business."""
        step, steps, epoch = standing
        passes = -(-epoch * steps // step) if step else 0.0
        return TrainerState(step, steps, epoch, num_train_epochs=int(passes))


class WrittenDown:
    """What the reward functions of one batch write down by ``log_metric`` and ``log_extra``."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._metrics: dict[str, list[float]] = {}
        self._extra: dict[str, list[Any]] = {}

    def log_metric(self, name: str, value: Any) -> None:
        """A number of the batch; of several under one name it is the mean. Raises UserError for what is none."""
        number = finite(value)
        if number is None:
            raise UserError(f"log_metric({said(name)}, {said(value):.60}): the value must be a finite number")
        self._metrics.setdefault(str(name), []).append(number)

    def log_extra(self, column: str, values: Any) -> None:
        """A value for each response. Raises UserError unless there are as many."""
        listed = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else values
        listed = values.tolist() if hasattr(values, "tolist") else listed
        if not isinstance(listed, list) or len(listed) != self._num:
            raise UserError(
                f"log_extra({said(column)}, ...) needs a list with one value for each of {self._num} completions"
            )
        self._extra[str(column)] = [_plain(value) for value in listed]

    @property
    def metrics(self) -> dict[str, float]:
        return {name: sum(values) / len(values) for name, values in self._metrics.items()}

    def extra(self, place: int) -> dict[str, Any]:
        """What was said of one response."""
        return {column: values[place] for column, values in self._extra.items()}


def _plain(value: Any) -> Any:
    """As JSON can hold it, or its text."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        number = finite(value)
        return said(value, str) if number is None else number
