"""Attempts of a step, read column by column and row group by row group: nothing is loaded whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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

    @property
    def num_rows(self) -> int:
        return int(self._file.metadata.num_rows)

    def has(self, column: str) -> bool:
        return column in self._names

    def brief(self, more: Sequence[str] = ()) -> list[Brief]:
        """Every attempt without its tokens, with its ``place`` in the file."""
        wanted = [name for name in (*BRIEF, *more) if self.has(name)]
        with _complaints(self._path):
            rows: list[Brief] = self._file.read(columns=wanted).to_pylist()
        for place, row in enumerate(rows):
            row["place"] = place
        return rows

    def with_lengths(self, rows: Sequence[Brief]) -> list[Brief]:
        """These rows of ``brief`` with ``num_tokens`` that the policy chose, where the file says; only row groups that
        hold one of them are read."""
        if not self.has("mask"):
            return list(rows)
        wanted, first = {row["place"] for row in rows}, 0
        found: dict[int, int] = {}
        for group in range(self._file.num_row_groups):
            after = first + self._file.metadata.row_group(group).num_rows
            if not wanted.isdisjoint(range(first, after)):
                with _complaints(self._path):
                    column = self._file.read_row_group(group, columns=["mask"]).column("mask")
                    found.update(enumerate(num_chosen(column), start=first))
            first = after
        return [row | {"num_tokens": found[row["place"]]} for row in rows]

    def groups(self, columns: Sequence[str], since: int = 0) -> Iterator[tuple[int, list[Brief]]]:
        """(place of its first row, rows) of each row group with a row from ``since`` on, with those of ``columns`` that
        the file has."""
        wanted, first = [name for name in columns if self.has(name)], 0
        for group in range(self._file.num_row_groups):
            after = first + self._file.metadata.row_group(group).num_rows
            if since < after:
                with _complaints(self._path):
                    rows: list[Brief] = self._file.read_row_group(group, columns=wanted).to_pylist()
                yield first, rows
            first = after

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


def num_chosen(masks: pa.ChunkedArray) -> list[int]:
    """How many are true in each list; 0 where there is none.

    >>> num_chosen(pa.chunked_array([[[True, False, True], [], None, [True]]]))
    [2, 0, 0, 1]
    """
    if not pa.types.is_list(masks.type):
        raise pa.ArrowTypeError(f"mask is {masks.type}, and no list")
    sizes = pc.list_value_length(masks).fill_null(0).to_numpy()
    inside = pc.list_flatten(masks).cast(pa.bool_()).fill_null(False).to_numpy()
    upto, ends = np.concatenate([[0], np.cumsum(inside)]), np.cumsum(sizes)
    found: list[int] = (upto[ends] - upto[ends - sizes]).tolist()
    return found


@contextmanager
def _complaints(path: Path) -> Iterator[None]:
    """Whatever pyarrow says of a damaged file, as one line with the file's name."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeError) as error:  # a path that is no UTF-8 is none to pyarrow
        words = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{path}: cannot read the attempts: {words[0]}") from error
