"""Where upslope meets transformers: everything it relies on beyond calling a model and reading its output.

1. ``AttentionInterface.register`` gives a name to an attention function, and a model told to use that name calls it in
   every layer with (module, query, key, value, mask, scaling=...), the module knowing its ``layer_idx``.
2. For a name without a mask function of its own, no mask is made.
3. A config says which attention is in use (``_attn_implementation``; there is no public way to ask), and a class says
   whether it lets its attention be chosen (``_supports_attention_backend``, likewise).
4. The keyword that takes what a model keeps of earlier tokens is one of ``CACHE_KEYWORDS``; a model that is given none
   makes its own, and its output has it under the same name or another of these.
5. Layers that can be computed again in the backward pass are marked (``GradientCheckpointingLayer``).
6. A tokenizer's ``init_kwargs`` hold what it was made from, and are written with it.
7. safetensors and tokenizers, which are written in Rust, raise what the system said as text: ``... (os error 28)``.

Nothing of ours travels through a model's keyword arguments: those are transformers' names, and it may take one that we
use. Our attention reads its plan from a context instead (``model/attention.py``). tests/model/test_hf.py tries each of
these.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from functools import lru_cache, partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as hf_logging

from upslope.errors import UserError
from upslope.plugins import said

CACHE_KEYWORDS = ("cache", "past_key_values", "cache_params", "state", "mems")
"""Newest first: transformers 5.24 renamed the second and the third to the first. The last two are of models that keep
something else than keys and values (RWKV, XLNet)."""
LOADED_FROM = ("is_local", "local_files_only")
"""What transformers notes in a tokenizer of how it was loaded."""
OS_ERROR = re.compile(r"\(os error (\d+)\)")


def register_attention(name: str, function: Callable[..., Any]) -> None:
    """Let models call ``function`` as their attention once they use ``name``."""
    AttentionInterface.register(name, function)


def can_choose_attention(model: Any) -> bool:
    """Whether the model's layers ask for their attention function by name."""
    return bool(getattr(model, "_supports_attention_backend", False))


def below_adapter(model: Any) -> Any:
    """The model itself, without its adapter if it has one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def text_config(model: Any) -> Any:
    """The config of what reads and writes text: the model's own, or the part of it in a composite one (Gemma 3, LLaVA),
    whose own has neither layers nor a vocabulary."""
    return text_part(model.config)


def text_part(config: Any) -> Any:
    """The same of a config."""
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def max_positions(model: Any) -> int:
    """The longest prompt plus response a model was made for; unbounded if its config gives none."""
    return positions_in(model.config)


def positions_in(config: Any) -> int:
    """The same of a config."""
    return int(getattr(text_part(config), "max_position_embeddings", None) or sys.maxsize)


def cache_bytes(model: Any) -> int:
    """Bytes that the keys and values of one token take, over all layers; of whole attention where a config has no such
    numbers, or others for every layer."""

    config = text_config(model)
    cached = (_said_of(config, "num_key_value_heads") or _said_of(config, "num_attention_heads") or 1) * head_depth(
        model
    )
    return 2 * (_said_of(config, "num_hidden_layers") or 1) * cached * int(next(model.parameters()).element_size())


def head_depth(model: Any) -> int:
    """How wide queries and keys of one head are, as far as a config says it."""
    config = text_config(model)
    heads = _said_of(config, "num_attention_heads") or 1
    return _said_of(config, "head_dim") or -(-_said_of(config, "hidden_size") // heads) or 1


def _said_of(config: Any, name: str) -> int:
    """A number of a config; 0 where it has none."""
    try:
        value = getattr(config, name, None)
    except Exception:  # transformers refuses to say one number of what layers have of their own
        value = None
    return value if type(value) is int and value > 0 else 0


def attention_in_use(module: Any) -> str:
    """The name of the attention that a model, or a part of one with a config of its own, runs with over text."""
    return str(getattr(text_config(module), "_attn_implementation", None) or "")


def use_attention(module: Any, name: str) -> None:
    """Let the model run with the attention of that name, in all its parts that share the config of its text."""
    text_config(module)._attn_implementation = name


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without progress bars for the shards of a model, which would tear a live view apart, and without warnings, which
    print what stands in a model's files as it is, torch's of an old pickle among them. What they warn of is looked at
    by ``load``."""
    shown, verbosity = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if shown:
            hf_logging.enable_progress_bar()


def forget_origin(tokenizer: Any) -> Any:
    """The tokenizer without ``LOADED_FROM``: else a copy of it would differ from what it was loaded from."""
    for name in LOADED_FROM:
        getattr(tokenizer, "init_kwargs", {}).pop(name, None)
    return tokenizer


@contextmanager
def system_errors(folder: Path) -> Iterator[None]:
    """While ``folder`` is written: what the system says through a library in Rust is the OSError that it is elsewhere,
    above all that the disk is full."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        found = OS_ERROR.search(said(error, str))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(folder)) from error


def cache_keyword(model: Any) -> str:
    """The keyword under which this model's forward takes the keys and values of earlier tokens."""
    return next((name for name in CACHE_KEYWORDS if name in _parameters(model)), CACHE_KEYWORDS[1])


def cache_of(out: Any) -> Any:
    """What a model's output hands on to its next call. Raises LookupError if that is nothing."""
    found = next((out[name] for name in CACHE_KEYWORDS if name in out and out[name] is not None), None)
    if found is None:
        raise LookupError("the model keeps nothing of earlier tokens")
    return found


def keep_rows(cache: Any, rows: Tensor) -> None:
    """Drop all other rows of what a model keeps. States of recurrent layers can only be put in an order, of which rows
    may be left out; a model's own kind of cache may select them in a way of its own."""
    if type(cache).batch_select_indices is Cache.batch_select_indices:
        cache.reorder_cache(rows)
    else:
        cache.batch_select_indices(rows)


def accepted(model: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments of a call, those that this model's forward takes."""
    known = _parameters(model)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    return {name: value for name, value in call.items() if open_ended or name in known}


def _parameters(model: Any) -> Mapping[str, inspect.Parameter]:
    """Of the class: an instance may have been wrapped."""
    return _parameters_of(type(below_adapter(model)).forward)


@lru_cache(maxsize=64)
def _parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Looked up once: some decoders ask at every token."""
    return inspect.signature(function).parameters


def marked_layers(model: Any) -> list[nn.Module]:
    """The layers that a model of transformers marks as such, outer ones first."""
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


def recompute_layers(model: Any) -> None:
    """Let every layer keep only its input during a pass with gradient and compute the rest again in the backward pass.

    transformers' own switch works in training mode only, and training mode would bring dropout back, so each layer's
    forward function is wrapped here instead. Raises UserError if the model does not mark its layers.
    """
    layers = marked_layers(model)
    if not layers:
        raise UserError(
            f"learn.checkpoint_activations: {type(model).__name__} has no layers that can be computed again in the "
            "backward pass; leave it off, and lower learn.micro_batch to save memory"
        )
    for layer in layers:
        layer.forward = MethodType(_recomputed, layer)


def _recomputed(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Both times under the same context: by the backward pass, the caller has left the one that it ran in."""
    plain = partial(copy_context().run, type(layer).forward, layer, **kwargs)
    if not torch.is_grad_enabled():
        return plain(*args)
    return checkpoint(plain, *args, use_reentrant=False, preserve_rng_state=False)
