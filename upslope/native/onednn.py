"""What upslope takes from torch that torch does not promise: questions about the processor, and a product with a weight
that is laid out beforehand.

torch lays out a bfloat16 weight for oneDNN at every call, which for a few dozen rows takes as long as the product, and
has no public way to keep it so. Where one of these names is missing, the ordinary product is taken. tests/native/
test_onednn.py compares the two.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

Product = Callable[[Tensor], Tensor]


def cpu_gains_by_bf16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32: by AMX, or by AVX512-BF16 where the maker is not
    Intel, whose processors without AMX (or with it hidden by a hypervisor) need 1.7 times as long for it."""
    return _says("_is_amx_tile_supported") or (_says("_is_avx512_bf16_supported") and "Intel" not in cpu_maker())


def cpu_maker() -> str:
    """What the system calls the processor's maker (``GenuineIntel``, ``AuthenticAMD``); empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:  # no Linux
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def _says(question: str) -> bool:
    return bool(getattr(torch.cpu, question, lambda: False)())


def lays_out() -> bool:
    """Whether bfloat16 weights can be laid out once, here and with this torch."""
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    return all(hasattr(torch.ops.mkldnn, name) for name in names) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def product(weight: Tensor, bias: Tensor | None, num_rows: int) -> Product:
    """x to x W^T + b, of about ``num_rows`` rows, without gradient. A weight in bfloat16 is copied into oneDNN's own
    layout here, so what is done to it afterwards is not seen."""
    if weight.dtype != torch.bfloat16 or weight.device.type != "cpu" or not lays_out():
        return lambda x: linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), num_rows)
    run = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: run(x, packed, bias, "none", [], "")
