"""Models by name, a run's own among them."""

from __future__ import annotations

from typing import Any

from upslope.errors import UserError
from upslope.model.load import load, load_positions, load_words
from upslope.model.names import folder_and_best
from upslope.record import checkpoint
from upslope.record.best import best_checkpoint


def load_model(name: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a Hugging Face directory, a hub id, or a run folder: its newest checkpoint, or its best
    (``RUN@best``). Raises UserError in one line."""
    return load(_place_of(name))


def load_model_words(name: str) -> tuple[Any, Any]:
    """(tokenizer, generation config) of the same, without the weights. Raises UserError in one line."""
    return load_words(_place_of(name))


def load_model_positions(name: str) -> int:
    """The longest prompt plus response that the model of this name was made for. Raises UserError in one line."""
    return load_positions(_place_of(name))


def _place_of(name: str) -> str:
    """The checkpoint of a run folder; another name as it is."""
    folder, best = folder_and_best(name)
    if not best and not (folder / "checkpoints").is_dir():
        return name
    if best:
        return str(best_checkpoint(folder))
    found = checkpoint.newest(folder / "checkpoints")
    if found is None:
        raise UserError(f"model {name!r}: the run has no complete checkpoint")
    return str(found.folder)
