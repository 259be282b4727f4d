"""Rows of JSONL files, and how they become problems on two sides: to learn from, and held out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO, get_args

from upslope.errors import UserError, nearest
from upslope.tasks.base import Split
from upslope.types import Message, Problem

HELD_OUT = 0.1
"""Share of the prompts that the hash holds out."""

Files = tuple[tuple[Path, Split | None], ...]
"""JSONL files and the side each holds; None: its rows are divided."""


class Row(NamedTuple):
    """A row of data, and where it came from."""

    where: str
    value: Mapping[str, Any]
    split: Split | None
    place: int


@dataclass(frozen=True)
class Table:
    """Problems read from rows, by side: what ``gsm8k`` and ``user`` are made of."""

    train: tuple[Problem, ...]
    test: tuple[Problem, ...]

    def problems(self, split: Split) -> Sequence[Problem]:
        """One side; a UserError if it is empty."""
        side = {"train": self.train, "test": self.test}[split]
        if not side:
            rows = len(self.train) + len(self.test)
            mend = (
                "give --eval-data, more rows or a 'split' column" if split == "test" else "give --data with more rows"
            )
            raise UserError(f"the data has no {split} problems ({rows} in all): {mend}")
        return side

    def demonstrations(self) -> Sequence[Problem]:
        """Training problems that have one; the held-out ones are never imitated."""
        return [problem for problem in self.train if problem.demonstration is not None]

    def fingerprint(self) -> str:
        """SHA-256 over every field of every problem, in order."""
        digest = hashlib.sha256()
        for split, side in (("train", self.train), ("test", self.test)):
            for problem in side:
                digest.update(json.dumps([split, dataclasses.asdict(problem)], sort_keys=True).encode() + b"\n")
        return digest.hexdigest()


def find_files(data: str, eval_data: str | None = None) -> Files:
    """The files behind ``--data`` (a JSONL file, or a folder with train.jsonl, test.jsonl) and ``--eval-data``."""
    path = Path(data)
    if path.is_dir():
        files: list[tuple[Path, Split | None]] = [
            (path / f"{split}.jsonl", split) for split in get_args(Split) if (path / f"{split}.jsonl").is_file()
        ]
        if not files:
            raise UserError(f"{path}: a data folder needs train.jsonl or test.jsonl, and has neither")
    else:
        files = [(_jsonl(path), "train" if eval_data else None)]
    if eval_data is None:
        return tuple(files)
    if any(split == "test" or file.resolve() == Path(eval_data).resolve() for file, split in files):
        raise UserError(f"--eval-data {eval_data}: {path} already holds these or other test rows; drop one of the two")
    return (*files, (_jsonl(Path(eval_data)), "test"))


def _jsonl(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"there is no data file {path}")
    if path.suffix != ".jsonl":
        raise UserError(
            f"{path}: data must be .jsonl, one JSON object a line (pandas: to_json(orient='records', lines=True))"
        )
    return path


def file_rows(files: Files) -> Iterator[Row]:
    """All rows of the files, in order."""
    for path, split in files:
        for place, (where, value) in enumerate(json_lines(path)):
            yield Row(where, value, split, place)


def make_table(name: str, rows: Iterable[Row], build: Callable[[Mapping[str, Any], str], Problem]) -> Table:
    """Build each row's problem, put it on its side, and name it ``{name}/{split}/{place}`` unless it has an id."""
    sides: dict[Split, list[Problem]] = {"train": [], "test": []}
    first: dict[str, str] = {}
    declaring: bool | None = None  # whether rows of undivided files have a split column, None before the first
    for row in rows:
        problem = build(row.value, row.where)
        side = _declared(row)
        if row.split is None:
            if declaring not in (None, side is not None):
                raise UserError(f"{row.where}: 'split' must be in all rows or in none, and earlier rows differ")
            declaring = side is not None
        split = row.split or side or ("test" if held_out(problem.messages) else "train")
        problem = dataclasses.replace(problem, id=problem.id or f"{name}/{split}/{row.place}")
        if problem.id in first:
            raise UserError(f"{row.where}: id {problem.id!r} is taken by {first[problem.id]}; ids must be unique")
        first[problem.id] = row.where
        sides[split].append(problem)
    return Table(tuple(sides["train"]), tuple(sides["test"]))


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


def json_lines(source: Path | TextIO) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSONL file or stream, each with its address for messages; blank lines are skipped."""
    if isinstance(source, Path):
        try:
            with source.open(encoding="utf-8-sig") as file:
                yield from json_lines(file)
        except OSError as error:
            raise UserError(f"cannot read {source}: {error.strerror}") from error
        return
    name = "standard input" if source is sys.stdin else str(getattr(source, "name", "input"))
    number = 0
    try:
        for number, line in enumerate(source, start=1):
            if line.strip():
                yield f"{name} row {number}", _json_object(line, f"{name} row {number}")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} after row {number}: not UTF-8 text ({error.reason}); convert the file") from error


def _json_object(line: str, where: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        row = json.loads(line, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); write one JSON object on each line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: a {type(row).__name__}, not an object; write {{...}} on each line")
    return row
