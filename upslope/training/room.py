"""Whether what a model is to read and to write fits its positions, as far as it can be known before a run begins."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from upslope.errors import UserError
from upslope.model.chat_template import NOTHING
from upslope.model.renderer import Renderer, is_raw, prompt_of
from upslope.training.shown import shown_rows
from upslope.types import Message, Problem, Sampling

T = TypeVar("T")
RowPlace = Callable[[Problem], str]
"""A problem's address, for messages (``Task.place``)."""
AROUND_A_TURN, AROUND_TOOLS = 32, 2048
"""Tokens: more than chat templates write around one message, and to say that there are tools."""


def by_id(problem: Problem) -> str:
    """The address of a problem whose task is not known."""
    return problem.id


@dataclass(frozen=True)
class LongRow:
    """A row that the model's positions have no room for, and how many tokens it takes.

    >>> LongRow(Problem("toy/0", ()), prompt=300, more=8).total
    308
    """

    problem: Problem
    prompt: int
    more: int
    """Tokens to write, or to imitate."""

    @property
    def total(self) -> int:
        return self.prompt + self.more


class Room:
    """The model's positions, and what does not fit them. A text of fewer bytes than there are positions is not
    tokenised: a token takes a byte at least."""

    def __init__(self, renderer: Renderer, sampling: Sampling, max_positions: int, place: RowPlace = by_id) -> None:
        self._renderer, self._sampling, self.positions = renderer, sampling, max_positions
        self._place, self._most = place, _MostTokens(renderer)

    def too_long_to_attempt(self, problems: Iterable[Problem]) -> list[LongRow]:
        """Those whose prompt and the longest attempt at it do not fit. Raises UserError, with its address, for one that
        cannot be made tokens."""
        num = self._sampling.max_tokens
        found = []
        for problem in problems:
            if self._most(problem) + num > self.positions:
                prompt = addressed(problem, self._place, partial(prompt_of, self._renderer, problem))
                found.append(LongRow(problem, len(prompt), num))
        return [row for row in found if row.total > self.positions]

    def too_long_to_imitate(self, problems: Iterable[Problem]) -> list[LongRow]:
        """Those whose prompt and demonstration (or conversation, or document) do not fit. Raises as the other."""
        found = []
        for problem in problems:
            if self._most(problem) + _num_shown(problem) > self.positions:
                rows = addressed(problem, self._place, partial(shown_rows, self._renderer, problem))
                prompt, response, _ = max(rows, key=lambda row: len(row.prompt) + len(row.response))
                found.append(LongRow(problem, len(prompt), len(response)))
        return [row for row in found if row.total > self.positions]

    def shortened(self, problem: Problem) -> Problem | None:
        """The problem without as much of the beginning of its longest message as is needed for an attempt to fit; None
        where not even that is enough. What the chat template writes around messages stays whole, also where the prompt
        is a string in which it stands already."""
        which = max(range(len(problem.messages)), key=lambda i: len(problem.messages[i]["content"]))
        text = problem.messages[which]["content"]
        first, last = self._renderer.words_in(text) if is_raw(self._renderer, problem) else (0, len(text))

        def cut(begin: int) -> Problem:
            messages = [dict(m) for m in problem.messages]
            messages[which]["content"] = text[:first] + text[begin:]
            return replace(problem, messages=tuple(messages))

        def fits(begin: int) -> bool:
            return len(prompt_of(self._renderer, cut(begin))) + self._sampling.max_tokens <= self.positions

        low, high = first, last - 1  # at ``low`` it does not fit
        if high <= low or not fits(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return cut(high)


def addressed(problem: Problem, place: RowPlace, make: Callable[[], T]) -> T:
    """What ``make`` makes of a problem; a UserError of its begins with the problem's address, and says what to do."""
    try:
        return make()
    except UserError as error:
        words = str(error)
        known = words.startswith(problem.id)  # whoever knows the problem has named it
        told = words[len(problem.id) :] if known else f": {words}"
        raise UserError(f"{place(problem)}{told}; mend or drop the row") from error


MEND_ATTEMPTS = "lower sample.max_tokens or shorten the prompt"


def of_long(
    rows: Sequence[LongRow], num: int, what: str, max_positions: int, place: RowPlace, *, shown: bool = False
) -> str:
    """The longest of these rows with its address, and how many of all ``num`` there are, in words."""
    many = f"; of {num:,} {what} {len(rows):,} are too long, and this is the longest" if len(rows) > 1 else ""
    return f"{of_longest(rows, max_positions, place, shown=shown)}{many}"


def of_longest(rows: Sequence[LongRow], max_positions: int, place: RowPlace, *, shown: bool = False) -> str:
    """The longest of these rows with its address, in words."""
    longest = longest_of(rows)
    more = f"{longest.more} to imitate" if shown else f"max_tokens={longest.more}"
    kind = "" if shown else "problem "
    return (
        f"{kind}{place(longest.problem)}: {longest.prompt} prompt tokens and {more} do not fit the model's "
        f"{max_positions} positions"
    )


def longest_of(rows: Sequence[LongRow]) -> LongRow:
    """The row that takes the most tokens, the first of such."""
    return max(rows, key=lambda row: row.total)


def _num_shown(problem: Problem) -> int:
    """As many tokens as there can be to imitate, beside the prompt."""
    if not problem.conversation:
        return num_bytes(problem.demonstration or "") + 1
    after = problem.conversation[len(problem.messages) :]
    told = sum(num_bytes(message["content"]) for message in after)
    return told + _num_beside(after) + AROUND_A_TURN * len(after)


def _num_beside(messages: Sequence[Message], options: Mapping[str, Any] = NOTHING) -> int:
    """As many tokens as a template may make of calls and tools: their bytes as JSON of the widest form, and more."""
    beside = [{k: v for k, v in message.items() if k not in ("role", "content", "train")} for message in messages]
    if not any(beside) and not options:
        return 0
    return num_bytes(json.dumps([beside, dict(options)], indent=4, default=str)) + AROUND_TOOLS


class _MostTokens:
    """As many tokens as a prompt can have: its bytes, and what the chat template adds to a chat of these roles."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._added: dict[tuple[str, ...], int] = {}

    def __call__(self, problem: Problem) -> int:
        roles = tuple(message["role"] for message in problem.messages)
        if roles not in self._added:
            self._added[roles] = self._of(problem)
        told = sum(num_bytes(message["content"]) for message in problem.messages)
        return self._added[roles] + told + _num_beside(problem.messages, problem.template)

    def _of(self, problem: Problem) -> int:
        short = [{**message, "content": "a"} for message in problem.messages]
        try:
            return len(self._renderer.prompt_ids(short) if short else self._renderer.start_ids)
        except UserError:  # such a chat is refused, or only what stands in for its words: the row itself says
            return sys.maxsize // 2


def num_bytes(text: str) -> int:
    """How long a text is in a file."""
    return len(text.encode("utf-8", "replace"))
