"""What the name of a model means, before anything of it is loaded."""

from __future__ import annotations

from pathlib import Path

BEST = "@best"
"""Behind the name of a run folder: not its newest checkpoint, but its best."""


def run_folder(name: str) -> tuple[Path, bool]:
    """The folder that the name of a run stands for, and whether its best checkpoint is meant."""
    folder = Path(name.removesuffix(BEST))
    if name.endswith(BEST) and folder.is_dir():
        return folder, True
    return Path(name), False


def is_pocket(name: str) -> bool:
    """Whether this names the built-in model, or a stage of it: ``pocket``, ``pocket:STAGE``. A directory of that name
    comes first."""
    return name.partition(":")[0] == "pocket" and not Path(name).is_dir()
