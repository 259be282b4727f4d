"""The shape of a new Llama: what follows from what."""

from __future__ import annotations

import math
import os
from dataclasses import replace

from upslope.errors import UserError
from upslope.model.settings import NewModelSettings
from upslope.model.sound import MOST_LAYERS

HEAD_WIDTH = 64
"""Of a head where nothing says otherwise, as in GPT-2, OPT and SmolLM2."""
ASPECT = 64
"""Width per layer, as nanochat has it. Losses hardly depend on it: 6 layers 4288 wide lose 3 % against 48 layers 1600
wide (Kaplan et al. 2020, arXiv:2001.08361, section 3.1)."""
POSITIONS = 2048
"""As LLaMA (arXiv:2302.13971); none of them costs a weight."""
SHAPE = ("layers", "width", "heads", "kv_heads", "ffn")


def derived_shape(new: NewModelSettings) -> NewModelSettings:
    """A Llama's settings with nothing left out.

    ::

        layers = depth, width = 64 depth, heads = width / 64, kv_heads = heads
        ffn = 8/3 width, rounded up to a multiple of 64
        init_std = sqrt(2 / (5 width))

    8/3 is two thirds of 4, so that three matrices have the weights of the usual two (Shazeer 2020, arXiv:2002.05202;
    LLaMA). The deviation is SmallInit (Nguyen and Salazar 2019, arXiv:1910.05895, section 2.2; GPT-NeoX-20B). Raises
    UserError for a shape that is missing, cannot be, or is said twice and differently.

    >>> found = derived_shape(NewModelSettings(depth=6))
    >>> found.layers, found.width, found.heads, found.kv_heads, found.ffn, found.tied, round(found.init_std, 4)
    (6, 384, 6, 6, 1024, True, 0.0323)
    """
    layers = _agreed("layers", new.layers, new.depth, new.depth)
    width = _agreed("width", new.width, None if new.depth is None else ASPECT * new.depth, new.depth)
    if layers is None or width is None:
        lacking = " and ".join(f"new.{k}" for k, v in (("layers", layers), ("width", width)) if v is None)
        raise UserError(f"new:llama has no shape: set new.depth, for example new.depth=6, or {lacking}")
    if layers > MOST_LAYERS:
        raise UserError(f"new.layers = {layers:,} must be at most {MOST_LAYERS:,}; no model has as many")
    heads = new.heads
    if heads is None:
        if width % HEAD_WIDTH:
            raise UserError(f"new.width = {width} is no multiple of {HEAD_WIDTH}, so set new.heads as well")
        heads = width // HEAD_WIDTH
    if width % heads or width // heads % 2:
        raise UserError(
            f"new.width = {width} makes no {heads} heads of an even width; set new.heads so that width / heads is even"
        )
    kv_heads = heads if new.kv_heads is None else new.kv_heads
    if heads % kv_heads:
        raise UserError(f"new.kv_heads = {kv_heads} must divide new.heads = {heads}")
    return replace(
        new,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        ffn=-(-8 * width // (3 * 64)) * 64 if new.ffn is None else new.ffn,
        tied=True if new.tied is None else new.tied,
        positions=POSITIONS if new.positions is None else new.positions,
        init_std=math.sqrt(2 / (5 * width)) if new.init_std is None else new.init_std,
    )


def _agreed(name: str, said: int | None, follows: int | None, depth: int | None) -> int | None:
    if said is not None and follows is not None and said != follows:
        raise UserError(
            f"new.depth = {depth} means new.{name} = {follows}, and new.{name} = {said} says otherwise; leave one of "
            "the two out"
        )
    return follows if said is None else said


def num_weights(shape: NewModelSettings, vocabulary: int) -> int:
    """Weights of a Llama of this (derived) shape.

    >>> num_weights(derived_shape(NewModelSettings(depth=12)), 32_000)
    109529856
    """
    layers, width, heads, kv_heads, ffn = (int(getattr(shape, name) or 0) for name in SHAPE)
    attention = 2 * width * width + 2 * width * width * kv_heads // heads
    return layers * (attention + 3 * width * ffn + 2 * width) + width + (1 if shape.tied else 2) * vocabulary * width


def require_memory(what: str, num: int) -> None:
    """Raise UserError for more weights than this machine could hold: a slip of the finger would take minutes to
    show."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):  # as on Windows
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 4 * num > memory > 0:
        raise UserError(
            f"{what} has {num:,} weights, {4 * num / 1e9:,.0f} GB in float32, and this machine has "
            f"{memory / 1e9:,.0f} GB; make it smaller"
        )
