"""The softmax over the vocabulary in Triton, as ``Ops`` describes it: a program has a row, sums float32 over stripes of
the vocabulary, and the stripes in float64."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from upslope.native.triton_pointwise import require

STRIPE = 1024


@triton.jit
def _highest(row, size, B: tl.constexpr):
    """The largest logit; NaN if one is."""
    most, wrong = tl.full((B,), float("-inf"), tl.float32), tl.zeros((B,), tl.int32)
    for begin in range(0, size, B):
        at = begin + tl.arange(0, B)
        x = tl.load(row + at, mask=at < size, other=float("-inf")).to(tl.float32)
        wrong = wrong | (x != x).to(tl.int32)
        most = tl.where(x > most, x, most)
    return tl.where(tl.sum(wrong, axis=0) > 0, float("nan"), tl.max(most, axis=0))


@triton.jit
def _draw(logits, uniform, scale, size, token, height, total, B: tl.constexpr):
    row = tl.program_id(0)
    own = logits + row.to(tl.int64) * size
    most = _highest(own, size, B)
    sound = (most == most) & (most < float("inf")) & (most > float("-inf"))
    most = tl.where(sound, most, 0.0)
    whole = tl.zeros((1,), tl.float64)
    for begin in range(0, size, B):
        at = begin + tl.arange(0, B)
        x = tl.load(own + at, mask=at < size, other=float("-inf")).to(tl.float32)
        whole += tl.sum(tl.exp((x - most) * scale), axis=0).to(tl.float64)
    aim = tl.load(uniform + row) * whole
    below, last = tl.zeros((1,), tl.float64), tl.full((1,), -1, tl.int64)
    found = tl.full((1,), size, tl.int64)
    for begin in range(0, size, B):
        at = begin + tl.arange(0, B)
        x = tl.load(own + at, mask=at < size, other=float("-inf")).to(tl.float32)
        p = tl.exp((x - most) * scale)
        upto = below + tl.cumsum(p.to(tl.float64), axis=0)
        index = at.to(tl.int64)
        found = tl.minimum(found, tl.min(tl.where((p > 0) & (upto > aim), index, size), axis=0))
        last = tl.maximum(last, tl.max(tl.where(p > 0, index, -1), axis=0))
        below += tl.sum(p, axis=0).to(tl.float64)
    chosen = tl.where(found < size, found, last)  # rounding could leave the aim above every sum
    chosen = tl.where(sound, chosen, -1)
    one = tl.arange(0, 1)
    tl.store(token + row + one, chosen)
    z = tl.load(own + tl.maximum(chosen, 0)).to(tl.float32)
    tl.store(height + row + one, (z - most) * scale)
    tl.store(total + row + one, whole)


def draw(logits_NV: Tensor, uniform_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    num, size = logits_NV.shape
    require((logits_NV, (num, size)), dtype=logits_NV.dtype)
    require((uniform_N, (num,)), dtype=torch.float64)
    token_N = logits_NV.new_empty(num, dtype=torch.long)
    height_N, total_N = (logits_NV.new_empty(num, dtype=d) for d in (torch.float32, torch.float64))
    if num:
        _draw[(num,)](logits_NV, uniform_N, 1 / temperature, size, token_N, height_N, total_N, B=STRIPE)
    return token_N, height_N.double() - total_N.log()


@triton.jit
def _logps(logits, target, scale, size, height, total, moment, highest, B: tl.constexpr):
    row = tl.program_id(0)
    own = logits + row.to(tl.int64) * size
    most = _highest(own, size, B)
    whole, mean = tl.zeros((1,), tl.float64), tl.zeros((1,), tl.float64)
    for begin in range(0, size, B):
        at = begin + tl.arange(0, B)
        x = tl.load(own + at, mask=at < size, other=float("-inf")).to(tl.float32)
        z = (x - most) * scale
        p = tl.exp(z)
        whole += tl.sum(p, axis=0).to(tl.float64)
        mean += tl.sum(p * tl.maximum(z, -100.0), axis=0).to(tl.float64)  # p is 0 there, and z may be -inf
    one = tl.arange(0, 1)
    chosen = tl.load(own + tl.load(target + row)).to(tl.float32)
    tl.store(height + row + one, (chosen - most).to(tl.float64) * scale)
    tl.store(total + row + one, whole)
    tl.store(moment + row + one, mean)
    tl.store(highest + row, most)


def logps(logits_CV: Tensor, target_C: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Targets outside the vocabulary are not looked for: that would be to wait for the device."""
    num, size = logits_CV.shape
    require((logits_CV, (num, size)), dtype=logits_CV.dtype)
    require((target_C, (num,)), dtype=torch.long)
    height_C, total_C, moment_C = logits_CV.new_empty(3, num, dtype=torch.float64)
    most_C = logits_CV.new_empty(num, dtype=torch.float32)
    if num:
        _logps[(num,)](logits_CV, target_C, 1 / temperature, size, height_C, total_C, moment_C, most_C, B=STRIPE)
    log_C = total_C.log()
    peak_C2 = torch.stack([most_C, (1 / total_C).float()], dim=1)
    return (height_C - log_C).float(), (log_C - moment_C / total_C).float(), peak_C2


@triton.jit
def _logps_backward(logits, target, scale, peak, dlogp, size, B: tl.constexpr):
    row, at = tl.program_id(0), tl.program_id(1) * B + tl.arange(0, B)
    own = logits + row.to(tl.int64) * size
    most, share, slope = tl.load(peak + 2 * row), tl.load(peak + 2 * row + 1), tl.load(dlogp + row)
    x = tl.load(own + at, mask=at < size, other=float("-inf"))
    p = tl.exp((x.to(tl.float32) - most) * scale) * share
    hit = tl.where(at == tl.load(target + row), 1.0, 0.0)
    tl.store(own + at, (scale * slope * (hit - p)).to(x.dtype), mask=at < size)


def logps_backward_(logits_CV: Tensor, target_C: Tensor, temperature: float, peak_C2: Tensor, dlogp_C: Tensor) -> None:
    num, size = logits_CV.shape
    require((logits_CV, (num, size)), dtype=logits_CV.dtype)
    require((target_C, (num,)), dtype=torch.long)
    require((peak_C2, (num, 2)), (dlogp_C, (num,)), dtype=torch.float32)
    if num:
        grid = (num, triton.cdiv(size, STRIPE))
        _logps_backward[grid](logits_CV, target_C, 1 / temperature, peak_C2, dlogp_C, size, B=STRIPE)
