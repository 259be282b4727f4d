"""Attempts of a step, read column by column and row group by row group: nothing is loaded whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from upslope.errors import UserError

BRIEF = ("problem", "sample", "reward", "kept", "ended", "extracted", "right")
"""What a list of attempts shows; a file without one of them (an evaluation's) goes without."""
Brief = dict[str, Any]
NEEDED: dict[str, Callable[[Any], bool]] = {"problem": pa.types.is_string, "reward": pa.types.is_floating}
"""Columns without which a file is none of attempts, and what they hold."""


class AttemptsFile:
    """One file of attempts. Raises UserError in one line where it cannot be read.

    Row groups are small (``upslope.record.attempts``), so that one attempt of a step with thousands is read alone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _complaints(self._path):
            self._file = pq.ParquetFile(path)
            schema = self._file.schema_arrow
            self._names = frozenset(schema.names)
        for name, fits in NEEDED.items():
            if name not in self._names or not fits(schema.field(name).type):
                raise UserError(f"{path}: it has no column {name} as files of attempts have it")

    def __enter__(self) -> AttemptsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def has(self, column: str) -> bool:
        return column in self._names

    def brief(self, more: Sequence[str] = ()) -> list[Brief]:
        """Every attempt without its tokens, with its ``place`` in the file, and ``num_tokens`` that the policy chose
        where the file says."""
        wanted = [name for name in (*BRIEF, *more) if self.has(name)]
        with _complaints(self._path):
            rows: list[Brief] = self._file.read(columns=wanted).to_pylist()
            lengths = self._lengths()
        for place, row in enumerate(rows):
            row["place"] = place
            if lengths is not None:
                row["num_tokens"] = lengths[place]
        return rows

    def groups(self, columns: Sequence[str]) -> Iterator[tuple[int, list[Brief]]]:
        """(place of its first row, rows) of each row group, with those of ``columns`` that the file has."""
        wanted, first = [name for name in columns if self.has(name)], 0
        for group in range(self._file.num_row_groups):
            with _complaints(self._path):
                rows: list[Brief] = self._file.read_row_group(group, columns=wanted).to_pylist()
            yield first, rows
            first += len(rows)

    def attempt(self, place: int) -> Brief:
        """All columns of one attempt. Raises UserError if there is none at that place."""
        first = 0
        for group in range(self._file.num_row_groups):
            num = self._file.metadata.row_group(group).num_rows
            if first <= place < first + num:
                with _complaints(self._path):
                    table = self._file.read_row_group(group).slice(place - first, 1)
                    row: Brief = table.to_pylist()[0]
                return row
            first += num
        raise UserError(f"{self._path} has no attempt number {place}; it has {first}")

    def _lengths(self) -> list[int] | None:
        if not self.has("mask"):
            return None
        found: list[int] = []
        for group in range(self._file.num_row_groups):
            masks = self._file.read_row_group(group, columns=["mask"]).column("mask").to_pylist()
            found += [sum(map(bool, mask or ())) for mask in masks]
        return found


@contextmanager
def _complaints(path: Path) -> Iterator[None]:
    """Whatever pyarrow says of a damaged file, as one line with the file's name."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        words = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{path}: cannot read the attempts: {words[0]}") from error
