"""Models by name: a Hugging Face directory or hub id, or the blank pocket model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from upslope.errors import UserError
from upslope.model.adapter import base_name, load_adapter, names_base
from upslope.model.hf import without_bars


def load(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """(model in ``dtype``, tokenizer) from a directory or the hub; an adapter's directory brings the model it belongs
    to. Raises UserError in one line."""
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    in_a_folder = "/" in name and Path(name).parent.is_dir()  # such as runs/NAME before that run was made
    if not Path(name).is_dir() and (looks_local or in_a_folder):
        raise UserError(f"model {name!r}: there is no such directory or run")
    if names_base(Path(name)):
        model, tokenizer = load(base_name(Path(name)), dtype)
        return load_adapter(model, Path(name)), tokenizer
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise UserError(f"model {name!r}: the directory holds no config.json, so it is no Hugging Face model")
    try:
        with without_bars():
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(f"model {name!r} cannot be loaded: {first_line}") from error
    return model, tokenizer


def load_tokenizer(name: str) -> Any | None:
    """The tokenizer of a local directory; None if it has none."""
    if not (Path(name) / "tokenizer_config.json").is_file():
        return None
    return AutoTokenizer.from_pretrained(name)


def pick_device(name: str) -> torch.device:
    """``auto``: a GPU if there is one. Raises UserError for a device torch cannot use here."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here: {first_line}") from None
    return device
