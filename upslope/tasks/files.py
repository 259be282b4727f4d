"""Which files stand behind ``--data`` and ``--eval-data``, and their rows, whatever the format."""

from __future__ import annotations

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


def find_files(data: str, eval_data: str | None = None) -> Files:
    """The files behind ``--data`` (one file, or a folder with both sides) and ``--eval-data``.

    Raises UserError for what is not there or has no known ending, and where it is unclear which of several is meant.
    """
    path = Path(data)
    is_folder = path.is_dir() and not _is_saved(path)
    side: Split | None = "train" if eval_data else None
    files = _folder(path) if is_folder else [(_one(path), side)]
    if eval_data is None:
        return tuple(files)
    held = _one(Path(eval_data))
    if any(split == "test" or file.samefile(held) for file, split in files):
        raise UserError(f"--eval-data {eval_data}: {path} already holds these or other test rows; drop one of the two")
    return (*files, (held, "test"))


def file_rows(files: Files) -> Iterator[Row]:
    """All rows of the files, in order."""
    for path, split in files:
        read = arrow_files.saved_folder if path.is_dir() else READERS[_ending(path)]
        for place, (number, value) in enumerate(read(path)):
            yield Row(str(path), number, value, split, place)


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
        found = [path / f"{split}{ending}" for ending in READERS if (path / f"{split}{ending}").is_file()]
        if len(found) > 1:
            names = [file.name for file in found]
            raise UserError(f"{path}: which of {' and '.join(names)} is meant? keep one, or name the files themselves")
        files += [(file, split) for file in found]
    if not files:
        raise UserError(
            f"{path}: a data folder needs train.jsonl or test.jsonl, and has neither (nor one that ends with "
            f"{', '.join(READERS)})"
        )
    return files


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
