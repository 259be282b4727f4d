"""The softmax over the vocabulary as functions of tensors (vocabulary.h), as ``Ops`` describes them."""

from __future__ import annotations

import torch
from torch import Tensor

from upslope.native.calls import floats, kernel, pointers, require


def draw(logits_NV: Tensor, uniform_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(token, logp float64) by the inverse of the cumulative distribution; token -1 where no logit is finite, or one
    is NaN or infinite."""
    num, size = logits_NV.shape
    require((uniform_N, (num,)))
    token_N, logp_N = torch.empty(num, dtype=torch.long), torch.empty(num, dtype=torch.float64)
    (logits,) = pointers(logits_NV.dtype, logits_NV)
    uniform, logp = pointers(torch.float64, uniform_N, logp_N)
    kernel("draw", logits_NV.dtype)(logits, uniform, 1 / temperature, num, size, token_N.data_ptr(), logp)
    return token_N, logp_N


def logps(logits_CV: Tensor, target_C: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """(logp of the targets, entropy, largest logit and 1 / sum of exponentials [C, 2]) of the softmax of
    logits / temperature, in float32."""
    num, size = logits_CV.shape
    _check_targets(target_C, num, size)
    found = [floats(num), floats(num), floats(num, 2)]
    (logits,) = pointers(logits_CV.dtype, logits_CV)
    (target,) = pointers(torch.long, target_C)
    kernel("logps", logits_CV.dtype)(logits, target, 1 / temperature, num, size, *pointers(torch.float32, *found))
    return found[0], found[1], found[2]


def logps_backward_(logits_CV: Tensor, target_C: Tensor, temperature: float, peak_C2: Tensor, dlogp_C: Tensor) -> None:
    """The logits become their gradient, dlogp (onehot - softmax) / temperature."""
    num, size = logits_CV.shape
    _check_targets(target_C, num, size)
    require((peak_C2, (num, 2)), (dlogp_C, (num,)))
    (logits,) = pointers(logits_CV.dtype, logits_CV)
    (target,) = pointers(torch.long, target_C)
    peak, dlogp = pointers(torch.float32, peak_C2, dlogp_C)
    kernel("logps_backward", logits_CV.dtype)(logits, target, 1 / temperature, peak, dlogp, num, size)


def _check_targets(target_C: Tensor, num: int, size: int) -> None:
    require((target_C, (num,)))
    if num and not 0 <= int(target_C.min()) <= int(target_C.max()) < size:
        raise IndexError(f"a token is not among the {size} of the vocabulary")
