"""Task ``user``: problems from the user's own file, rewards from the user's own functions.

A row is one problem:

========================  =============================================================================================
``prompt``                the problem: a string, or a list of chat messages ``{"role": ..., "content": ...}`` (as TRL
                          has it), which may be written as JSON, as in a CSV file; one of the assistant's at its end
                          is a beginning, which attempts go on with
``messages``              instead of ``prompt``: a chat, of which all assistant turns are imitated; what stands before
                          a final one is the prompt of whoever attempts it, unless that one is a beginning
``demonstration``         optional: a response to imitate; ``completion`` is the same (string, or messages, of which the
                          assistant's are imitated)
``truth``                 optional: the right answer; ``answer`` is the same where there is no ``truth``
``tools``                 optional: JSON schemas for the chat template
``chat_template_kwargs``  optional: further keywords of the chat template, such as ``{"enable_thinking": false}``
``id``                    optional: unique name; ``user/train/12`` (the row's place in its file, from 0) if missing
``split``                 optional, in all rows or none: ``train`` or ``test``
anything else             handed to the reward functions by its name, as are ``truth``, ``answer``, ``id`` and so on
========================  =============================================================================================

``upslope.tasks.conversation`` says what else a message may hold. The final assistant turn of ``messages`` is taken for
the beginning of an answer if it says so (``prefix: true``), if it ends with a tag that it opens (``<think>``), or if it
is the same text in all rows and they have something to judge by; ``prefix: false`` says that it is none.

A file may call its columns otherwise: ``columns`` says which of them is the prompt, and so on. Files are read as
``upslope.tasks.files`` says.

Which side a row is on: ``train.jsonl`` and ``test.jsonl`` of a folder, or a second file, say it; else the ``split``
column; else a hash of the prompt holds out one in ten. The hash depends on nothing but the prompt: it is the same in
every run, more rows do not move the old ones, and all rows with the same prompt land on the same side.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from upslope.errors import UserError
from upslope.tasks.columns import Columns, listed
from upslope.tasks.conversation import chat_in, chat_of, is_beginning, options_of, prompt_in, read_only
from upslope.tasks.files import Files, find_files
from upslope.tasks.problem_set import Row
from upslope.tasks.rewards import NO_REWARDS, Rewards
from upslope.tasks.row_task import RowTask
from upslope.types import Message, Problem

PROMPTING = frozenset({"messages", "id", "split", "tools", "chat_template_kwargs"})
"""Columns of rows that are there to be imitated."""
OTHERS = {
    "messages": ("conversations", "conversation", "dialog", "dialogue", "chat"),
    "prompt": ("question", "problem", "instruction", "query", "input", "text"),
}
"""What other files call them."""


def problem_of(row: Mapping[str, Any], where: str, beginning: str = "") -> Problem:
    """The problem in a row of the user's file; its id is empty if the row has none. ``beginning``: a final text of the
    assistant's that is no answer."""
    prompt, messages = (chat_in(row.get(name), f"{where}: {name}") for name in ("prompt", "messages"))
    if (prompt is None) == (messages is None):
        raise UserError(
            f"{where}: needs either 'prompt' (text or messages) or 'messages'; it has {listed(row)}{_meant(row)}"
        )
    clash = next((key for key in ("prompts", "completions") if key in row), None)
    if clash:
        raise UserError(f"{where}: rename the column {clash!r}, reward functions get their own argument of that name")
    chat = (
        ({"role": "user", "content": prompt},)
        if isinstance(prompt, str)
        else chat_of(messages if prompt is None else prompt, where)
    )
    named = ("demonstration", "completion")
    given = [chat_in(row[key], f"{where}: {key}") for key in named if row.get(key) is not None]
    after: tuple[Message, ...] | None = None
    if given:
        after = ({"role": "assistant", "content": given[0]},) if isinstance(given[0], str) else chat_of(given[0], where)
        if after[-1]["role"] != "assistant":
            raise UserError(f"{where}: a demonstration must be text, or messages that end with an assistant's")
    last = chat[-1]
    begins = messages is None or is_beginning(last) or ("prefix" not in last and last["content"] == beginning != "")
    chat = tuple({key: value for key, value in message.items() if key != "prefix"} for message in chat)
    if last["role"] == "assistant" and not begins:
        given.append(chat)
        chat, after = chat[:-1], chat[-1:]
    if not any(message["content"].strip() for message in chat if message["role"] != "assistant"):
        raise UserError(f"{where}: the prompt is empty")
    if len(given) > 1:
        raise UserError(f"{where}: has several demonstrations; keep one of demonstration, completion, messages[-1]")
    truth = next((row[key] for key in ("truth", "answer") if row.get(key) is not None), "")
    return Problem(
        id="" if row.get("id") is None else str(row["id"]),
        messages=prompt_in(chat),
        truth=_text(truth),
        demonstration=None if after is None else after[-1]["content"],
        conversation=_conversation(chat, after, where, is_prompt=messages is None),
        template=options_of(row, where),
        columns=dict(row),
        plain=isinstance(prompt, str),
    )


