"""What a case is, and the folder that it finds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Content = str | bytes
Make = Callable[[Path], object]

ROWS = [{"prompt": f"Tom has {i} books and buys 3.", "answer": str(i + 3)} for i in range(12)]
REWARDS = "def fine(completions, **_):\n    return [float(sum(map(ord, str(c))) % 2) for c in completions]\n"
TINY = (
    *("steps=1", "tokens=1", "problems=1", "recipe.sample.group_size=2", "eval.problems=0", "sample.max_tokens=2"),
    *("learn.measure_every=0", "device=cpu"),
)
"""A run of one step that costs next to nothing."""
TRAIN = ("train", "--plain", "--model", "pocket:blank", *TINY)
USER = ("--reward", "mine.py:fine")


@dataclass(frozen=True)
class Case:
    """One command and the folder in which it is given.

    ``says`` is what the error's line must contain: the file, the key or the row that is to be mended. ``accepted``: the
    input is in fact in order, and the command has to end with 0.
    """

    name: str
    words: tuple[str, ...]
    says: str = ""
    files: Mapping[str, Content] = field(default_factory=dict)
    make: Make | None = None
    """What else is done to the folder, after the files were written."""
    accepted: bool = False
    code: int = 2
    stdin: str | None = ""
    """None: standard input is closed."""

    def prepare(self, folder: Path) -> None:
        """Write what every folder has, and the case's own."""
        (folder / "mine.py").write_text(REWARDS)
        (folder / "data.jsonl").write_text(lines(ROWS))
        for name, content in self.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        if self.make is not None:
            self.make(folder)


def lines(rows: Iterable[object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def junk(seed: object, num: int = 300) -> bytes:
    """Random bytes, the same for the same seed."""
    return random.Random(str(seed)).randbytes(num)


def unique(cases: Iterable[Case]) -> list[Case]:
    """The cases; none may share a name with another."""
    found = list(cases)
    names = [case.name for case in found]
    assert len(set(names)) == len(names), sorted(name for name in set(names) if names.count(name) > 1)
    return found
