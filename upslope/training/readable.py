"""Every row that a run will take is made tokens once before its first step, so that none of them ends it later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from upslope.errors import UserError
from upslope.model.renderer import Renderer, prompt_of
from upslope.training.room import RowPlace, addressed
from upslope.training.shown import shown_rows
from upslope.types import Problem

PATIENCE = 10.0
"""Seconds after which, and as often, it is said how far this is."""


def require_readable(
    attempted: Sequence[Problem],
    imitated: Sequence[Problem],
    renderer: Renderer,
    place: RowPlace,
    say: Callable[[str], None],
) -> None:
    """Raise UserError, with the address of the first and how many there are, for rows that the chat template refuses or
    the tokenizer cannot read. ``say`` is told how far it is where that takes long."""
    jobs: list[tuple[Problem, Callable[[], object]]] = [(p, partial(prompt_of, renderer, p)) for p in once(attempted)]
    jobs += [(p, partial(shown_rows, renderer, p)) for p in once(imitated)]
    first, num, began = None, 0, time.monotonic()
    for done, (problem, make) in enumerate(jobs):
        if time.monotonic() - began > PATIENCE:
            say(f"looking at the rows before the first step: {done:,} of {len(jobs):,}")
            began = time.monotonic()
        try:
            addressed(problem, place, make)
        except UserError as error:
            first, num = first or error, num + 1
    if first is not None:
        more = f" ({num:,} of the {len(jobs):,} rows that were looked at are like this)" if num > 1 else ""
        raise UserError(f"{first}{more}") from first


def once(problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once, by id."""
    return list({problem.id: problem for problem in problems}.values())
