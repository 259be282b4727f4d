"""Models by name: a Hugging Face directory or hub id, or the blank pocket model."""

from __future__ import annotations

import contextlib
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from upslope.errors import Unavailable, UserError
from upslope.model.adapter import ADAPTER_CONFIG, base_name, load_adapter, names_base
from upslope.model.directory import (
    damaged,
    processor_template,
    require_config,
    require_directory,
    require_tokenizer,
)
from upslope.model.hf import forget_origin, positions_in, quiet_loading
from upslope.model.keys import require_keys
from upslope.model.sound import require_decoder, require_sound
from upslope.plugins import said


def load(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """(model in ``dtype``, tokenizer) from a directory or the hub; an adapter's directory brings the model it belongs
    to. Its embedding is as transformers makes it: the row of the config's pad_token_id gets no gradient as an input,
    also where that is the end token (as in SmolLM2). Raises UserError in one line."""
    _require_there(name)
    if names_base(Path(name)):
        model, tokenizer = load(_base_of(name), dtype)
        return load_adapter(model, Path(name)), tokenizer
    if Path(name).is_dir():
        require_directory(Path(name))
    try:
        with quiet_loading():
            config = _config(name)
            require_decoder(config)
            require_sound(config)  # before minutes are spent on layers that nobody has
            tokenizer = _tokenizer(name)
            model, found = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=dtype,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are told of; ``require_keys`` does not ignore them
            )
    except Exception as error:  # what a damaged file or a strange configuration makes transformers raise is anything
        raise _quantized(name) or unloadable(name, error) from error
    if any(not p.is_floating_point() or p.dtype.itemsize == 1 for p in model.parameters()):
        raise _quantized(name) or UserError(f"model {name!r}: its weights are no floating-point numbers")
    require_keys(name, found, getattr(config, "architectures", None) or ())
    if not isinstance(tokenizer.model_max_length, int | float):
        raise UserError(
            f"model {name!r}: model_max_length = {tokenizer.model_max_length!r} in its tokenizer is no number"
        )
    return model, tokenizer


def load_words(name: str) -> tuple[Any, Any]:
    """(tokenizer, generation config) as ``load`` has them, without the weights. Raises UserError in one line."""
    _require_there(name)
    if names_base(Path(name)):
        return load_words(_base_of(name))
    _require_config(name)
    try:
        with quiet_loading():
            return _tokenizer(name), _generation_config(name)
    except Exception as error:  # as in ``load``
        raise unloadable(name, error) from error


def load_positions(name: str) -> int:
    """The longest prompt plus response that a model was made for, by its config alone; unbounded if that gives none.
    Raises UserError in one line."""
    _require_there(name)
    if names_base(Path(name)):
        return load_positions(_base_of(name))
    _require_config(name)
    try:
        with quiet_loading():
            config = _config(name)
    except Exception as error:  # as in ``load``
        raise unloadable(name, error) from error
    return positions_in(config)


def _config(name: str) -> Any:
    """As transformers reads it."""
    return AutoConfig.from_pretrained(name, trust_remote_code=False)


def _tokenizer(name: str) -> Any:
    """As transformers opens it; with the processor's chat template where it has none of its own."""
    found = forget_origin(AutoTokenizer.from_pretrained(name, trust_remote_code=False))
    if not getattr(found, "chat_template", None) and Path(name).is_dir():
        found.chat_template = processor_template(Path(name))
    return found


def _generation_config(name: str) -> Any:
    """Of a directory or the hub; where there is none, what its config says, as transformers does."""
    with contextlib.suppress(OSError):
        return GenerationConfig.from_pretrained(name)
    return GenerationConfig.from_model_config(_config(name))


def _require_there(name: str) -> None:
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    in_a_folder = "/" in name and Path(name).parent.is_dir()  # such as runs/NAME before that run was made
    if not Path(name).is_dir() and (looks_local or in_a_folder):
        raise UserError(f"model {name!r}: there is no such directory or run")


def _require_config(name: str) -> None:
    if Path(name).is_dir():
        require_config(Path(name))


