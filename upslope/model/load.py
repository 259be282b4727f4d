"""Models by name: a Hugging Face directory or hub id, or the blank pocket model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from upslope.errors import UserError

NARROWEST_FOR_BF16 = 96
"""Below this hidden size a CPU's bfloat16 products are slower than its float32 ones (conversion dominates)."""

Precision = Literal["auto", "float32", "bfloat16", "float64"]


def load(name: str) -> tuple[Any, Any]:
    """(model in float32, tokenizer) from a directory or the hub. Raises UserError in one line."""
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UserError(f"model {name!r}: there is no such directory")
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise UserError(f"model {name!r}: the directory holds no config.json, so it is no Hugging Face model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(f"model {name!r} cannot be loaded: {first_line}") from error
    return model, tokenizer


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


def pick_dtype(precision: Precision, model: Any, device: torch.device) -> torch.dtype:
    """What to compute in; ``auto`` is bfloat16 where the machine multiplies it natively and the model is wide enough."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    wide = getattr(model.config, "hidden_size", 0) >= NARROWEST_FOR_BF16
    native = device.type == "cpu" and (_cpu_has("_is_avx512_bf16_supported") or _cpu_has("_is_amx_tile_supported"))
    return torch.bfloat16 if wide and native else torch.float32


def _cpu_has(probe: str) -> bool:
    return bool(getattr(torch.cpu, probe, lambda: False)())
