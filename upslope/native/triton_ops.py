"""The kernels in Triton, as one value of ``Ops``, for GPUs. They have run in Triton's interpreter and on no GPU yet, so
``ops_for`` takes them only where UPSLOPE_TRITON=1 asks for them. Importing this needs Triton."""

from __future__ import annotations

import torch

from upslope.native.triton_attention import attend, attend_backward
from upslope.native.triton_pointwise import (
    head_norm_,
    head_norm_backward_,
    norm,
    norm_backward,
    rotary_,
    swiglu,
    swiglu_backward_,
)
from upslope.native.triton_table import table
from upslope.native.triton_vocabulary import draw, logps, logps_backward_

# fmt: off
__all__ = [
    "attend", "attend_backward", "available", "draw", "fast", "head_norm_", "head_norm_backward_", "logps",
    "logps_backward_", "norm", "norm_backward", "rotary_", "swiglu", "swiglu_backward_", "table",
]
# fmt: on

fast: bool = True


def available(dtype: torch.dtype, device: torch.device) -> bool:
    return dtype in (torch.float32, torch.bfloat16) and device.type == "cuda"
