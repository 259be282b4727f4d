"""LoRA adapters through peft: small trainable matrices beside frozen weights."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from upslope.errors import UserError
from upslope.plugins import said

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


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
    """The base model with the adapter of a directory, ready to be trained further. Raises UserError if it is damaged,
    or its files lack weights, which peft would fill with chance."""
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise UserError(f"model {str(folder)!r}: the adapter's weights are missing; there is no {WEIGHTS[0]}")
    with _told(folder):
        model = _peft().PeftModel.from_pretrained(base, str(folder), is_trainable=True)
        wanted, there = _peft().get_peft_model_state_dict(model), _peft().load_peft_weights(str(folder), device="cpu")
    missing = sorted(wanted.keys() - there.keys())
    if missing:
        raise UserError(f"model {str(folder)!r}: the adapter's weights are missing in its files: {missing[0]}")
    return model


def merge_adapter(model: Any) -> Any:
    """The base model with the adapter's weights added to its own. Raises UserError where they cannot be."""
    try:
        with quietly():
            return model.merge_and_unload(safe_merge=True)
    except Exception as error:
        raise UserError(f"the adapter cannot be merged into its base: {said(error, str):.300}") from error


def base_name(folder: Path) -> str:
    """The model an adapter was made for. Raises UserError if its config does not say that."""
    with _told(folder):
        found = _peft().PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    if not isinstance(found, str) or not found:
        raise UserError(f"model {str(folder)!r}: its {ADAPTER_CONFIG} names no base_model_name_or_path")
    if Path(found).is_dir() and Path(found).samefile(folder):
        raise UserError(f"model {str(folder)!r}: its {ADAPTER_CONFIG} names itself as its base")
    return found


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Whatever a damaged adapter makes peft raise as one line; peft's own warnings are of what is checked here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        lines = [line.strip() for line in said(error, str).splitlines() if line.strip()] or [""]
        first = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
        raise UserError(
            f"model {str(folder)!r}: the adapter cannot be loaded: {type(error).__name__}: {first}"
        ) from error


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise UserError("LoRA needs the package peft: pip install 'upslope[lora]', or pip install peft") from None
    return peft
