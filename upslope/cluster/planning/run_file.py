"""The settings in a run's folder, for whoever only looks at it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from upslope.errors import UserError
from upslope.record.names import RUN
from upslope.training.settings import RunSettings
from upslope.training.tables import to_settings


def settings_in(folder: Path) -> RunSettings:
    """What ``folder/run.toml`` says; nothing that it names is opened. Raises UserError if it cannot be read."""
    file = folder / RUN
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        told = "there is no such run folder" if not folder.is_dir() else str(error).splitlines()[0]
        raise UserError(f"{file}: cannot be read: {told}") from error
    return to_settings({key: value for key, value in table.items() if key not in ("versions", "python")})
