"""Rows of Parquet and Arrow files, and of folders that ``datasets`` saved; read by pyarrow, without ``datasets``.

Every reader yields (row number from 1, row). Nested columns come as lists and dicts, so chats are what they are in
JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upslope.errors import UserError
from upslope.tasks.text_files import Numbered
from upslope.text.packed import require_no_pointer

STATE = "state.json"
"""In the folder of a data set that ``save_to_disk`` wrote: which files hold its rows, in which order."""
SPLITS = "dataset_dict.json"
"""In the folder of several: their names, which are those of their folders."""
_FILE_MAGIC = b"ARROW1"
"""What an Arrow file (Feather version 2) begins with; a stream, as ``datasets`` writes it, does not."""


def parquet_file(path: Path) -> Numbered:
    """The rows of a Parquet file."""
    with _told(path, "a Parquet file"):
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _rows(file.schema_arrow.names, file.iter_batches(), path)


def arrow_file(path: Path) -> Numbered:
    """The rows of an Arrow file or stream, or of a Feather file (version 2)."""
    with _told(path, "an Arrow file or stream"):
        import pyarrow

        with pyarrow.OSFile(str(path)) as source:
            is_file = source.read(len(_FILE_MAGIC)) == _FILE_MAGIC
            source.seek(0)
            if is_file:
                reader = pyarrow.ipc.open_file(source)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                reader = batches = pyarrow.ipc.open_stream(source)
            yield from _rows(reader.schema.names, batches, path)


def saved_folder(path: Path) -> Numbered:
    """The rows of a data set that ``Dataset.save_to_disk`` wrote. Raises UserError if it lacks a file, or was saved
    with a selection of rows that stands in a file of its own (by very old versions)."""
    state = _json_file(path / STATE)
    if state.get("_indices_data_files"):
        raise UserError(f"{path}: its rows are selected by a file of indices; load and save it with a newer datasets")
    try:
        files = [path / file["filename"] for file in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path / STATE}: names no data files; save the data set again with save_to_disk") from error
    before = 0
    for file in files:
        number = 0
        for number, row in arrow_file(file):
            yield before + number, row
        before += number


def saved_splits(path: Path) -> list[str]:
    """The names of the data sets in a folder that ``DatasetDict.save_to_disk`` wrote."""
    splits = _json_file(path / SPLITS).get("splits")
    if not isinstance(splits, list):
        raise UserError(f"{path / SPLITS}: names no splits; save the data sets again with save_to_disk")
    return [str(split) for split in splits]


def _json_file(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); save the data set again with save_to_disk") from error
    return value if isinstance(value, dict) else {}


def _rows(names: list[str], batches: Iterable[Any], path: Path) -> Numbered:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: two columns are called {twice!r}; rename one")
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield number, row


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """Errors of pyarrow as one line."""
    import pyarrow

    try:
        require_no_pointer(path)
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or str(error).partition(chr(10))[0]}") from error
    except (pyarrow.ArrowException, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"{path}: cannot be read as {what} ({first}); write it again") from error