def _base_of(adapter: str) -> str:
    """The model that an adapter belongs to. Raises UserError if that is a directory which is not there."""
    base = base_name(Path(adapter))
    try:
        _require_there(base)
    except UserError:
        raise UserError(
            f"model {adapter!r} is an adapter to {base!r}, and there is no such directory; put the model there, or "
            f"write where it is as base_model_name_or_path into {adapter}/{ADAPTER_CONFIG}"
        ) from None
    return base


def _quantized(name: str) -> UserError | None:
    """What is wrong with quantized weights; None where the config names no quantization."""
    with contextlib.suppress(Exception), quiet_loading():
        found = getattr(_config(name), "quantization_config", None)
        if found:
            method = found.get("quant_method") if isinstance(found, Mapping) else getattr(found, "quant_method", None)
            return UserError(
                f"model {name!r}: its weights are quantized ({getattr(method, 'value', method)}), and such weights "
                "cannot be trained; give the model that they were made from, or a dequantized copy"
            )
    return None


def unloadable(name: str, error: Exception) -> UserError:
    """What transformers said of a model that it could not load, in one line."""
    lines = [line.strip() for line in said(error, str).splitlines() if line.strip()] or [type(error).__name__]
    first_line = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
    told = damaged(Path(name)) if Path(name).is_dir() else ""
    if told:
        return UserError(f"model {name!r} cannot be loaded: {told}")
    if lines[0].startswith("Unrecognized configuration class"):
        return UserError(
            f"model {name!r} cannot be loaded: transformers has no causal language model of its kind "
            f"({_kind_of(name)}); take one whose config.json names a ...ForCausalLM"
        )
    if isinstance(error, pickle.UnpicklingError | struct.error | EOFError):  # torch's advice is to run what is there
        return UserError(
            f"model {name!r} cannot be loaded: its pytorch_model.bin holds something else than weights, or is damaged; "
            "write it as safetensors where it was made, or download it again"
        )
    if "backend tokenizer" in lines[0]:
        return UserError(
            f"model {name!r} cannot be loaded: its tokenizer's files are not all there, or of a kind that transformers "
            "does not know; copy them (tokenizer.json above all) from the model that the weights began with"
        )
    if isinstance(error, MemoryError) or _unreachable(error):
        return Unavailable(f"model {name!r} cannot be loaded now: {first_line}")
    return UserError(f"model {name!r} cannot be loaded: {kind}{first_line}")


def _kind_of(name: str) -> str:
    """What a model's config says that it is."""
    with contextlib.suppress(Exception), quiet_loading():
        config = _config(name)
        return ", ".join(getattr(config, "architectures", None) or [config.model_type])
    return "unknown"


def _unreachable(error: BaseException | None) -> bool:
    """Whether it began with a hub that did not answer; its client's errors are of several libraries."""
    names = {"ConnectError", "ConnectTimeout", "ReadTimeout", "LocalEntryNotFoundError", "OfflineModeIsEnabled"}
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in names:
            return True
        error = error.__cause__ or error.__context__
    return False


def load_tokenizer(name: str) -> Any | None:
    """The tokenizer of a local directory; None if it has none."""
    if not (Path(name) / "tokenizer_config.json").is_file():
        return None
    return _tokenizer(name)


def open_tokenizer(name: str) -> Any:
    """The tokenizer of a directory, which need not hold a model, or of the hub. Raises UserError in one line."""
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UserError(f"tokenizer {name!r}: there is no such directory")
    if Path(name).is_dir():
        require_tokenizer(Path(name), f"tokenizer {name!r}")
    try:
        with quiet_loading():
            return _tokenizer(name)
    except Exception as error:  # as with a model, anything
        told = str(unloadable(name, error)).removeprefix("model ")
        raise (Unavailable if _unreachable(error) else UserError)(f"tokenizer {told}") from error


def pick_device(name: str) -> torch.device:
    """``auto``: a GPU if there is one. Raises UserError for a device torch cannot use here."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # meta has tensors, and nothing in them
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here: {first_line}") from None
    return device
