"""From sources to a corpus on the disk: read, without what was there before, tokenised, in shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

from upslope.files import whole_file, write_whole
from upslope.text.documents import read_all
from upslope.text.encoder import Encoder
from upslope.text.origin import Origin, require_unchanged
from upslope.text.packed import Meter
from upslope.text.parts import Document
from upslope.text.pool import tokenised
from upslope.text.seen import Seen, hash_of
from upslope.text.shards import Shard, Shards, clear_records, read_index, tokens_file

FORMAT = 1
"""Of the files below; another one is made anew."""
MANIFEST = "manifest.json"
COLUMNS = {"hash": "S16", "bytes": "<i8", "length": "<i8"}
"""Files ``documents.*``: what is known of every document, one value each, and of which type."""
BATCH_BYTES, BATCH_DOCUMENTS = 1 << 18, 4096
"""What one process is asked at a time, at most."""

Advance = Callable[[int, int | None], None]
"""Is told how many bytes of the sources are through, and of how many, where that is known."""


@dataclass(frozen=True)
class Making:
    """All that a corpus depends on, and how it is made."""

    found: Sequence[Path | str]
    origins: Sequence[Origin]
    column: str
    encoder: Encoder
    workers: int
    progress: Advance | None

    @property
    def key(self) -> str:
        """Of what the tokens depend on; the name of the corpus's folder."""
        parts = [FORMAT, self.column, self.encoder.fingerprint, [origin.content for origin in self.origins]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


class _Otherwise(Exception):
    """The sources do not begin with the documents that are finished."""


@dataclass
class _Batch:
    """New documents, and how far the sources are read with them."""

    done: int = 0
    texts: list[str] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    size: int = 0

    def add(self, document: Document) -> None:
        data = document.text.encode()
        self.texts.append(document.text)
        self.hashes.append(hash_of(data))
        self.sizes.append(len(data))
        self.size += len(data)

    def keep(self, flags: Iterable[bool]) -> None:
        """Only the documents with a flag."""
        places = [i for i, flag in enumerate(flags) if flag]
        self.texts = [self.texts[i] for i in places]
        self.hashes = [self.hashes[i] for i in places]
        self.sizes = [self.sizes[i] for i in places]

    @property
    def full(self) -> bool:
        return self.size >= BATCH_BYTES or len(self.texts) >= BATCH_DOCUMENTS


def make(folder: Path, making: Making) -> None:
    """Make the corpus, or what is missing of it. Raises OSError if it cannot be written, and UserError as reading does.

    After a kill the sources are read once more from their start, since that is how duplicates are known; what is in
    finished shards is not tokenised again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    try:
        _make(folder, making)
    except _Otherwise:  # a data set of the hub that has changed
        clear_records(folder)
        _make(folder, making)


def _make(folder: Path, making: Making) -> None:
    for part in folder.glob(".*.part"):  # of a process that was killed
        part.unlink()
    shards = Shards(folder, making.encoder.dtype)
    reading = _Reading(making, _stored(folder, len(shards.finished)))
    total = None if any(not origin.sha256 for origin in making.origins) else sum(o.size for o in making.origins)
    told = making.progress or (lambda done, total: None)
    try:
        with closing(tokenised(reading.batches(), making.encoder, making.workers)) as answers:
            for batch, encoded in answers:
                shards.add(batch.hashes, batch.sizes, encoded)
                told(batch.done, total)
        shards.finish()
    finally:
        shards.drop()
    require_unchanged(making.origins)
    _conclude(folder, making, shards.finished, reading.duplicates)
    told(reading.meter.done, total)


def _stored(folder: Path, num_shards: int) -> Iterator[bytes]:
    """The hashes of the documents in finished shards."""
    indices = (read_index(folder, number) for number in range(num_shards))
    return chain.from_iterable(index["hash"].tolist() for index in indices)


class _Reading:
    """The sources, from the first document on, without duplicates and what is stored."""

    def __init__(self, making: Making, stored: Iterator[bytes]) -> None:
        self.meter = Meter()
        self.duplicates = 0
        self._documents = read_all(making.found, making.column, self.meter)
        self._stored, self._seen = stored, Seen()

    def batches(self) -> Iterator[_Batch]:
        """Raises _Otherwise if the first documents are not the stored ones."""
        batch = _Batch()
        for document in self._documents:
            batch.add(document)
            if batch.full:
                yield from self._new(batch)
                batch = _Batch()
        yield from self._new(batch)
        if next(self._stored, None) is not None:
            raise _Otherwise

    def _new(self, batch: _Batch) -> Iterator[_Batch]:
        flags = self._seen.add(batch.hashes)
        self.duplicates += len(flags) - sum(flags)
        batch.keep(flags)
        num_stored = 0
        for one, wanted in zip(batch.hashes, self._stored):  # noqa: B905 (the shorter ends it, and loses no stored one)
            if one.rstrip(b"\x00") != wanted:
                raise _Otherwise
            num_stored += 1
        batch.keep(place >= num_stored for place in range(len(batch.hashes)))
        batch.done = self.meter.done
        if batch.texts:
            yield batch


def _conclude(folder: Path, making: Making, shards: Sequence[Shard], duplicates: int) -> None:
    """One index of all documents, and the manifest, with which the corpus is there."""
    index_hash = hashlib.sha256()
    for name, kind in COLUMNS.items():
        with whole_file(folder / f"documents.{name}") as file:
            for number in range(len(shards)):
                data = read_index(folder, number)[name].astype(kind).tobytes()
                index_hash.update(data)
                file.write(data)
    manifest = {
        "format": FORMAT,
        "sources": [{"name": o.name, "bytes": o.size, "sha256": o.sha256} for o in making.origins],
        "column": making.column,
        "tokenizer": making.encoder.fingerprint,
        "end_id": making.encoder.end_id,
        "num_ids": making.encoder.num_ids,
        "dtype": making.encoder.dtype.str,
        "documents": sum(shard.documents for shard in shards),
        "duplicates": duplicates,
        "tokens": sum(shard.tokens for shard in shards),
        "bytes": sum(shard.bytes for shard in shards),
        "index": index_hash.hexdigest(),
        "shards": [asdict(shard) for shard in shards],
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    clear_records(folder)
    for surplus in folder.glob("shard-*.tokens"):
        if surplus not in {tokens_file(folder, number) for number in range(len(shards))}:
            surplus.unlink()
