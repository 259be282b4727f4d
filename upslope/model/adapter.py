"""LoRA adapters through peft: small trainable matrices beside frozen weights."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from upslope.errors import UserError

ADAPTER_CONFIG = "adapter_config.json"


def add_adapter(model: Any, *, rank: int, alpha: float, targets: str, seed: int) -> Any:
    """The model with a fresh LoRA adapter (arXiv 2106.09685), which changes nothing until it is trained.

    Its weights are a function of the seed; torch's generator is left alone. ``targets`` names layers, separated by
    commas, or ``all-linear``. Raises UserError if peft is missing or a target does not exist.
    """
    peft = _peft()
    names: Any = targets if targets == "all-linear" else [t.strip() for t in targets.split(",")]
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]), quietly():
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, config)
        except ValueError as error:
            raise UserError(f"learn.lora_targets = {targets!r}: {str(error).splitlines()[0]}") from None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without peft's calls to what transformers has renamed: a user can do nothing about those."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def has_adapter(model: Any) -> bool:
    return hasattr(model, "disable_adapter")


def names_base(folder: Path) -> bool:
    """Whether a directory holds an adapter, which names the model it belongs to."""
    return (folder / ADAPTER_CONFIG).is_file()


def load_adapter(base: Any, folder: Path) -> Any:
    """The base model with the adapter of a directory, ready to be trained further."""
    with quietly():
        return _peft().PeftModel.from_pretrained(base, str(folder), is_trainable=True)


def base_name(folder: Path) -> str:
    """The model an adapter was made for."""
    return str(_peft().PeftConfig.from_pretrained(str(folder)).base_model_name_or_path)


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise UserError("LoRA needs the package peft: pip install 'upslope[lora]', or pip install peft") from None
    return peft
