"""A run's model as a directory of its own, with nothing in it that is for the run alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from upslope.errors import UserError
from upslope.model.adapter import ADAPTER_CONFIG, merge_adapter, names_base
from upslope.model.hf import quiet_loading, system_errors
from upslope.model.load import load, load_tokenizer
from upslope.model.names import folder_and_best
from upslope.record import checkpoint
from upslope.record.best import best_checkpoint
from upslope.record.claim import is_begun
from upslope.record.manifest import is_whole, whole_folder

CARD = "README.md"
Describe = Callable[[int, bool], str]
"""The card of the model after so many steps, which is an adapter without its base or is not."""


def checkpoint_of(run: str) -> Path:
    """The newest checkpoint of a run's folder, or the best one (``RUN@best``). Raises UserError if there is none."""
    folder, best = folder_and_best(run)
    if not is_begun(folder):
        raise UserError(f"{folder} holds no run; give a run's folder")
    if best:
        return best_checkpoint(folder)
    found = checkpoint.newest(folder / "checkpoints")
    if found is None:
        raise UserError(f"{folder} has no complete checkpoint yet, so there is no model to export")
    return found.folder


def export_model(
    run: str, to: Path, describe: Describe, *, merged: bool = False, dtype: torch.dtype | None = None
) -> Path:
    """Write the model of a run's newest checkpoint, or its best (``RUN@best``), to the directory ``to``: weights,
    tokenizer, chat template, generation config and a card.

    ``merged``: with all weights in it, so those of an adapter added to its base's, W + (alpha / rank) B A, in float32.
    ``dtype`` None: the weights as they were learnt. Raises UserError for a run without a checkpoint, and for a
    directory that holds anything but an unchanged export.
    """
    place = checkpoint_of(run)
    if to.is_symlink() or (to.exists() and not is_whole(to) and not (to.is_dir() and not any(to.iterdir()))):
        raise UserError(f"{to} is in the way, and is no export that is still as it was written; move it, or give --out")
    adapter = names_base(place)
    with whole_folder(to) as aside:
        if dtype is None and not (adapter and merged):
            _copy(place, aside)
        else:
            _write(place, aside, merged=merged, dtype=dtype)
        text = describe(checkpoint.step_of(place), adapter and not merged)
        (aside / CARD).write_text(text, encoding="utf-8")
    return to


def _copy(place: Path, aside: Path) -> None:
    """The model's files of a checkpoint, byte for byte."""
    for path in sorted(place.iterdir()):
        if path.name not in checkpoint.NOT_THE_MODEL:
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, aside / path.name)


def _write(place: Path, aside: Path, *, merged: bool, dtype: torch.dtype | None) -> None:
    model, tokenizer = load(str(place))
    if merged and names_base(place):
        model = merge_adapter(model)
    elif names_base(place):
        raise UserError("--dtype is for all weights of a model, and an adapter has few: give --merged as well")
    model = model.to(dtype or torch.float32)
    with quiet_loading(), system_errors(aside):
        model.generation_config = _generation(place, model)
        model.save_pretrained(aside)
        (load_tokenizer(str(place)) or tokenizer).save_pretrained(aside)


def _generation(place: Path, model: Any) -> Any:
    """The checkpoint's own: it names every token that ends a response."""
    if not (place / GENERATION_CONFIG_NAME).is_file():
        return model.generation_config
    kept = GenerationConfig.from_pretrained(place)
    if not (place / ADAPTER_CONFIG).is_file():
        return kept
    for name in ("bos_token_id", "pad_token_id", "eos_token_id"):  # an adapter's checkpoint says no more than these
        setattr(model.generation_config, name, getattr(kept, name))
    return model.generation_config
