"""What a model computes in: the choice, and making a float64 model compute in float64 all the way."""

from __future__ import annotations

from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from upslope.model.hf import text_config
from upslope.native.onednn import cpu_gains_by_bf16

NARROWEST_FOR_BF16 = 96
"""Below this hidden size a CPU's bfloat16 products are slower than its float32 ones (conversion dominates)."""

Precision = Literal["auto", "float32", "bfloat16", "float64"]


def pick_dtype(precision: Precision, model: Any, device: torch.device) -> torch.dtype:
    """What to compute in; ``auto``: bfloat16 where the machine gains by it and the model is wide enough."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}[precision]
    wide = getattr(text_config(model), "hidden_size", 0) >= NARROWEST_FOR_BF16
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and cpu_gains_by_bf16()
    return torch.bfloat16 if wide and native else torch.float32


def agree(found: Tensor, expected: Tensor) -> bool:
    """Whether two computations of the same numbers differ by rounding alone.

    In float32 and float64 no entry may be off by a thousandth of their spread (rounding: 1e-6). In bfloat16 single
    entries are off by a third of it where a processor has no products in bfloat16 and a library takes a way round, so
    there all of them together count: |found - expected| below an eighth of |expected - mean|. Rounding makes 0.06 of it
    at most, one token too many or too few in a mask 0.6, and positions left out 0.18.
    """
    if found.shape != expected.shape:
        return False
    error, expected_64 = (found - expected).cpu().double(), expected.cpu().double()  # MPS has no float64
    spread = (expected_64 - expected_64.mean()).norm()
    if expected.dtype in (torch.float32, torch.float64):
        return bool(error.abs().max() <= 1e-3 * spread / expected.numel() ** 0.5)
    return bool(error.norm() <= spread / 8)


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Put the parameters into ``dtype`` and leave the buffers: rotary frequencies rounded to bfloat16 would shift every
    position a little. A float64 model then computes in float64 all the way."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    if dtype == torch.float64:
        widen_norms(model)


def widen_norms(model: nn.Module) -> None:
    """Let root-mean-square norms compute in float64: transformers' own round to float32 inside, which would hide
    differences below 1e-6 in every comparison made in float64. Other dtypes never come here."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = MethodType(_rms_norm, module)


def _rms_norm(module: Any, hidden: Tensor) -> Tensor:
    scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
    return module.weight * hidden * scale  # type: ignore[no-any-return]
