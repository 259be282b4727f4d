"""Task ``user``: problems from the user's own file, rewards from the user's own functions.

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

A file may call its columns otherwise: ``columns`` says which of them is the prompt, and so on. Files are read as
``upslope.tasks.files`` says.

Which side a row is on: ``train.jsonl`` and ``test.jsonl`` of a folder, or a second file, say it; else the ``split``
column; else a hash of the prompt holds out one in ten. The hash depends on nothing but the prompt: it is the same in
every run, more rows do not move the old ones, and all rows with the same prompt land on the same side.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from upslope.errors import UserError, nearest
from upslope.tasks.columns import Columns, listed
from upslope.tasks.files import Files, find_files
from upslope.tasks.problem_set import Row
from upslope.tasks.rewards import NO_REWARDS, Rewards
from upslope.tasks.row_task import RowTask
from upslope.types import Message, Problem

ROLES = ("system", "user", "assistant", "tool")


def problem_of(row: Mapping[str, Any], where: str) -> Problem:
    """The problem in a row of the user's file; its id is empty if the row has none."""
    prompt, messages = row.get("prompt"), row.get("messages")
    if (prompt is None) == (messages is None):
        raise UserError(f"{where}: needs either 'prompt' (text or messages) or 'messages'; it has {listed(row)}")
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
        truth=_text(truth),
        demonstration=candidates[0] if candidates else None,
        columns=dict(row),
        plain=isinstance(prompt, str),
    )


def _text(truth: Any) -> str:
    """A cell as text: itself, JSON, or (dates and so on, of Parquet) as Python writes it."""
    if isinstance(truth, str):
        return truth
    return json.dumps(truth, default=str) if isinstance(truth, int | float | list | dict) else str(truth)


def _chat(value: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise UserError(
            f"{where}: a chat must be a non-empty list of {{'role': ..., 'content': ...}}, not {value!r:.60}"
        )
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


class UserTask(RowTask):
    """The user's rows and the user's rewards. Without rewards it can be imitated, but not scored."""

    name = "user"
    reads_answers = False
    fields = (("prompt", "messages"), ("demonstration", "completion"), ("truth",), ("answer",), ("id",), ("split",))

    def __init__(self, files: Files, rewards: Rewards, columns: Columns = MappingProxyType({})) -> None:
        super().__init__(files, rewards, columns)
        self.has_reward = bool(rewards.functions)

    def build(self, row: Mapping[str, Any], where: str) -> Problem:
        return problem_of(row, where)

    def without_files(self) -> Iterable[Row]:
        raise UserError("task user has no data: give --data FILE.jsonl")

    def build_to_score(self, row: Mapping[str, Any], where: str) -> Problem | None:
        """A line of ``upslope score`` that has its own prompt."""
        if row.get("prompt") is None and row.get("messages") is None:
            return None
        return dataclasses.replace(problem_of(row, where), id=where)

    def check_rewards(self) -> None:
        if not self._rewards.functions:
            raise UserError(
                "task user has no reward: give --reward FILE.py:FUNCTION (how answers compare is not guessed)"
            )


def open(
    data: str | None,
    eval_data: str | None = None,
    rewards: Rewards = NO_REWARDS,
    columns: Columns = MappingProxyType({}),
) -> UserTask:
    """The user's task. Paths are checked now, rows are read when they are first needed."""
    return UserTask(find_files(data, eval_data) if data is not None else (), rewards, columns)
