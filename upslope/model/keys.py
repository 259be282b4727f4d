"""Weights whose names are not the model's: missing ones, those without a place, and whose habit that is."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from upslope.errors import UserError

HABITS = {
    "_orig_mod.": "torch.compile leaves them; save the model inside (model._orig_mod)",
    "_fsdp_wrapped_module.": "FSDP leaves them; save a full state dict of the model inside",
    "_checkpoint_wrapped_module.": "torch's activation checkpointing leaves them; save the model inside",
    "base_model.model.": "peft leaves them; save with merge_and_unload(), or give the adapter's directory",
    "base_layer.": "peft leaves them below an adapter; save with merge_and_unload(), or give the adapter's directory",
    "pretrained_model.": "a model with a value head leaves them; save its pretrained_model",
    "module.": "DDP and DataParallel leave them; save the model inside (model.module)",
    "_forward_module.": "Lightning leaves them; save the model inside",
}
"""What is put into names, by whom; and how not to."""
OF_OTHERS = {
    r"\.lora_[AB]\.|lora_embedding": "an adapter's that was not merged; save with merge_and_unload()",
    r"(qweight|qzeros|g_idx|weight_scale_inv|absmax|quant_map|_packed|weight_scale)$": "quantized",
    r"^(v_head|score|classifier|value_head)\.": "another head's, of values, rewards or classes",
}
RECOMPUTED = re.compile(r"(inv_freq|\.attn\.(masked_)?bias|position_ids|\.attention\.(masked_)?bias)$")
"""Buffers that older versions of transformers wrote, and newer ones compute."""


def require_keys(name: str, found: Mapping[str, Any], architectures: Collection[str] = ()) -> None:
    """Raise UserError if weights of the model were in no file, or of another shape (transformers fills them with chance
    and warns), or if the files hold weights that have no place in the model. Weights that are tied to others are in no
    file and not missing. ``found``: what transformers tells of loading; ``architectures``: what config.json says."""
    missing = sorted(map(str, found["missing_keys"]))
    unexpected = [key for key in sorted(map(str, found["unexpected_keys"])) if not RECOMPUTED.search(key)]
    _require_no_habit(name, missing, unexpected)
    if missing:
        what = next((kind for kind in architectures if not _is_causal(kind)), "")
        hint = f" Its config.json says that it is a {what}, which has no head for tokens." if what else ""
        raise UserError(
            f"model {name!r}: weights are missing in its files: {missing[0]}{_more(missing)}; they would be "
            f"random.{hint} Its config.json or its weights are damaged, or of another model"
        )
    mismatched = sorted(found["mismatched_keys"], key=str)
    if mismatched:
        first = mismatched[0]
        key = first if isinstance(first, str) else str(first[0])
        shapes = (
            "" if isinstance(first, str) or len(first) < 3 else f" ({_shape(first[1])} there, {_shape(first[2])} here)"
        )
        raise UserError(
            f"model {name!r}: weights have another shape in its files: {key}{shapes}{_more(mismatched)}; they would be "
            "random. Its config.json or its weights are damaged, or of another model"
        )
    if unexpected:
        whose = next((whose for of, whose in OF_OTHERS.items() if re.search(of, unexpected[0])), "")
        raise UserError(
            f"model {name!r}: its config.json has no place for {unexpected[0]!a}{_more(unexpected)}"
            f"{f' ({whose})' if whose else ''}. Its config.json has too few layers or is of another model; if the "
            "weights are not needed, load the model with transformers, and save it again without them"
        )


def _require_no_habit(name: str, missing: Collection[str], unexpected: Collection[str]) -> None:
    wanted = set(missing)
    for mark, whose in HABITS.items():
        marked = [key for key in unexpected if mark in key]
        if marked and (not wanted or any(_bare(key) in wanted for key in marked)):
            raise UserError(
                f"model {name!r}: {len(marked)} of its weights are named with {mark!r}, such as {marked[0]!a}, as "
                f"{whose}; or take it out of the names"
            )
    for key in unexpected:
        inside = next((other for other in missing if key.endswith("." + other)), None)
        if inside is not None:
            raise UserError(
                f"model {name!r}: its weights are named with {key.removesuffix(inside)!a} before what they are, such "
                f"as {key!a}; its config.json is of another model, or take that out of the names"
            )


def _bare(key: str) -> str:
    for mark in HABITS:
        key = key.replace(mark, "")
    return key


def _is_causal(kind: str) -> bool:
    return kind.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "WithLMHead"))


def _more(keys: Collection[Any]) -> str:
    return f" and {len(keys) - 1} more" if len(keys) > 1 else ""


def _shape(shape: Any) -> str:
    return " x ".join(str(n) for n in shape)
