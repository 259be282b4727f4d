"""What the name of a model means, before anything of it is loaded."""

from __future__ import annotations

from pathlib import Path

BEST = "@best"
"""Behind the name of a run folder: not its newest checkpoint, but its best."""


def folder_and_best(name: str) -> tuple[Path, bool]:
    """The folder that the name of a run stands for, and whether its best checkpoint is meant."""
    folder = Path(name.removesuffix(BEST))
    if name.endswith(BEST) and folder.is_dir():
        return folder, True
    return Path(name), False


def is_pocket(name: str) -> bool:
    """Whether this names the built-in model, or a stage of it: ``pocket``, ``pocket:STAGE``. A directory of that name
    comes first."""
    return name.partition(":")[0] == "pocket" and not Path(name).is_dir()


NEW, NEW_LLAMA = "new:", "llama"


def is_new(name: str) -> bool:
    """Whether this names a model that is made from nothing: ``new:llama``, ``new:DIR``, ``new:FILE.json``. A directory
    of that name comes first."""
    return name.startswith(NEW) and not Path(name).is_dir()


def config_of_new(name: str) -> str:
    """Where the config of a new model lies; empty if its shape is in the settings, or the model is none.

    >>> config_of_new("new:their/config.json"), config_of_new("new:llama"), config_of_new("their")
    ('their/config.json', '', '')
    """
    wanted = name.removeprefix(NEW) if is_new(name) else ""
    return "" if wanted == NEW_LLAMA else wanted
