"""``upslope tokenizer``: a tokenizer of one's own text, and how well it packs text that it was not made from."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from huggingface_hub import try_to_load_from_cache  # comes with transformers
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from upslope.errors import UserError
from upslope.files import flush_folder, part_of, sync_folder
from upslope.inspect.screen import console_aside
from upslope.inspect.words import visible
from upslope.model.byte_pairs import learn_tokenizer, require_vocabulary
from upslope.model.hf import system_errors
from upslope.model.load import open_tokenizer
from upslope.text.documents import find_sources, read_all
from upslope.text.encoder import Encoder
from upslope.text.held_out import first_of_hash, kept_out
from upslope.text.packed import Meter

KNOWN = ("openai-community/gpt2", "gpt2", "HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct")
"""Tokenizers to compare with, where the hub's cache has them."""
IN_MEMORY = 2**24
"""Characters of held-out text that are kept in memory; more goes to a temporary file."""
BETWEEN_MOVES = 256
"""Documents after which the bar moves."""
BETWEEN_LINES = 10.0
"""Seconds after which a line says how far it is, where there is no bar."""


class Packing(NamedTuple):
    """How a tokenizer packs some text."""

    name: str
    vocabulary: int
    num_bytes: int
    num_tokens: int

    @property
    def bytes_a_token(self) -> float:
        """More is better: a model reads, and is trained on, as many bytes with each token."""
        return self.num_bytes / self.num_tokens


class Learnt(NamedTuple):
    """A tokenizer that was written, what it was made from, and what it was measured on."""

    num_tokens: int
    num_documents: int
    num_bytes: int
    """Of the documents that it was learnt from."""
    num_held_out: int
    packings: tuple[Packing, ...]
    """Its own on the held-out documents, then those of others; none where no document was held out."""

    def __str__(self) -> str:
        """``8,192 tokens, from 200 documents (0.1 MB)``"""
        return f"{self.num_tokens:,} tokens, from {self.num_documents:,} documents ({self.num_bytes / 1e6:,.1f} MB)"


