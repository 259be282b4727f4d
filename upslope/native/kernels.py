"""The kernels in C, as one value of ``Ops``. Rows are contiguous; T is float32 or bfloat16, and sums are float32."""

from upslope.native.attention import attend, attend_backward
from upslope.native.calls import available
from upslope.native.pointwise import (
    head_norm_,
    head_norm_backward_,
    norm,
    norm_backward,
    rotary_,
    swiglu,
    swiglu_backward_,
)
from upslope.native.table import table
from upslope.native.vocabulary import draw, logps, logps_backward_

# fmt: off
__all__ = [
    "attend", "attend_backward", "available", "draw", "fast", "head_norm_", "head_norm_backward_", "logps",
    "logps_backward_", "norm", "norm_backward", "rotary_", "swiglu", "swiglu_backward_", "table",
]
# fmt: on

fast: bool = True
