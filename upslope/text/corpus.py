"""Text as tokens, made once and mapped into memory: what pretraining reads."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from upslope.errors import Unavailable, UserError, of_system
from upslope.text.documents import find_sources
from upslope.text.encoder import Encoder
from upslope.text.held_out import held_out_documents
from upslope.text.making import COLUMNS, FORMAT, MANIFEST, Advance, Making, make
from upslope.text.origin import origins
from upslope.text.shards import tokens_file

MAPS = 64
"""Shards mapped at once: each takes a descriptor, of which a process has a thousand or so."""
FOR_ONE_PROCESS = 1 << 22
"""Bytes of sources for which another process is not worth its start."""


class Corpus:
    """Documents as tokens on the disk, D of them; immutable, each document once, and no more of it in memory than what
    was read last. Open one with ``open_corpus``."""

    length_D: NDArray[np.int64]
    """Tokens of each document, its end token included."""
    bytes_D: NDArray[np.int64]
    """Bytes of its text in UTF-8."""
    held_out_D: NDArray[np.bool_]
    """Whether it is kept from training: by the hash of its text, so in every run. What stands beside it counts only
    where there are so few documents that none is among the share, or all are (``held_out_documents``)."""
    fingerprint: str
    """Of the documents in their order, the tokenizer and what is held out."""
    duplicates: int
    """Documents that were left out because their text was there before."""
    num_ids: int
    """One more than the largest token there can be."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], held_out: float) -> None:
        self.folder = folder
        self.length_D = _mapped(folder / "documents.length", COLUMNS["length"])
        self.bytes_D = _mapped(folder / "documents.bytes", COLUMNS["bytes"])
        self.held_out_D = held_out_documents(_mapped(folder / "documents.hash", ">u8").reshape(-1, 2), held_out)
        self.duplicates, self.num_ids = int(manifest["duplicates"]), int(manifest["num_ids"])
        self.fingerprint = hashlib.sha256(
            json.dumps([manifest[key] for key in ("format", "tokenizer", "index")] + [held_out]).encode()
        ).hexdigest()
        self._dtype = np.dtype(manifest["dtype"])
        self._begin_D = np.cumsum(self.length_D) - self.length_D
        self._first = [0, *accumulate(int(shard["documents"]) for shard in manifest["shards"])]
        self._map: Callable[[int], NDArray[Any]] = lru_cache(MAPS)(self._mapped_shard)

    def read(self, document: int, start: int = 0, stop: int | None = None) -> NDArray[np.int64]:
        """The tokens of a document from ``start`` to before ``stop`` (None: its end), the last of all being its end
        token. Raises UserError if the file is gone or damaged, IndexError for what is not there."""
        if not 0 <= document < len(self.length_D):
            raise IndexError(f"document {document} of {len(self.length_D)}")
        length = int(self.length_D[document])
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise IndexError(f"tokens {start} to {stop} of {length}")
        shard = bisect_right(self._first, document) - 1
        begin = int(self._begin_D[document] - self._begin_D[self._first[shard]])
        token_K = self._map(shard)[begin + start : begin + stop].astype(np.int64)
        if len(token_K) and int(token_K.max()) >= self.num_ids:
            raise UserError(
                f"{tokens_file(self.folder, shard)} is damaged: it holds a token that the tokenizer does not have; "
                f"delete {self.folder}, and it is made again"
            )
        return token_K

    def _mapped_shard(self, number: int) -> NDArray[Any]:
        try:
            return _mapped(tokens_file(self.folder, number), self._dtype)
        except OSError as error:
            raise UserError(f"cannot read {of_system(error)}; start again, and it is made again") from error


