"""Somebody else's words as an attempt: their tokens, and which of them are imitated."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from upslope.errors import UserError
from upslope.model.renderer import Renderer
from upslope.types import Problem


def shown_tokens(
    renderer: Renderer, text: str, replies: Sequence[tuple[int, int]] = ()
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """A demonstration's tokens, and which of them are to be imitated: not ``replies``, spans of characters where the
    world speaks. Both are tokenised apart, as they are when a policy writes and the world replies."""
    if not replies:
        response = renderer.response_ids(text)
        return response, (True,) * len(response)
    ids: list[int] = []
    mask: list[bool] = []
    places = [0, *(place for span in replies for place in span), len(text)]
    for index, (begin, end) in enumerate(itertools.pairwise(places)):
        part = renderer.middle_ids(text[begin:end]) if index else renderer.response_ids(text[begin:end])[:-1]
        ids += part
        mask += [index % 2 == 0] * len(part)
    return (*ids, renderer.end_ids[0]), (*mask, True)


def require_shown_room(problem: Problem, prompt: Sequence[int], response: Sequence[int], max_positions: int) -> None:
    """Raise UserError unless a text to imitate fits the model's positions."""
    if len(prompt) + len(response) > max_positions:
        raise UserError(
            f"{problem.id}: {len(prompt)} prompt tokens and {len(response)} to imitate do not fit the model's "
            f"{max_positions} positions; shorten the text {(problem.demonstration or '')[:40]!r}"
        )
