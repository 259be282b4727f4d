"""Rows of data, and how they become problems on two sides: to learn from, and held out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from upslope.errors import UserError, nearest
from upslope.tasks.base import Split
from upslope.tasks.conversation import until_answered
from upslope.types import Message, Problem

HELD_OUT = 0.1
"""Share of the prompts that the hash holds out."""
HALF = re.compile("[\ud800-\udfff]")
"""Half of a character beyond 16 bits, alone."""


class Row(NamedTuple):
    """A row of data, and where it came from.

    >>> Row("my.jsonl", 3, {"prompt": "1 + 1 ="}, None, 1).where
    'my.jsonl row 3'
    """

    source: str
    """The file or data set."""
    number: int
    """Its place there as a person counts: from 1, blank lines and a head of column names included."""
    value: Mapping[str, Any]
    split: Split | None
    """The side that the source as a whole is on; None: its rows are divided."""
    place: int
    """Its place among the rows, from 0."""

    @property
    def where(self) -> str:
        """Its address for messages."""
        return f"{self.source} row {self.number}"


@dataclass(frozen=True)
class ProblemSet:
    """Problems by side.

    >>> toy = Problem("toy/0", ({"role": "user", "content": "1 + 1 ="},), demonstration="2")
    >>> [problem.id for problem in ProblemSet((toy,), ()).demonstrations()]
    ['toy/0']
    """

    train: tuple[Problem, ...]
    test: tuple[Problem, ...]
    source: str = "the data"
    """Where they come from, for messages."""
    where: Mapping[str, str] = field(default_factory=dict)
    """The row of each, by id."""

    def problems(self, split: Split) -> Sequence[Problem]:
        """One side; a UserError if it is empty."""
        side = {"train": self.train, "test": self.test}[split]
        if not side:
            rows = len(self.train) + len(self.test)
            mend = (
                "give --eval-data, more rows or a 'split' column" if split == "test" else "give --data with more rows"
            )
            raise UserError(f"{self.source} has no {split} problems ({rows} in all): {mend}")
        return side

    def demonstrations(self) -> Sequence[Problem]:
        """Training problems that have one; the held-out ones are never imitated."""
        return [problem for problem in self.train if problem.demonstration is not None]


def make_problem_set(
    name: str,
    rows: Iterable[Row],
    build: Callable[[Mapping[str, Any], str], Problem],
    source: str = "the data",
    undivided: Split | None = None,
) -> ProblemSet:
    """Build each row's problem, put it on its side, and name it ``{name}/{split}/{place}`` unless it has an id.
    ``undivided``: the side of rows that nothing puts on one; None: the hash does.

    As in a data set with columns: a cell that a row lacks is None, whichever batch the row is scored in. Where the two
    sides count their ids alike (both from 0, say), those of the held-out rows get ``test/`` before them: the same id is
    no sign of the same problem there.
    """
    sides: dict[Split, list[Problem]] = {"train": [], "test": []}
    places: dict[Split, list[str]] = {"train": [], "test": []}
    first: dict[str, tuple[str, Split | None]] = {}
    repeated: set[str] = set()
    declaring: bool | None = None  # whether rows of undivided files have a split column, None before the first
    for row in rows:
        problem = build(row.value, row.where)
        require_text(problem, row.where)
        side = _declared(row)
        if row.split is None:
            if declaring not in (None, side is not None):
                raise UserError(f"{row.where}: 'split' must be in all rows or in none, and earlier rows differ")
            declaring = side is not None
        begins = until_answered(problem.conversation) if problem.conversation else problem.messages
        said = row.split or side
        split = said or undivided or ("test" if held_out(begins) else "train")
        problem = dataclasses.replace(problem, id=problem.id or f"{name}/{split}/{row.place}")
        taken, of = first.get(problem.id, ("", None))
        if taken and (None in (of, said) or of == said or problem.id in repeated):
            raise UserError(f"{row.where}: id {problem.id!r} is taken by {taken}; ids must be unique")
        if taken:
            repeated.add(problem.id)
        first[problem.id] = (row.where, said)
        sides[split].append(problem)
        places[split].append(row.where)
    if repeated:
        sides["test"] = _apart(sides["test"], {problem.id for problem in sides["train"]})
    names = dict.fromkeys(key for side in sides.values() for problem in side for key in problem.columns)
    train, test = (tuple(_filled(problem, names) for problem in side) for side in sides.values())
    where = {problem.id: at for split, side in sides.items() for problem, at in zip(side, places[split], strict=True)}
    return ProblemSet(train, test, source, where)


def require_text(problem: Problem, where: str) -> None:
    """Raise UserError, beginning with ``where``, for an id, prompt or demonstration with half a character: JSON can
    write a lone surrogate, and no tokenizer reads it."""
    texts = (problem.id, *(message["content"] for message in problem.messages), problem.demonstration or "")
    for text in (*texts, *_texts_in([*problem.conversation, problem.template])):
        half = half_character(text)
        if half:
            raise UserError(f"{where}: the text has half a character ({half!a}); mend or drop the row")


def _texts_in(value: Any) -> Iterator[str]:
    """Every text in a message, a call of a tool, or a schema."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_in(item)


def half_character(text: str) -> str:
    """The first lone surrogate of a text, which no file and no tokenizer takes; empty if there is none."""
    found = None if text.isascii() else HALF.search(text)
    return found[0] if found else ""


def _apart(held_out: Sequence[Problem], taken: Set[str]) -> list[Problem]:
    """Held-out problems with other ids than the training ones."""
    prefix = "test/"
    while any(prefix + problem.id in taken for problem in held_out):
        prefix += "test/"
    return [dataclasses.replace(problem, id=prefix + problem.id) for problem in held_out]


def _filled(problem: Problem, names: Iterable[str]) -> Problem:
    return dataclasses.replace(problem, columns={name: problem.columns.get(name) for name in names})


def _declared(row: Row) -> Split | None:
    side = row.value.get("split")
    if side is None:
        return None
    if side not in ("train", "test"):
        raise UserError(f"{row.where}: split {side!r}{nearest(str(side), get_args(Split))}")
    if row.split not in (None, side):
        raise UserError(f"{row.where}: split {side!r} in the file of the {row.split} rows; mend or drop the column")
    return "train" if side == "train" else "test"


def held_out(messages: Sequence[Message]) -> bool:
    """Whether the hash puts a prompt on the test side."""
    prompt = json.dumps([[message["role"], message["content"]] for message in messages])
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") < HELD_OUT * 2**64
