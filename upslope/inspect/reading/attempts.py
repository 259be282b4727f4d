"""Attempts of a step, read column by column and row group by row group: nothing is loaded whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from upslope.errors import UserError

BRIEF = ("problem", "sample", "reward", "kept", "ended", "extracted")
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
        with self._complaints():
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
        with self._complaints():
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
            with self._complaints():
                rows: list[Brief] = self._file.read_row_group(group, columns=wanted).to_pylist()
            yield first, rows
            first += len(rows)

    def attempt(self, place: int) -> Brief:
        """All columns of one attempt. Raises UserError if there is none at that place."""
        first = 0
        for group in range(self._file.num_row_groups):
            num = self._file.metadata.row_group(group).num_rows
            if first <= place < first + num:
                with self._complaints():
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

    def _complaints(self) -> _Complaints:
        return _Complaints(self._path)


class _Complaints:
    """Whatever pyarrow says of a damaged file, as one line with the file's name."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, OSError | pa.ArrowException | UnicodeDecodeError):
            words = str(error).splitlines() or [type(error).__name__]
            raise UserError(f"{self._path}: cannot read the attempts: {words[0]}") from error


def speakable(value: Any) -> Any:
    """What JSON can say of a cell: None for a number that is not finite, text without lone surrogates.

    >>> speakable({"logp": [-0.5, float("nan")]})
    {'logp': [-0.5, None]}
    """
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {key: speakable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [speakable(inner) for inner in value]
    return value
