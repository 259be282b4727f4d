"""Somebody else's words as attempts: their tokens, and which of them are imitated."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from upslope.errors import UserError
from upslope.model.renderer import Renderer, Shown, prompt_of
from upslope.types import Group, Problem, Rollout, Score


def shown_group(renderer: Renderer, problem: Problem, max_positions: int, *, cuts: bool = False) -> Group:
    """Somebody else's words as attempts with reward 1: the problem's conversation, its demonstration, or, where it has
    no messages, a document. One attempt, or several where the chat template writes earlier turns of a conversation
    otherwise than they were written. What the model's positions have no room for is left off if ``cuts``. Raises
    UserError, which names the problem."""
    rollouts = []
    for sample, whole in enumerate(shown_rows(renderer, problem)):
        prompt, response, mask = _cut(whole, max_positions) if cuts else whole
        if not any(mask):
            continue
        require_shown_room(problem, prompt, response, max_positions)
        text = problem.demonstration or ""
        if problem.conversation:
            text = renderer.text([token for token, counted in zip(response, mask, strict=True) if counted])
        ended: Literal["stop", "length"] = "stop" if len(response) == len(whole.response) else "length"
        rollouts.append(Rollout(problem.id, sample, prompt, response, mask, None, 0, ended, text, Score(1.0)))
    return Group(problem, tuple(rollouts))


def _cut(shown: Shown, max_positions: int) -> Shown:
    """Without the end that there is no room for; the token that ends a turn is not put in its place."""
    room = max(max_positions - len(shown.prompt), 0)
    return Shown(shown.prompt, shown.response[:room], shown.mask[:room])


def held_out_groups(
    problems: Sequence[Problem], renderer: Renderer, max_positions: int, *, cuts: bool = False
) -> list[Group]:
    """The demonstrations and conversations among these held-out problems, which are never imitated: to measure how well
    they are predicted. Empty if there are none. Raises UserError, which names the problem."""
    shown = [p for p in problems if p.demonstration is not None]
    return [shown_group(renderer, problem, max_positions, cuts=cuts) for problem in shown]


def shown_rows(renderer: Renderer, problem: Problem) -> list[Shown]:
    """What is read and what is imitated of a problem's demonstration, conversation or document. Raises UserError, which
    names the problem."""
    try:
        if problem.conversation:
            rows = renderer.shown_turns(problem.conversation, problem.template)
            if not rows:
                raise UserError("no assistant's turn of the conversation is to be imitated")
            return rows
        prompt = prompt_of(renderer, problem) if problem.messages else renderer.start_ids
    except UserError as error:
        raise UserError(f"{problem.id}: {error}") from error
    end = renderer.turn_end_id if problem.messages else renderer.end_ids[0]
    return [Shown(prompt, *shown_tokens(renderer, problem.demonstration or "", problem.replies, end=end))]


def shown_tokens(
    renderer: Renderer, text: str, replies: Sequence[tuple[int, int]] = (), *, end: int | None = None
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """A demonstration's tokens, and which of them are to be imitated: not ``replies``, spans of characters where the
    world speaks. Both are tokenised apart, as they are when a policy writes and the world replies. ``end`` ends it, or
    the token that ends an assistant's turn."""
    end = renderer.turn_end_id if end is None else end
    ids: list[int] = []
    mask: list[bool] = []
    places = [0, *(place for span in replies for place in span), len(text)]
    for index, (begin, stop) in enumerate(itertools.pairwise(places)):
        part = renderer.middle_ids(text[begin:stop]) if index else renderer.response_ids(text[begin:stop])[:-1]
        ids += part
        mask += [index % 2 == 0] * len(part)
    told = len(ids)
    while told and not renderer.text(ids[told - 1 : told]).strip() and ids[told - 1] not in renderer.end_ids:
        told -= 1  # a template writes a line's end behind the end of a turn
    if told and mask[told - 1] and ids[told - 1] in renderer.end_ids:  # the text has it already
        return (*ids[:told],), (*mask[:told],)
    return (*ids, end), (*mask, True)


def require_shown_room(problem: Problem, prompt: Sequence[int], response: Sequence[int], max_positions: int) -> None:
    """Raise UserError unless a text to imitate fits the model's positions."""
    if len(prompt) + len(response) > max_positions:
        raise UserError(
            f"{problem.id}: {len(prompt)} prompt tokens and {len(response)} to imitate do not fit the model's "
            f"{max_positions} positions; {mend_shown(problem)}"
        )


def mend_shown(problem: Problem) -> str:
    """What to do about one that is too long to imitate."""
    what, text = "text", problem.demonstration or ""
    if problem.conversation:
        what, text = "conversation", problem.conversation[0]["content"]
    return f"shorten the {what} {text[:40]!r}"
