"""Models by name: a Hugging Face directory or hub id, or the blank pocket model."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from upslope.errors import Unavailable, UserError
from upslope.model.adapter import base_name, load_adapter, names_base
from upslope.model.hf import forget_origin, quiet_loading
from upslope.model.sound import require_sound
from upslope.plugins import said

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
"""One of which every tokenizer's directory has."""


def load(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """(model in ``dtype``, tokenizer) from a directory or the hub; an adapter's directory brings the model it belongs
    to. Its embedding is as transformers makes it: the row of the config's pad_token_id gets no gradient as an input,
    also where that is the end token (as in SmolLM2). Raises UserError in one line."""
    _require_there(name)
    if names_base(Path(name)):
        model, tokenizer = load(base_name(Path(name)), dtype)
        return load_adapter(model, Path(name)), tokenizer
    _require_config(name)
    try:
        with quiet_loading():
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            require_sound(config)  # before minutes are spent on layers that nobody has
            tokenizer = forget_origin(AutoTokenizer.from_pretrained(name, trust_remote_code=False))
            model, found = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=dtype,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are told of; ``_require_all`` does not ignore them
            )
    except Exception as error:  # what a damaged file or a strange configuration makes transformers raise is anything
        raise unloadable(name, error) from error
    _require_all(name, found)
    if not isinstance(tokenizer.model_max_length, int | float):
        raise UserError(
            f"model {name!r}: model_max_length = {tokenizer.model_max_length!r} in its tokenizer is no number"
        )
    _warn_of_unused(name, found["unexpected_keys"])
    return model, tokenizer


def load_words(name: str) -> tuple[Any, Any]:
    """(tokenizer, generation config) as ``load`` has them, without the weights. Raises UserError in one line."""
    _require_there(name)
    if names_base(Path(name)):
        return load_words(base_name(Path(name)))
    _require_config(name)
    try:
        with quiet_loading():
            tokenizer = forget_origin(AutoTokenizer.from_pretrained(name, trust_remote_code=False))
            return tokenizer, _generation_config(name)
    except Exception as error:  # as in ``load``
        raise unloadable(name, error) from error


def load_positions(name: str) -> int:
    """The longest prompt plus response that a model was made for, by its config alone; unbounded if that gives none.
    Raises UserError in one line."""
    _require_there(name)
    if names_base(Path(name)):
        return load_positions(base_name(Path(name)))
    _require_config(name)
    try:
        with quiet_loading():
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # as in ``load``
        raise unloadable(name, error) from error
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or sys.maxsize)


def _generation_config(name: str) -> Any:
    """Of a directory or the hub; where there is none, what its config says, as transformers does."""
    with contextlib.suppress(OSError):
        return GenerationConfig.from_pretrained(name)
    return GenerationConfig.from_model_config(AutoConfig.from_pretrained(name, trust_remote_code=False))


def _require_there(name: str) -> None:
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    in_a_folder = "/" in name and Path(name).parent.is_dir()  # such as runs/NAME before that run was made
    if not Path(name).is_dir() and (looks_local or in_a_folder):
        raise UserError(f"model {name!r}: there is no such directory or run")


def _require_config(name: str) -> None:
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise UserError(f"model {name!r}: the directory holds no config.json, so it is no Hugging Face model")


def unloadable(name: str, error: Exception) -> UserError:
    """What transformers said of a model that it could not load, in one line."""
    lines = [line.strip() for line in said(error, str).splitlines() if line.strip()] or [type(error).__name__]
    first_line = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
    if isinstance(error, MemoryError) or _unreachable(error):
        return Unavailable(f"model {name!r} cannot be loaded now: {first_line}")
    return UserError(f"model {name!r} cannot be loaded: {kind}{first_line}")


def _unreachable(error: BaseException | None) -> bool:
    """Whether it began with a hub that did not answer; its client's errors are of several libraries."""
    names = {"ConnectError", "ConnectTimeout", "ReadTimeout", "LocalEntryNotFoundError", "OfflineModeIsEnabled"}
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in names:
            return True
        error = error.__cause__ or error.__context__
    return False


def _warn_of_unused(name: str, keys: Iterable[str]) -> None:
    """Some architectures' files hold what this one has no use for; a config.json with too few layers looks the same."""
    unused = sorted(map(str, keys))
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        warnings.warn(f"model {name!r}: its config.json has no place for {unused[0]!a}{more}, left out", stacklevel=3)


def _require_all(name: str, found: Mapping[str, Any]) -> None:
    """Raise UserError if weights of the model were in no file, or of another shape: transformers fills them with chance
    and warns. Weights that are tied to others are in no file and not missing."""
    for what, keys in (("are missing", found["missing_keys"]), ("have another shape", found["mismatched_keys"])):
        names = sorted(key if isinstance(key, str) else str(key[0]) for key in keys)
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"model {name!r}: weights {what} in its files: {names[0]}{more}; they would be random. Its "
                "config.json or its weights are damaged, or of another model"
            )


def load_tokenizer(name: str) -> Any | None:
    """The tokenizer of a local directory; None if it has none."""
    if not (Path(name) / "tokenizer_config.json").is_file():
        return None
    return forget_origin(AutoTokenizer.from_pretrained(name, trust_remote_code=False))


def open_tokenizer(name: str) -> Any:
    """The tokenizer of a directory, which need not hold a model, or of the hub. Raises UserError in one line."""
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UserError(f"tokenizer {name!r}: there is no such directory")
    if Path(name).is_dir() and not any((Path(name) / file).is_file() for file in TOKENIZER_FILES):
        raise UserError(f"tokenizer {name!r}: the directory holds none of {', '.join(TOKENIZER_FILES)}")
    try:
        with quiet_loading():
            return forget_origin(AutoTokenizer.from_pretrained(name, trust_remote_code=False))
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
