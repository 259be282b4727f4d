"""Which files stand behind ``--data`` and ``--eval-data``, and their rows, whatever the format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import get_args

from upslope.errors import UserError
from upslope.tasks import arrow_files, text_files
from upslope.tasks.base import Split
from upslope.tasks.problem_set import Row
from upslope.tasks.text_files import Numbered
from upslope.text.packed import COMPRESSED

Files = tuple[tuple[Path, Split | None], ...]
"""Files (or folders saved by ``datasets``) and the side each holds; None: its rows are divided."""

TEXT: Mapping[str, Callable[[Path], Numbered]] = {
    ".jsonl": text_files.json_line_file,
    ".json": text_files.json_list_file,
    ".csv": text_files.csv_file,
    ".tsv": text_files.tsv_file,
}
READERS: Mapping[str, Callable[[Path], Numbered]] = {
    **TEXT,
    **{ending + packed: reader for ending, reader in TEXT.items() for packed in COMPRESSED},
    ".parquet": arrow_files.parquet_file,
    ".arrow": arrow_files.arrow_file,
    ".feather": arrow_files.arrow_file,
}
"""How a file is read, by the ending of its name."""
SHARD = re.compile(r"-(\d+)-of-(\d+)\.")
"""Which shard of how many a file is."""


def find_files(data: str, eval_data: str | None = None) -> Files:
    """The files behind ``--data`` (one file, or a folder with both sides) and ``--eval-data``.

    Raises UserError for what is not there or has no known ending, and where it is unclear which of several is meant.
    """
    path = Path(data)
    is_folder = path.is_dir() and not _is_saved(path)
    side: Split | None = "train" if eval_data else None
    files = [(file, split or side) for file, split in _folder(path)] if is_folder else [(_one(path), side)]
    if eval_data is None:
        return tuple(files)
    held = _one(Path(eval_data))
    if any(split == "test" or file.samefile(held) for file, split in files):
        raise UserError(f"--eval-data {eval_data}: {path} already holds these or other test rows; drop one of the two")
    return (*files, (held, "test"))


def file_rows(files: Files) -> Iterator[Row]:
    """All rows of the files, in order. Those of one side are counted on from file to file."""
    before: Counter[Split | None] = Counter()
    for path, split in files:
        read = arrow_files.saved_folder if path.is_dir() else READERS[_ending(path)]
        for number, value in read(path):
            yield Row(str(path), number, value, split, before[split])
            before[split] += 1


def _folder(path: Path) -> list[tuple[Path, Split | None]]:
    """The two sides in a folder; one of them may be missing."""
    if (path / arrow_files.SPLITS).is_file():
        names = arrow_files.saved_splits(path)
        saved: list[tuple[Path, Split | None]] = [(_one(path / s), s) for s in get_args(Split) if s in names]
        if not saved:
            raise UserError(f"{path}: its data sets are {', '.join(names)}; one must be called train or test")
        return saved
    files: list[tuple[Path, Split | None]] = []
    for split in get_args(Split):
        files += [(file, split) for file in _side(path, split)]
    if files:
        return files
    if (path / "data").is_dir():  # where a data set of the hub has them
        return _folder(path / "data")
    parts = sorted(path.glob("*.parquet"))
    if parts:
        return [(file, None) for file in _whole(parts)]
    there = ", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing"
    raise UserError(
        f"{path}: a data folder needs train.jsonl or test.jsonl (or train-*.jsonl, or a folder train), and has "
        f"neither, nor one that ends with {', '.join(READERS)}; it has {there}"
    )


def _side(folder: Path, split: Split) -> list[Path]:
    """The files of one side: ``train.ENDING``, or shards ``train-*.ENDING``, or all in a folder ``train``."""
    ways = [[path] for ending in READERS if (path := folder / f"{split}{ending}").is_file()]
    for ending in READERS:
        ways += [sorted(folder.glob(f"{split}-*{ending}")), sorted((folder / split).glob(f"*{ending}"))]
    found = [way for way in ways if way]
    if len(found) > 1:
        names = [str(way[0].relative_to(folder)) for way in found]
        raise UserError(f"{folder}: which of {' and '.join(names)} is meant? keep one, or name the files themselves")
    return _whole(found[0]) if found else []


def _whole(shards: list[Path]) -> list[Path]:
    """Raise UserError if one of so many as their names say is missing."""
    found = {(int(match[1]), int(match[2])) for file in shards if (match := SHARD.search(file.name))}
    for num in {of for _, of in found}:
        missing = sorted({*range(num)} - {number for number, of in found if of == num})
        if missing:
            raise UserError(
                f"{shards[0].parent}: {shards[0].name} is one of {num} shards, and number {missing[0]} is not there; "
                "download it as well"
            )
    return shards


def _one(path: Path) -> Path:
    if _is_saved(path):
        return path
    if not path.is_file():
        raise UserError(f"there is no data file {path}")
    if _ending(path) not in READERS:
        raise UserError(f"{path}: data must be {', '.join(READERS)} (pandas: to_parquet), by the ending of its name")
    return path


def _is_saved(path: Path) -> bool:
    """Whether this is the folder of one data set, as ``datasets`` saves it."""
    return (path / arrow_files.STATE).is_file()


def _ending(path: Path) -> str:
    """The last one, and the one before it where that is a compression's."""
    return "".join(path.suffixes[-2:]) if path.suffix in COMPRESSED else path.suffix
