"""What a config.json says that nothing could be computed with, though transformers would take it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from upslope.model.hf import text_part

MOST_LAYERS = 10_000
"""Of any model; more is a slip of the finger, and would take hours to make."""


def require_sound(config: Any) -> None:
    """Raise ValueError for a number of layers, heads or positions, a width or a base of rotary angles that no model
    has."""
    text = text_part(config)
    for name in ("num_attention_heads", "num_key_value_heads", "hidden_size", "vocab_size"):
        try:
            value = getattr(text, name, None)
        except Exception:  # transformers refuses to say one number of what layers have of their own
            continue
        if type(value) is int and value < 1:
            raise ValueError(f"its config.json has {name} = {value}")
    for name, most in (("num_hidden_layers", MOST_LAYERS), ("max_position_embeddings", None)):
        value = getattr(text, name, None)
        whole = type(value) is int and value >= 1 and (most is None or value <= most)
        if value is not None and not whole:
            raise ValueError(f"its config.json has {name} = {value!r:.60}")
    for value in (getattr(text, "rope_theta", None), *_thetas(getattr(text, "rope_parameters", None))):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and math.isfinite(value) and value > 0):
            raise ValueError(f"its config.json has rope_theta = {value!r:.60}; it must be a finite number above 0")


def require_decoder(config: Any) -> None:
    """Raise ValueError for a model that reads with an encoder and writes with a decoder. A decoder that was taken out
    of one says so."""
    kinds = [str(kind) for kind in getattr(config, "architectures", None) or ()]
    if getattr(config, "is_encoder_decoder", False) and not any(kind.endswith("ForCausalLM") for kind in kinds):
        what = kinds[0] if kinds else getattr(config, "model_type", "model")
        raise ValueError(f"it is an encoder-decoder ({what}); take a causal (decoder-only) language model")


def _thetas(parameters: Any) -> Iterator[Any]:
    """Every rope_theta of a table, or of one table for each kind of layers."""
    if isinstance(parameters, Mapping):
        for name, value in parameters.items():
            if name == "rope_theta":
                yield value
            else:
                yield from _thetas(value)
