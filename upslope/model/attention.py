"""The one attention function that learning, prompt and decoding passes run through, inside any transformers model
that lets its attention be chosen. What it does is said by the context of the model's call (``planned``):

- a layout: packed tokens [1, K]; each sees what the layout says and nothing else.
- a cache: one new token for each of N rows [N, 1]; it is written to the cache and sees its row so far.
- both: packed tokens, whose keys and values the cache remembers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from upslope.model.cache import Cache
from upslope.model.cudnn import without_cudnn
from upslope.model.hf import attention_in_use, below_adapter, head_depth, register_attention, use_attention
from upslope.model.layout import Layout
from upslope.model.merged import merged_attention
from upslope.model.varlen import calls_for, refusal

NAME = "upslope"


class AttentionPlan(NamedTuple):
    """What the tokens of a model's call are, and what each of them sees."""

    layout: Layout | None = None
    cache: Cache | None = None


_PLAN: ContextVar[AttentionPlan | None] = ContextVar("upslope_attention_plan", default=None)
"""Of the call under way in this thread."""


@contextmanager
def planned(layout: Layout | None = None, cache: Cache | None = None) -> Iterator[None]:
    """Models that run with our attention are called inside of this. It is a context and not an argument of the call,
    because the names of a model's arguments are not ours (see ``model/hf.py``)."""
    token = _PLAN.set(AttentionPlan(layout, cache))
    try:
        yield
    finally:
        _PLAN.reset(token)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """query [B, H, L, D], key and value [B, Hkv, L, D] to ([B, L, H, D], None), as transformers expects.

    The remaining keyword arguments are those transformers passes to every implementation; what could change the
    result (dropout, a sliding window, soft-capped scores) is excluded when a model is admitted, by comparing logits.
    """
    layout, cache = _PLAN.get() or AttentionPlan()
    if layout is not None:
        if cache is not None:
            cache.remember(module.layer_idx, key[0], value[0])  # type: ignore[arg-type]
        with without_cudnn(query.device):
            return _laid_out(query[0], key[0], value[0], layout, scaling, more)[None], None
    if cache is None:
        raise RuntimeError("the model runs with upslope's attention, so a forward pass needs a layout or a cache")
    keys, values, visible = cache.extend(module.layer_idx, key[:, :, 0], value[:, :, 0])  # type: ignore[arg-type]
    repeats = query.shape[1] // keys.shape[1]
    with without_cudnn(query.device):
        out = _grouped(query, keys, values, repeats, visible, scaling)
    return out.transpose(1, 2), None


def _laid_out(
    query_HKD: Tensor,
    key_JKD: Tensor,
    value_JKD: Tensor,
    layout: Layout,
    scaling: float | None,
    more: Mapping[str, Any],
) -> Tensor:
    """Attention over a layout: [K, H, D]; by flash kernels where there are any that do the same as ``packed``."""
    calls = calls_for(query_HKD, key_JKD, value_JKD, more, packed)
    if calls is None:
        return packed(query_HKD, key_JKD, value_JKD, layout, scaling)
    return merged_attention(query_HKD, key_JKD, value_JKD, layout.halves, scaling, calls)


def packed(query_HKD: Tensor, key_HKD: Tensor, value_HKD: Tensor, layout: Layout, scaling: float | None) -> Tensor:
    """Attention over a layout: [K, H, D]. Each kind of segment is one rectangle; padding is computed and dropped."""
    query_KHD, key_KHD, value_KHD = (x.transpose(0, 1) for x in (query_HKD, key_HKD, value_HKD))
    repeats = query_HKD.shape[0] // key_HKD.shape[0]
    parts = []
    for segments in layout.segments:
        query_BHLD = query_KHD[segments.query_BL].transpose(1, 2)
        key_BHSD = key_KHD[segments.key_BS].transpose(1, 2)
        value_BHSD = value_KHD[segments.key_BS].transpose(1, 2)
        if repeats > 1:
            key_BHSD, value_BHSD = (x.repeat_interleave(repeats, dim=1) for x in (key_BHSD, value_BHSD))
        out_BHLD = scaled_dot_product_attention(
            query_BHLD,
            key_BHSD,
            value_BHSD,
            attn_mask=segments.visible_B1LS,
            is_causal=segments.visible_B1LS is None,
            scale=scaling,
        )
        parts.append(out_BHLD.transpose(1, 2).flatten(0, 1))
    flat = torch.cat(parts) if len(parts) > 1 else parts[0]
    return flat[layout.place_K]


def _grouped(
    query_NH1D: Tensor, key_NJSD: Tensor, value_NJSD: Tensor, repeats: int, visible: Tensor | None, scale: float | None
) -> Tensor:
    """One query a row over its cache, [N, H, 1, D]; the heads that share keys become the query axis, uncopied."""
    num_rows, num_heads, _, width = query_NH1D.shape
    query_NJRD = query_NH1D.reshape(num_rows, num_heads // repeats, repeats, width)
    mask = None if visible is None else visible[:, None, None, :]
    out = scaled_dot_product_attention(query_NJRD, key_NJSD, value_NJSD, attn_mask=mask, scale=scale)
    return out.reshape(num_rows, num_heads, 1, value_NJSD.shape[-1])


def slower(model: Any, dtype: torch.dtype | None) -> str:
    """In a line, why a model of this kind learns by slower kernels than its device is known for; empty where it does
    not. ``dtype``: what it computes in, None: what it is kept in."""
    weight = next(model.parameters())
    return refusal(weight.device, dtype or weight.dtype, head_depth(model), packed)


register_attention(NAME, attention)
_OWN: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""What every model that runs with ours ran with before."""


def take_over(model: Any) -> None:
    """Let the model run with this attention from now on."""
    _OWN[model] = attention_in_use(model)
    use_attention(model, NAME)


def release(model: Any) -> None:
    """Give a model back the attention that it had."""
    own = _OWN.get(model, _OWN.get(below_adapter(model)))
    if own is not None:
        use_attention(model, own)


@contextmanager
def own_attention(model: Any) -> Iterator[None]:
    """The model runs with the attention that it had, for a while."""
    current = attention_in_use(model)
    release(model)
    try:
        yield
    finally:
        use_attention(model, current)