def open_corpus(
    sources: Sequence[str],
    *,
    column: str = "text",
    tokenizer: Any,
    end_id: int,
    held_out: float,
    folder: Path,
    workers: int = 0,
    progress: Advance | None = None,
) -> Corpus:
    """The documents of the sources as tokens; tokenised now, or found in ``folder``, where each corpus has a folder of
    its own named by the content of its sources, the column and the tokenizer.

    ``tokenizer`` is one of transformers, or of tokenizers, and ``end_id`` is put behind each document. ``held_out`` is
    the share of documents kept from training: those whose hash, as a number in [0, 1), is below it. If there is none
    it is the one with the smallest hash, which with other documents beside it may be another one; a single document is
    never held out. ``workers``: processes that tokenise,
    0 for as many as there are cores (none for little text); the result is the same. ``progress`` is told how many bytes
    of how many are done.

    A kill, Ctrl-C or a full disk leaves the finished shards, and the next call goes on behind them. A second process
    that wants the same corpus waits for the first. A corpus that is not whole is made again. A data set of the hub is
    taken as it was when it was first read.

    Raises UserError for sources that cannot be read or hold no text, and Unavailable where the system has no room.
    """
    if not 0 <= held_out < 1:
        raise UserError(f"held_out = {held_out:g} is no share of the documents; give a number from 0 to below 1")
    if workers < 0:
        raise UserError(f"workers = {workers} must be at least 0")
    found = find_sources(sources)
    encoder = Encoder(tokenizer, end_id)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made_of = origins(found, folder)
        size = max(sum(origin.size for origin in made_of), *(0 if o.sha256 else 1 << 62 for o in made_of))
        making = Making(found, made_of, column, encoder, workers or _num_processes(size), progress)
        place = folder / making.key
        corpus = _opened(place, held_out)
        if corpus is None:
            with FileLock(folder / f".{making.key}.lock"):
                corpus = _opened(place, held_out)  # another process may have made it
                if corpus is None:
                    _make_whole(place, making)
                    corpus = _opened(place, held_out)
    except OSError as error:
        kept = " (what is finished is kept)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise Unavailable(
            f"tokenised text cannot be kept in {folder}: {of_system(error)}{kept}; make room, or set UPSLOPE_CACHE to "
            "another folder"
        ) from error
    if corpus is None:
        raise RuntimeError(f"{place} was made and is not whole")
    return corpus


def _make_whole(place: Path, making: Making) -> None:
    """Make it; for sources that cannot be read nothing stays, since mended ones are other sources."""
    try:
        make(place, making)
    except Unavailable:
        raise
    except UserError:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _opened(folder: Path, held_out: float) -> Corpus | None:
    """The corpus in a folder; None if there is none, or a file of it is missing or not as long as it should be, or what
    is known of its documents is not what was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            return None
        sizes = {folder / f"documents.{n}": manifest["documents"] * np.dtype(k).itemsize for n, k in COLUMNS.items()}
        for number, shard in enumerate(manifest["shards"]):
            sizes[tokens_file(folder, number)] = shard["tokens"] * np.dtype(manifest["dtype"]).itemsize
        whole = all(path.stat().st_size == size for path, size in sizes.items()) and _agree(folder, manifest)
        return Corpus(folder, manifest, held_out) if whole else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _agree(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the index of all documents is the one that was written, and its lengths make up each shard. The tokens
    themselves, of which there may be many, are looked at as they are read."""
    index_hash = hashlib.sha256()
    for name in COLUMNS:
        with (folder / f"documents.{name}").open("rb") as file:
            while block := file.read(1 << 20):
                index_hash.update(block)
    lengths_D, stop = _mapped(folder / "documents.length", COLUMNS["length"]), 0
    for shard in manifest["shards"]:
        start, stop = stop, stop + int(shard["documents"])
        if int(lengths_D[start:stop].sum()) != shard["tokens"]:
            return False
    return bool(stop == manifest["documents"] and index_hash.hexdigest() == manifest["index"])


def _num_processes(size: int) -> int:
    """For sources of this many bytes; none where this process is faster alone, or can give no other its end of a
    pipe."""
    if sys.platform == "win32":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, size // FOR_ONE_PROCESS)


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
