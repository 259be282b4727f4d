"""What the name of a model means, before anything of it is loaded."""

from __future__ import annotations

from pathlib import Path


def is_pocket(name: str) -> bool:
    """Whether this names the built-in model, or a stage of it: ``pocket``, ``pocket:STAGE``. A directory of that name
    comes first."""
    return name.partition(":")[0] == "pocket" and not Path(name).is_dir()
