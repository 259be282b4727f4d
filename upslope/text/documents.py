"""Text from wherever it lies: files, folders, patterns, data sets of the hub; streamed, never loaded whole."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from upslope.errors import UserError, of_system
from upslope.text.hub import hub_rows, is_hub_id
from upslope.text.packed import COMPRESSED, Meter, ending, open_bytes
from upslope.text.parts import Document, text_parts
from upslope.text.rows import json_line_texts, parquet_texts, row_texts


def _text_file(path: Path, column: str, meter: Meter) -> Iterator[Document]:
    with open_bytes(path, meter) as file:
        yield from text_parts(file, str(path))


_PLAIN: Mapping[str, Callable[[Path, str, Meter], Iterator[Document]]] = {
    ".txt": _text_file,
    ".md": _text_file,
    ".jsonl": json_line_texts,
    ".parquet": parquet_texts,
}
_READERS = {kind + packed: reader for kind, reader in _PLAIN.items() for packed in ("", *COMPRESSED)}
_KINDS = f"{', '.join(_PLAIN)}, each also with {' or '.join(COMPRESSED)} behind it"


def documents(sources: Sequence[str], *, column: str = "text") -> Iterator[Document]:
    """Every document of the sources, in order: the sources as given, files of a folder or a pattern by name, rows and
    text as they stand. ``column`` holds the text in JSON lines, in Parquet files and on the hub.

    A source is a file (.txt, .md, .jsonl, .parquet, each also with .gz or .zst behind it), a folder (all such files
    below it), a pattern (``data/**/*.txt``), or a data set of the hub (``owner/name:config:split``). A text longer
    than 64 KiB is cut at line ends into documents of at most that. Rows without text and texts of nothing but white
    space are left out.

    Raises UserError at once for a source that is not there or holds no such file; later, with the file and its row or
    byte, for what cannot be read as text; and at the end if there was no text at all.
    """
    return read_all(find_sources(sources), column, Meter())


def read_all(found: Sequence[Path | str], column: str, meter: Meter) -> Iterator[Document]:
    """``documents`` of what ``find_sources`` found; ``meter`` tells how far it is. Raises UserError as they do."""
    any_text = False
    for one in found:
        if isinstance(one, str):
            texts = row_texts(hub_rows(one), column, one)
        else:
            texts = _READERS[ending(one)](one, column, meter)
        for document in texts:
            any_text = True
            yield document
        if isinstance(one, Path):
            meter.file(_size(one))
    if not any_text:
        raise UserError(
            f"{', '.join(map(str, found[:3]))}{', ...' * (len(found) > 3)}: no text in it; name other files"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read {of_system(error)}") from error


def find_sources(sources: Sequence[str]) -> list[Path | str]:
    """The files behind the sources, in order; data sets of the hub by their ids, as strings.

    Raises UserError for a source that is not there, and for one in which there is no file of text.
    """
    if isinstance(sources, str):
        raise UserError(f"sources must be a list of names, not the text {sources!r}; put it in brackets")
    if not sources:
        raise UserError("no source of text is given; name files, folders, patterns or a data set of the hub")
    try:
        return [one for source in sources for one in _found(source)]
    except OSError as error:
        raise UserError(f"cannot read {of_system(error)}") from error


def _found(source: str) -> list[Path] | list[str]:
    if not source.strip():  # a shell's variable without a value: as a path it would be the folder at hand
        raise UserError("a source of text is an empty name; name a file, a folder, a pattern or a data set of the hub")
    path = Path(source).expanduser()
    _require_target(path)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return [_known(path)]
    if path.exists():
        raise UserError(f"{source} is neither a file nor a folder; write what it gives to a file")
    if glob.has_magic(source):
        return _pattern(str(path))
    if is_hub_id(source) and ending(path) not in _READERS:
        return [source]
    raise UserError(f"there is no file, folder or data set {source}; check the path")


def _folder(path: Path) -> list[Path]:
    files = _below(path)
    if not files:
        raise UserError(f"{path}: no file of text below it; text is {_KINDS}")
    return files


def _pattern(pattern: str) -> list[Path]:
    """What matches: files of text, and those below folders that match; each once."""
    matches = sorted(map(Path, glob.glob(pattern, recursive=True)))  # noqa: PTH207 (a whole path)
    for match in matches:
        _require_target(match)
    files = dict.fromkeys(file for match in matches for file in (_below(match) if match.is_dir() else [match]))
    known = [file for file in files if ending(file) in _READERS and file.is_file()]
    if not known:
        what = f"matches no file of text ({matches[0].name}, ...)" if matches else "matches nothing"
        raise UserError(f"{pattern} {what}; text is {_KINDS}")
    return known


def _known(path: Path) -> Path:
    if ending(path) not in _READERS:
        raise UserError(f"{path}: text is {_KINDS}, by the ending of its name; rename or convert it")
    return path


def _below(folder: Path) -> list[Path]:
    """All files of text below a folder, by name; hidden ones are not looked at, and a folder is entered once."""
    files: list[Path] = []
    entered: set[str] = set()
    for here, inner, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(here)
        inner[:] = [] if real in entered else [name for name in inner if not name.startswith(".")]
        if real not in entered:
            for path in (Path(here, name) for name in names if not name.startswith(".")):
                if ending(path) in (*_READERS, ""):  # without one it may have been a folder
                    _require_target(path)
                if ending(path) in _READERS and path.is_file():
                    files.append(path)
        entered.add(real)
    return sorted(files)


def _require_target(path: Path) -> None:
    """Raise UserError for a link to what is not there: text would be missing, and nobody would know."""
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to {path.readlink()}, which is not there; mend the link, or remove it")


def _refuse(error: OSError) -> None:
    raise error
