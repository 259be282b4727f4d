"""Rows of text files: JSON lines, a JSON list, CSV, TSV; each plain or compressed.

Every reader yields (row number, row). A number counts as an editor or a spreadsheet does: lines of JSON lines, objects
of a JSON list, records of a CSV file with its head as the first.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from upslope.errors import UserError
from upslope.text.packed import open_bytes

Numbered = Iterator[tuple[int, dict[str, Any]]]
"""Rows with their numbers."""


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """A file of UTF-8 text, with or without a byte order mark. Raises UserError if it cannot be read."""
    with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline=newline) as file:
        yield file


def json_line_file(path: Path) -> Numbered:
    """The objects of a JSONL file."""
    with open_text(path) as file:
        yield from json_lines(file, str(path))


def json_lines(file: TextIO, name: str) -> Numbered:
    """The objects of JSON lines; blank ones are skipped. Raises UserError with ``name`` and the line's number."""
    number = 0
    try:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = _json(line, f"{name} row {number}", "write one JSON object on each line")
                yield number, _object(row, f"{name} row {number}", "write {...} on each line")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} after row {number}: not UTF-8 text ({error.reason}); convert the file") from error


def json_list_file(path: Path) -> Numbered:
    """The objects of a JSON file, which is one list of them."""
    try:
        with open_text(path) as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); convert the file") from error
    value = _json(text, str(path), "write one list of objects, or call a file of one object a line .jsonl")
    if not isinstance(value, list):
        raise UserError(f"{path}: a {type(value).__name__}, not a list of objects; write [{{...}}, {{...}}]")
    for number, row in enumerate(value, start=1):
        yield number, _object(row, f"{path} row {number}", "write [{...}, {...}]")


def _json(text: str, where: str, mend: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); {mend}") from error


def _object(row: Any, where: str, mend: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a {type(row).__name__}, not an object; {mend}")
    return row


def csv_file(path: Path) -> Numbered:
    """The rows of a CSV file whose first row names the columns."""
    return _separated(path, ",")


def tsv_file(path: Path) -> Numbered:
    """The same with tabs between the cells."""
    return _separated(path, "\t")


def _separated(path: Path, separator: str) -> Numbered:
    """Every cell is text (``007`` and ``1.50`` stay as they are), an empty one is None."""
    number = 0
    try:
        with open_text(path, newline="") as file:
            names: list[str] = []
            for number, cells in enumerate(csv.reader(file, delimiter=separator, strict=True), start=1):
                if number == 1:
                    names = _head(cells, path)
                elif cells and len(cells) != len(names):
                    raise UserError(
                        f"{path} row {number}: {len(cells)} cells for {len(names)} columns; put text that holds "
                        f'{separator!r}, a quote or a line break between double quotes (and write " inside as "")'
                    )
                elif cells:  # not a blank line
                    yield number, {name: cell or None for name, cell in zip(names, cells, strict=True)}
            if not names:
                raise UserError(f"{path}: empty; the first row must name the columns")
    except csv.Error as error:
        raise UserError(f"{path} after row {number}: {error}; mend it there, or write JSONL or Parquet") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} after row {number}: not UTF-8 text ({error.reason}); convert the file") from error


def _head(names: list[str], path: Path) -> list[str]:
    for place, name in enumerate(names, start=1):
        if not name.strip():
            raise UserError(f"{path} row 1: column {place} has no name (pandas: to_csv(index=False))")
        if name in names[: place - 1]:
            raise UserError(f"{path} row 1: two columns are called {name!r}; rename one")
    return names
