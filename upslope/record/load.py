"""Models by name, a run's own among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from upslope.errors import UserError
from upslope.model.load import load
from upslope.record import checkpoint


def load_model(name: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a Hugging Face directory, a hub id, or a run folder (its newest checkpoint). Raises
    UserError in one line."""
    if not (Path(name) / "checkpoints").is_dir():
        return load(name)
    found = checkpoint.newest(Path(name) / "checkpoints")
    if found is None:
        raise UserError(f"model {name!r}: the run has no complete checkpoint")
    return load(str(found.folder))
