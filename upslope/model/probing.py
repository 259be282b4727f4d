"""Rows that a model is tried on before it runs."""

from __future__ import annotations

from typing import Any

from upslope.model.hf import max_positions, text_config
from upslope.model.layout import Tokens

LENGTHS = ((5, 3), (7, 4), (7, 6), (1, 2))
"""Of the rows that every model is tried on: prompt and response."""
MOST_WORK = {"cpu": 5e11}
"""Products of a weight and a number in one pass beyond a length that the config names, by kind of device: seconds."""
MOST_WORK_ELSEWHERE = 5e14
MOST_LOGITS, MOST_SCORES = 2**28, 2**26
"""Held at once there; and of attention, over all layers, which grow with the square of the length."""


def probes(model: Any) -> list[Tokens]:
    return [probe(p, r, model) for p, r in LENGTHS]


def around(model: Any, length: int) -> list[Tokens]:
    """A row that goes beyond a length while it is written, and one that is beyond twice of it from the start."""
    longest = max_positions(model)
    found = [probe(max(1, length - 2), 7, model), probe(2 * length + 3, 5, model)]
    return [row for row in found if len(row.prompt) + len(row.response) <= longest] or probes(model)[:1]


def is_cheap(model: Any, length: int) -> bool:
    weights = sum(p.numel() for p in model.parameters())
    most = MOST_WORK.get(next(model.parameters()).device.type, MOST_WORK_ELSEWHERE)
    config, num = text_config(model), 2 * length + 8
    heads = getattr(config, "num_attention_heads", None) or 1
    scores = num**2 * getattr(config, "num_hidden_layers", 1) * (heads if isinstance(heads, int) else max(heads))
    return bool(num * weights <= most and 2 * num * config.vocab_size <= MOST_LOGITS and scores <= MOST_SCORES)


def probe(num_prompt: int, num_response: int, model: Any) -> Tokens:
    """Some tokens to try a model on, none that stands for a picture or a sound; prompts of equal length are equal."""
    config = text_config(model)
    vocabulary = config.vocab_size
    strange = {v for c in (model.config, config) for k, v in vars(c).items() if "token_i" in k and isinstance(v, int)}
    usual = [i for i in range(min(vocabulary, 512)) if i not in strange] or [0]
    prompt = tuple(usual[(11 * i + num_prompt) % len(usual)] for i in range(num_prompt))
    response = tuple(usual[(7 * i + num_response) % len(usual)] for i in range(num_response))
    return Tokens(prompt, response, (True,) * num_response)