def write_tokenizer(
    sources: Sequence[str],
    out: Path,
    vocabulary: int,
    *,
    column: str = "text",
    held_out: float = 0.01,
    others: Mapping[str, Any] | None = None,
    bar: Console | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Learnt:
    """Learn it, write it to ``out``, measure it on the held-out documents beside ``others``. How far it is goes to
    ``bar``, a terminal, or, where there is none, to ``say`` in a line now and then. Raises UserError before anything is
    read, where that can be known."""
    require_vocabulary(vocabulary)
    require_absent(out)
    with (
        _in_threads(),
        tempfile.SpooledTemporaryFile(IN_MEMORY, mode="w+", encoding="utf-8") as spool,
    ):
        reading = _Divided(find_sources(sources), column, held_out, spool)
        tokenizer = _learnt(reading, vocabulary, bar, say)
        with _whole(out) as folder, system_errors(out):
            tokenizer.save_pretrained(folder)
        compared = ({str(out): tokenizer} | dict(others or {})) if reading.held else {}
        packings = tuple(packing(name, each, reading.held_texts()) for name, each in compared.items())
    return Learnt(len(tokenizer), reading.learnt, reading.num_bytes, reading.held, packings)


def tokenizer_command(
    sources: Sequence[str],
    out: Path,
    vocabulary: int,
    *,
    column: str = "text",
    held_out: float = 0.01,
    against: Sequence[str] = (),
) -> None:
    """The same, and print a table; progress goes to standard error. Raises UserError as ``write_tokenizer`` does."""
    require_vocabulary(vocabulary)
    require_share(held_out)
    require_absent(out)
    others = dict(zip(against, map(open_tokenizer, against), strict=True)) | cached_tokenizers()
    aside = console_aside()

    def say(line: str) -> None:
        aside.print(f"upslope tokenizer: {line}", highlight=False, markup=False)

    bar = aside if aside.is_terminal else None
    made = write_tokenizer(
        sources, out, vocabulary, column=column, held_out=held_out, others=others, bar=bar, say=say
    )  # fmt: skip
    print(f"tokenizer   {out}: {made}")
    if not made.packings:
        print("measured    no document was held out; give more text, or raise --held-out")
        return
    print(f"measured    on {made.num_held_out:,} held-out documents ({made.packings[0].num_bytes / 1e6:,.2f} MB)")
    Console(width=None if aside.is_terminal else 200).print(packing_table(made.packings))


def packing(name: str, tokenizer: Any, texts: Iterable[str]) -> Packing:
    """What a tokenizer makes of the texts, as pretraining reads them: special tokens in them are text. No end tokens
    are counted."""
    encode = Encoder(tokenizer, 0).open()
    num_bytes = num_tokens = 0
    for text in texts:
        num_bytes += len(text.encode())
        num_tokens += sum(map(len, encode([text])))
    return Packing(name, len(tokenizer), num_bytes, num_tokens)


def packing_table(packings: Sequence[Packing]) -> Table:
    """A row for each."""
    table = Table("tokenizer", box=None, padding=(0, 2, 0, 0))
    for head in ("vocabulary", "tokens", "bytes a token"):
        table.add_column(head, justify="right")
    for each in packings:
        table.add_row(
            Text(visible(each.name)), f"{each.vocabulary:,}", f"{each.num_tokens:,}", f"{each.bytes_a_token:.2f}"
        )
    return table


def cached_tokenizers() -> dict[str, Any]:
    """Those of ``KNOWN`` that the hub's cache holds, one of each kind; the network is not asked."""
    found: dict[str, Any] = {}
    for name in KNOWN:
        file = try_to_load_from_cache(name, "tokenizer.json")
        if isinstance(file, str) and not any(name.split("-")[0] == other.split("-")[0] for other in found):
            with contextlib.suppress(UserError):  # a cache may hold part of it; nobody asked for this one
                found[name] = open_tokenizer(str(Path(file).parent))
    return found


def require_share(held_out: float) -> None:
    """Raise UserError for a share that leaves nothing to learn from, or is none."""
    if not 0 <= held_out < 1:
        raise UserError(f"--held-out {held_out:g} must be at least 0 and below 1")


def require_absent(out: Path) -> None:
    """Raise UserError for a directory that holds something, or a file, since nothing is ever overwritten; and for one
    that cannot be made, which would else show when all text has been read."""
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise UserError(f"{out} is there already; name another directory, or remove it")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    try:
        tempfile.TemporaryDirectory(prefix=".upslope-", dir=above).cleanup()
    except OSError as error:
        raise UserError(f"{out} cannot be made: {above}: {error.strerror}; name another directory") from error


class _Divided:
    """The documents on their way: most to be learnt from, some into the spool, to be measured on."""

    def __init__(self, found: Sequence[Path | str], column: str, share: float, spool: IO[str]) -> None:
        self.meter = Meter()
        self._documents = read_all(found, column, self.meter)
        self._share, self._spool = share, spool
        self.total = sum(one.stat().st_size for one in found if isinstance(one, Path))
        self.learnt = self.held = self.num_bytes = 0

    def texts(self) -> Iterator[str]:
        """Those to learn from. Where none is among the share, the one with the smallest hash is held out, as a corpus
        of these documents does; with other documents beside them that corpus may hold out another."""
        waiting: list[str] = []  # the same text, with the smallest hash so far, while none is held out
        for document in self._documents:
            text = document.text
            if kept_out(text, self._share):
                self._hold(text)
            elif self.held or not self._share or (waiting and first_of_hash(text) > first_of_hash(waiting[0])):
                yield self._learn(text)
            elif text in waiting:
                waiting.append(text)
            else:
                yield from map(self._learn, waiting)
                waiting = [text]
        if self.held or not self.learnt:
            yield from map(self._learn, waiting)
        else:
            for text in waiting:
                self._hold(text)

    def _learn(self, text: str) -> str:
        self.learnt += 1
        self.num_bytes += len(text.encode())
        return text

    def _hold(self, text: str) -> None:
        self.held += 1
        self._spool.write(json.dumps(text) + "\n")

    def held_texts(self) -> Iterator[str]:
        self._spool.seek(0)
        return map(json.loads, self._spool)


def _learnt(reading: _Divided, vocabulary: int, bar: Console | None, say: Callable[[str], object]) -> Any:
    """``learn_tokenizer`` of what is read, with a bar, or a line now and then where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=bar, transient=True, disable=bar is None) as progress:
        shown = progress.add_task("text read", total=reading.total or None)
        said = time.monotonic()

        def passing() -> Iterator[str]:
            nonlocal said
            for number, text in enumerate(reading.texts()):
                if number % BETWEEN_MOVES == 0:
                    progress.update(shown, completed=reading.meter.done)
                    if bar is None and time.monotonic() - said > BETWEEN_LINES:
                        said = time.monotonic()
                        say(f"{reading.meter.done / 1e6:,.0f} MB read")
                yield text
            progress.update(shown, description="pairs merged", completed=reading.meter.done, total=None)
            if bar is None:
                say("all text read; pairs are merged")

        return learn_tokenizer(passing(), vocabulary)


@contextlib.contextmanager
def _in_threads() -> Iterator[None]:
    """The tokenizers library may use all threads for a while: nothing is forked here, which is why it may not
    elsewhere."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder to write to that becomes ``out`` when all is written: whole or absent."""
    aside = part_of(out)
    aside.mkdir(parents=True)
    try:
        yield aside
        flush_folder(aside)
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_folder(out.parent)
