"""How long a data set's texts are in a model's tokens, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from upslope.errors import UserError
from upslope.model.renderer import Renderer, prompt_of
from upslope.training.shown import shown_rows
from upslope.types import Problem


@dataclass(frozen=True)
class TokenLengths:
    """Of some texts, in tokens, and which do not fit.

    >>> TokenLengths((5, 1, 3), ()).spread
    (1, 3, 5, 5)
    """

    tokens: tuple[int, ...]
    too_long: tuple[str, ...]
    refused: tuple[str, ...] = ()
    """A line for each that the chat template refuses."""

    @property
    def spread(self) -> tuple[int, int, int, int]:
        """Least, median, 95th percentile, most; zeros of nothing."""
        ordered = sorted(self.tokens) or [0]
        return ordered[0], ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1) + 0.5)], ordered[-1]


def of_prompts(problems: Iterable[Problem], renderer: Renderer, room: int) -> TokenLengths:
    """``room``: tokens that a prompt may have, so that the longest attempt still fits behind it."""
    return _lengths(problems, lambda problem: [len(prompt_of(renderer, problem))], room)


def of_demonstrations(problems: Iterable[Problem], renderer: Renderer, room: int) -> TokenLengths:
    """Prompt and what is imitated together; a conversation may make several rows."""
    return _lengths(
        problems, lambda problem: [len(row.prompt) + len(row.response) for row in shown_rows(renderer, problem)], room
    )


def _lengths(problems: Iterable[Problem], count: Callable[[Problem], Sequence[int]], room: int) -> TokenLengths:
    tokens: list[int] = []
    too_long: list[str] = []
    refused: list[str] = []
    for problem in problems:
        try:
            found = count(problem)
        except UserError as error:
            line = str(error)
            refused.append(line if line.startswith(problem.id) else f"{problem.id}: {line}")
            continue
        tokens += found
        if max(found, default=0) > room:
            too_long.append(problem.id)
    return TokenLengths(tuple(tokens), tuple(too_long), tuple(refused))
