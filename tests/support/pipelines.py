"""Pipelines of a few small steps, as a user would start them."""

from __future__ import annotations

import upslope as up


def said_by(file: str, *settings: str, **more: object) -> list[str]:
    """Do the pipeline of a file; what it says on its way."""
    said: list[str] = []
    up.pipeline(file, list(settings), progress=False, say=said.append, **more)  # type: ignore[arg-type]
    return said
