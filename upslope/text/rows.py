"""The text in rows of JSON lines and Parquet files, one column of them; streamed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from upslope.errors import UserError
from upslope.text.packed import COMPRESSED, Meter, open_bytes
from upslope.text.parts import Document, require_readable_mark, row_parts

LONGEST_ROW = 1 << 26
"""A row of JSON lines is read whole; a longer one is refused, since it is hardly meant."""
BATCH = 256
"""Rows of a Parquet file in memory at once."""


def json_line_texts(path: Path, column: str, meter: Meter) -> Iterator[Document]:
    """The texts of a file of JSON lines; blank lines are skipped, and rows whose text is null or empty.

    Raises UserError with the row's number for what is not one JSON object in UTF-8, and for a missing column.
    """
    number, start = 0, 0
    with open_bytes(path, meter) as file:
        while line := file.readline(LONGEST_ROW):
            number += 1
            where = f"{path}, row {number}"
            if number == 1:
                require_readable_mark(line, str(path))
            if len(line) == LONGEST_ROW:
                raise UserError(f"{where}: longer than {LONGEST_ROW >> 20} MiB; write one JSON object on each line")
            if line.strip():
                row = _json_object(line, where, start)
                yield from row_parts(_text(row, column, where), where)
            start += len(line)


def _json_object(line: bytes, where: str, start: int) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig" if start == 0 else "utf-8"))
    except UnicodeDecodeError as error:
        bad = f"0x{line[error.start]:02x} at byte {start + error.start}"
        raise UserError(f"{where}: not UTF-8 text ({bad}); convert the file (iconv -t UTF-8)") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); write one JSON object on each line") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: a {type(row).__name__}, not an object; write {{...}} on each line")
    return row


def parquet_texts(path: Path, column: str, meter: Meter) -> Iterator[Document]:
    """The texts of a Parquet file; no more of it is in memory than some pages of the one column.

    Raises UserError for a missing column, for one that does not hold text, and for a file that cannot be read.
    """
    if path.suffix.lower() in COMPRESSED:
        with open_bytes(path, meter) as packed, _unpacked(packed, path) as whole:
            yield from _parquet(whole, path, column, Meter())
    else:
        yield from _parquet(path, path, column, meter)


@contextmanager
def _unpacked(packed: BinaryIO, path: Path) -> Iterator[Path]:
    """On the disk for a while, since a Parquet file is not read from its start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "rows.parquet"
        with whole.open("wb", buffering=0) as file:  # closed before it is read: Windows opens no file twice
            while block := memoryview(packed.read(1 << 20)):
                try:
                    while block:
                        block = block[file.write(block) :]
                except OSError as error:
                    raise UserError(f"{path} cannot be unpacked in {tempfile.gettempdir()}: {error.strerror}") from None
        yield whole


def _parquet(file: Path, path: Path, column: str, meter: Meter) -> Iterator[Document]:
    import pyarrow

    number, size = 0, file.stat().st_size
    try:
        import pyarrow.parquet

        # Without a buffer of its own, pyarrow reads all of a column in a group of rows at once, packed.
        with pyarrow.parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as table:
            _require_texts(table.schema_arrow, column, path)
            rows = table.metadata.num_rows
            for batch in table.iter_batches(BATCH, columns=[column], use_threads=False):
                for text in _cells(batch.column(0), path, number):
                    number += 1
                    if text is not None:
                        yield from row_parts(text, f"{path}, row {number}")
                meter.at(size * number // rows)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or str(error).partition(chr(10))[0]}") from error
    except (pyarrow.ArrowException, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise UserError(
            f"{path} after row {number}: cannot be read as a Parquet file ({first}); write it again"
        ) from error


def _require_texts(schema: Any, column: str, path: Path) -> None:
    """Raise UserError unless exactly one column has this name, and holds text."""
    import pyarrow

    if schema.names.count(column) != 1:
        raise _no_column(str(path), column, schema.names)
    kind = schema.field(column).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    is_text = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
    if not any(holds(kind) for holds in is_text):
        raise UserError(f"{path}: column {column!r} holds {kind}, not text; name another column")


def _cells(cells: Any, path: Path, before: int) -> list[str | None]:
    """The values of a batch. Raises UserError for bytes that are no text."""
    try:
        values: list[str | None] = cells.to_pylist()
        return values
    except UnicodeDecodeError:
        for number, cell in enumerate(cells, before + 1):
            try:
                cell.as_py()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, row {number}: not UTF-8 text (0x{error.object[error.start]:02x} at byte {error.start} of "
                    "the text); write the column as UTF-8"
                ) from None
        raise


def row_texts(rows: Iterable[dict[str, Any]], column: str, name: str) -> Iterator[Document]:
    """The texts of rows that are numbered from 1. Raises UserError for a missing column, and for one without text."""
    for number, row in enumerate(rows, 1):
        where = f"{name}, row {number}"
        yield from row_parts(_text(row, column, where), where)


def _text(row: dict[str, Any], column: str, where: str) -> str:
    """Of one row; empty where it is null."""
    if column not in row:
        raise _no_column(where, column, list(row))
    value = row[column]
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: column {column!r} holds a {type(value).__name__}, not text; name another column")
    return value or ""


def _no_column(where: str, column: str, names: list[str]) -> UserError:
    if column in names:
        return UserError(f"{where}: two columns are called {column!r}; rename one")
    there = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return UserError(f"{where}: no column {column!r}; there {'is' if len(names) == 1 else 'are'} {there or 'none'}")
