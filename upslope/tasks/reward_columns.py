"""What reward functions ask for by name is a column of the rows, known before anything is scored."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence

from upslope.errors import UserError, nearest
from upslope.tasks.reward_calls import RewardFunction
from upslope.types import Problem

NO_COLUMNS = frozenset(
    {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments"}
)
"""What a reward function may ask for that is no column: whoever calls it says whether there is such a thing."""

GIVEN = ("prompts", "completions")
"""Those of them that there always are."""


def require_columns(functions: Mapping[str, RewardFunction], problems: Sequence[Problem]) -> None:
    """Raise UserError for a parameter without a default that is no column of the rows."""
    known = dict.fromkeys(name for problem in problems for name in problem.columns)
    for function, wanted in _wanted_of_all(functions):
        if problems and wanted not in known and wanted not in NO_COLUMNS:
            raise UserError(
                f"reward function {function!r} needs {wanted!r}: no such column in any row"
                f"{nearest(wanted, [*known, *GIVEN])}; rename one (task.columns), or give the parameter a default"
            )


def _wanted_of_all(functions: Mapping[str, RewardFunction]) -> Iterator[tuple[str, str]]:
    """(function, parameter) of all that have to be given."""
    for name, function in functions.items():
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # some callables written in C have no signature
            continue
        for p in parameters:
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.default is p.empty:
                yield name, p.name
