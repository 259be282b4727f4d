"""Columns renamed: the user says which of a file's own columns is the prompt, the answer and so on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from upslope.errors import UserError, nearest
from upslope.tasks.problem_set import Row

Fields = tuple[tuple[str, ...], ...]
"""What a task reads of a row. The names within one tuple say the same thing, so that a row has only one of them."""
Columns = Mapping[str, str]
"""The file's own column by the field that it fills: ``{"prompt": "question"}``."""


def check_columns(task: str, columns: Columns, fields: Fields) -> None:
    """Raise UserError for a field that the task does not read."""
    known = [name for group in fields for name in group]
    for field in columns:
        if field not in known:
            raise UserError(f"task.columns.{field}: task {task} reads no field {field!r}{nearest(field, known)}")


def rename(row: Mapping[str, Any], columns: Columns, fields: Fields) -> dict[str, Any]:
    """The row as if its file had been written with the task's own names.

    A column that the file itself calls by the field's name, or by another name of the same field, gives way to the
    chosen one.

    >>> rename({"question": "1 + 1 =", "answer": "2"}, {"prompt": "question"}, (("prompt", "messages"), ("answer",)))
    {'answer': '2', 'prompt': '1 + 1 ='}
    """
    replaced = {name for group in fields if not columns.keys().isdisjoint(group) for name in group}
    gone = replaced | set(columns.values())
    kept = {name: cell for name, cell in row.items() if name not in gone}
    return kept | {field: row[own] for field, own in columns.items() if own in row}


def listed(names: Iterable[str]) -> str:
    """The columns there are, for messages."""
    return ", ".join(names) or "no columns"


def renamed_rows(rows: Iterable[Row], columns: Columns, fields: Fields) -> Iterator[Row]:
    """All rows renamed. Raises UserError for a column that no row of one of the files has."""
    if not columns:
        yield from rows
        return
    rows = list(rows)
    known: dict[str, dict[str, None]] = {}
    for row in rows:
        known.setdefault(row.source, {}).update(dict.fromkeys(row.value))
    for source, names in known.items():
        for field, own in columns.items():
            if own not in names:
                raise UserError(f"task.columns.{field}: {source} has no column {own!r}; it has {listed(names)}")
    for row in rows:
        yield row._replace(value=rename(row.value, columns, fields))
