"""Task ``user``: problems from the user's own JSONL file, rewards from the user's own functions.

A row is one problem:

=================  ====================================================================================================
``prompt``         the problem: a string, or a list of chat messages ``{"role": ..., "content": ...}`` (as TRL has it)
``messages``       instead of ``prompt``: a chat; a final assistant message is the demonstration, the rest the prompt
``demonstration``  optional: a response to imitate; ``completion`` is the same (string, or one assistant message)
``truth``          optional: the right answer; ``answer`` is the same where there is no ``truth``
``id``             optional: unique name; ``user/train/12`` (the row's place in its file, from 0) if missing
``split``          optional, in all rows or none: ``train`` or ``test``
anything else      handed to the reward functions by its name, as are ``truth``, ``answer``, ``id`` and so on
=================  ====================================================================================================

Which side a row is on: ``train.jsonl`` and ``test.jsonl`` of a folder, or a second file, say it; else the ``split``
column; else a hash of the prompt holds out one in ten. The hash depends on nothing but the prompt: it is the same in
every run, more rows do not move the old ones, and all rows with the same prompt land on the same side.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, get_args

from upslope.errors import UserError, nearest
from upslope.tasks.base import Split
from upslope.tasks.scoring import NO_REWARDS, Rewards, json_lines
from upslope.types import Message, Problem, Score

HELD_OUT = 0.1
"""Share of the prompts that the hash holds out."""
ROLES = ("system", "user", "assistant", "tool")

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


def problem_of(row: Mapping[str, Any], where: str) -> Problem:
    """The problem in a row of the user's file; its id is empty if the row has none."""
    prompt, messages = row.get("prompt"), row.get("messages")
    if (prompt is None) == (messages is None):
        raise UserError(f"{where}: needs either 'prompt' (text or messages) or 'messages'")
    clash = next((key for key in ("prompts", "completions") if key in row), None)
    if clash:
        raise UserError(f"{where}: rename the column {clash!r}, reward functions get their own argument of that name")
    chat = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else _chat(prompt or messages, where)
    candidates = [_completion(row[key], where) for key in ("demonstration", "completion") if row.get(key) is not None]
    if chat[-1]["role"] == "assistant":
        if messages is None:
            raise UserError(f"{where}: 'prompt' ends with an assistant message; use 'messages' to give a demonstration")
        candidates.append(chat[-1]["content"])
        chat = chat[:-1]
    if not chat or not any(message["content"].strip() for message in chat):
        raise UserError(f"{where}: the prompt is empty")
    if len(candidates) > 1:
        raise UserError(f"{where}: has several demonstrations; keep one of demonstration, completion, messages[-1]")
    truth = next((row[key] for key in ("truth", "answer") if row.get(key) is not None), "")
    return Problem(
        id="" if row.get("id") is None else str(row["id"]),
        messages=chat,
        truth=truth if isinstance(truth, str) else json.dumps(truth),
        demonstration=candidates[0] if candidates else None,
        columns=dict(row),
        plain=isinstance(prompt, str),
    )


def _chat(value: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise UserError(f"{where}: a chat must be a non-empty list of {{'role': ..., 'content': ...}}")
    for message in value:
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise UserError(f"{where}: message role {role!r}{nearest(str(role), ROLES)}")
        if not isinstance(content, str):
            raise UserError(f"{where}: message content must be text, not {type(content).__name__}")
        extra = [key for key, item in message.items() if key not in ("role", "content") and item is not None]
        if extra:
            raise UserError(f"{where}: message key {extra[0]!r} is not supported; keep role and content")
    return tuple({"role": message["role"], "content": message["content"]} for message in value)


def _completion(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    chat = _chat(value, where)
    if len(chat) != 1 or chat[0]["role"] != "assistant":
        raise UserError(f"{where}: a demonstration must be text or one assistant message")
    return chat[0]["content"]


class UserTask:
    """The user's rows and the user's rewards. Without rewards it can be imitated, but not scored."""

    name = "user"
    reads_answers = False

    def __init__(self, files: Files, rewards: Rewards) -> None:
        self._files, self._rewards = files, rewards

    @cached_property
    def _table(self) -> Table:
        if not self._files:
            raise UserError("task user has no data: give --data FILE.jsonl")
        table = make_table(self.name, file_rows(self._files), problem_of)
        # As in a data set with columns: a cell that a row lacks is None, whichever batch the row is scored in.
        names = dict.fromkeys(key for problem in (*table.train, *table.test) for key in problem.columns)
        return Table(*(tuple(_filled(problem, names) for problem in side) for side in (table.train, table.test)))

    def problems(self, split: Split) -> Sequence[Problem]:
        return self._table.problems(split)

    def demonstrations(self) -> Sequence[Problem]:
        return self._table.demonstrations()

    def documents(self) -> Sequence[str]:
        return ()

    def problem_from_row(self, row: Mapping[str, Any], where: str) -> Problem | None:
        """A line of ``upslope score`` that has its own prompt."""
        if row.get("prompt") is None and row.get("messages") is None:
            return None
        return dataclasses.replace(problem_of(row, where), id=where)

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """The weighted sum of the user's rewards; a UserError (even for no responses) if there are none."""
        if not self._rewards.functions:
            raise UserError(
                "task user has no reward: give --reward FILE.py:FUNCTION (how answers compare is not guessed)"
            )
        return self._rewards.score(problems, responses)

    def fingerprint(self) -> str:
        return self._table.fingerprint()


def _filled(problem: Problem, names: Iterable[str]) -> Problem:
    return dataclasses.replace(problem, columns={name: problem.columns.get(name) for name in names})


def open(data: str | None, eval_data: str | None = None, rewards: Rewards = NO_REWARDS) -> UserTask:
    """The user's task. Paths are checked now, rows are read when they are first needed."""
    return UserTask(find_files(data, eval_data) if data is not None else (), rewards)
