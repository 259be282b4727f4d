"""Tokens on the disk, in shards: each is complete or not there at all, so work that was killed goes on behind them."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from upslope.files import part_of, write_whole
from upslope.text.encoder import Encoded
from upslope.text.seen import HASH

SHARD = 1 << 25
"""A shard ends with the document that brings its text to this many bytes: what a kill costs at most."""
INDEX = np.dtype([("hash", HASH), ("bytes", "<i8"), ("length", "<i8")])
"""What is known of each document of a shard, until there is one index of all."""


@dataclass(frozen=True)
class Shard:
    """What a finished shard holds.

    >>> Shard(documents=2, tokens=9, bytes=30, sha256="ab").tokens
    9
    """

    documents: int
    tokens: int
    bytes: int
    """Of the text, in UTF-8."""
    sha256: str
    """Of the file of tokens."""


def tokens_file(folder: Path, number: int) -> Path:
    """Where a shard's tokens are: one after the other, little-endian."""
    return folder / f"shard-{number:05}.tokens"


def index_file(folder: Path, number: int) -> Path:
    """Where a shard's ``INDEX`` is."""
    return folder / f"shard-{number:05}.index"


def _record(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05}.json"


class Shards:
    """Writes documents into shards, one after the other."""

    def __init__(self, folder: Path, dtype: np.dtype[Any]) -> None:
        """Goes on behind the shards that are there and whole."""
        self._folder, self._dtype = folder, dtype
        self.finished = list(_finished(folder, dtype))
        self._open: _Open | None = None

    def add(self, hashes: list[bytes], sizes: list[int], encoded: Encoded) -> None:
        """Documents with the hash and the bytes of each text. Raises OSError if they cannot be written."""
        stops = np.cumsum(encoded.length_D)
        for i, (hashed, size) in enumerate(zip(hashes, sizes, strict=True)):
            if self._open is None:
                self._open = _Open(tokens_file(self._folder, len(self.finished)))
            length = int(encoded.length_D[i])
            tokens = encoded.token_K[int(stops[i]) - length : int(stops[i])].astype(self._dtype, copy=False)
            self._open.add(tokens.tobytes(), hashed, size, length)
            if self._open.size >= SHARD:
                self.finish()

    def finish(self) -> None:
        """Finish the shard that is being written, if there is one."""
        if self._open is None:
            return
        number = len(self.finished)
        shard, index = self._open.finish()
        write_whole(index_file(self._folder, number), index.tobytes())
        write_whole(
            _record(self._folder, number), json.dumps(asdict(shard)).encode()
        )  # the last: now the shard is there
        self.finished.append(shard)
        self._open = None

    def drop(self) -> None:
        """Leave out what is not finished."""
        if self._open is not None:
            self._open.drop()
            self._open = None


class _Open:
    """A shard that is being written."""

    def __init__(self, path: Path) -> None:
        self._path, self._aside = path, part_of(path)
        self._file = self._aside.open("wb")
        self._hash = hashlib.sha256()
        self._hashes, self._sizes, self._lengths = bytearray(), array("q"), array("q")
        self.size = 0

    def add(self, tokens: bytes, hashed: bytes, size: int, length: int) -> None:
        self._file.write(tokens)
        self._hash.update(tokens)
        self._hashes += hashed
        self._sizes.append(size)
        self._lengths.append(length)
        self.size += size

    def finish(self) -> tuple[Shard, NDArray[Any]]:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._aside.replace(self._path)
        index = np.empty(len(self._sizes), dtype=INDEX)
        index["hash"], index["bytes"], index["length"] = (
            np.frombuffer(self._hashes, HASH),
            np.frombuffer(self._sizes, np.int64),
            np.frombuffer(self._lengths, np.int64),
        )
        num_tokens = int(index["length"].sum())
        return Shard(len(index), num_tokens, self.size, self._hash.hexdigest()), index

    def drop(self) -> None:
        try:
            self._file.close()  # writes what is left, for which there may be no room
        except OSError:
            pass
        finally:
            self._aside.unlink(missing_ok=True)


def _finished(folder: Path, dtype: np.dtype[Any]) -> Iterator[Shard]:
    """The whole shards from the first on; one that is damaged ends them."""
    number = 0
    while _record(folder, number).is_file():
        try:
            shard = Shard(**json.loads(_record(folder, number).read_bytes()))
            index = read_index(folder, number)
            whole = len(index) == shard.documents and int(index["length"].sum()) == shard.tokens
            with tokens_file(folder, number).open("rb") as file:
                whole = whole and hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256
        except (OSError, ValueError, TypeError):
            return
        if not whole or tokens_file(folder, number).stat().st_size != shard.tokens * dtype.itemsize:
            return
        yield shard
        number += 1


def read_index(folder: Path, number: int) -> NDArray[Any]:
    """What is known of a shard's documents."""
    index: NDArray[Any] = np.fromfile(index_file(folder, number), dtype=INDEX)
    return index


def clear_records(folder: Path) -> None:
    """Take away what only an unfinished corpus needs, and what was being written when a process was killed."""
    for pattern in ("shard-*.json", "shard-*.index", ".*.part"):
        for path in folder.glob(pattern):
            path.unlink()