def _meant(row: Mapping[str, Any]) -> str:
    """How to say which of its columns is the prompt, and which of them may be."""
    if row.keys() & {"prompt", "messages"}:
        return ""
    there = [(field, name) for field, names in OTHERS.items() for name in names if row.get(name)]
    field, name = there[0] if there else ("prompt", OTHERS["prompt"][0])
    return f"; say which column is which, as task.columns.{field}={name}"


def _text(truth: Any) -> str:
    """A cell as text: itself, JSON, or (dates and so on, of Parquet) as Python writes it."""
    if isinstance(truth, str):
        return truth
    if isinstance(truth, bytes):
        return truth.decode("utf-8", "replace")
    return json.dumps(truth, default=str) if isinstance(truth, int | float | list | dict) else str(truth)


def _conversation(
    chat: tuple[Message, ...], after: tuple[Message, ...] | None, where: str, *, is_prompt: bool
) -> tuple[Message, ...]:
    """The conversation to imitate: ``chat``, which is only read if it ``is_prompt``, and what comes ``after`` it. Empty
    where there is none, and where a text after a prompt is all of it."""
    plain = is_prompt and after is not None and len(after) == 1 and after[0].keys() == {"role", "content"}
    if after is None or plain:
        return ()
    whole = (*(read_only(chat) if is_prompt else chat), *after)
    if not any(message["role"] == "assistant" and message.get("train", True) for message in whole):
        raise UserError(f"{where}: every assistant message is left out of imitation; leave one in, or drop the row")
    return whole


def common_beginning(chats: Sequence[Any]) -> str:
    """The text with which the assistant ends every chat of several; empty if they end otherwise. Nobody is shown one
    answer to different questions.

    >>> chat = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "The sum is"}]
    >>> common_beginning([chat, [{"role": "user", "content": "2?"}, chat[1]]]), common_beginning([chat])
    ('The sum is', '')
    """
    lasts = [chat[-1] if isinstance(chat, list) and chat else None for chat in chats]
    if len(lasts) < 2 or not all(isinstance(m, dict) and m.get("role") == "assistant" for m in lasts):
        return ""
    texts = {str(message["content"]) for message in lasts if message is not None and message.get("content")}
    asked = {json.dumps(chat[:-1], default=str) for chat in chats}
    return texts.pop() if len(texts) == 1 and len(asked) > 1 else ""


class UserTask(RowTask):
    """The user's rows and the user's rewards. Without rewards it can be imitated, but not scored."""

    name = "user"
    reads_answers = False
    fields = (
        *(("prompt", "messages"), ("demonstration", "completion"), ("truth",), ("answer",), ("id",), ("split",)),
        *(("tools",), ("chat_template_kwargs",)),
    )

    def __init__(self, files: Files, rewards: Rewards, columns: Columns = MappingProxyType({})) -> None:
        super().__init__(files, rewards, columns)
        self.has_reward = bool(rewards.functions)
        self._beginning = ""

    def look_over(self, rows: Sequence[Row]) -> None:
        to_judge = all(row.value.keys() - PROMPTING for row in rows)  # something that a reward may ask for
        self._beginning = common_beginning([row.value.get("messages") for row in rows]) if to_judge else ""

    def build(self, row: Mapping[str, Any], where: str) -> Problem:
        return problem_of(row, where, self._beginning)

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
