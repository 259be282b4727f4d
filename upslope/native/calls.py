"""Calls of the compiled kernels: their signatures, and what is checked before a pointer is handed over. A wrong one
would write anywhere. What each kernel computes stands beside its loop in ``*.h``."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from upslope.native.build import library

SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}
_KINDS = {"p": ctypes.c_void_p, "l": ctypes.c_long, "f": ctypes.c_float}
_SIGNATURES = {
    "norm": "ppppppllf",
    "norm_backward": "ppppppppll",
    "rotary": "plpplllf",
    "swiglu": "ppll",
    "swiglu_backward": "ppll",
    "head_norm": "plplllf",
    "head_norm_backward": "pplppplllf",
    "attend": "ppllllfppl",
    "attend_backward": "ppppppllpplllfpl",
    "decode": "ppplllfplppplpppppplllp",
    "draw": "ppfllpp",
    "logps": "ppfllppp",
    "logps_backward": "ppfppll",
}


def available(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernels can compute in this precision, on this device, on this machine."""
    return dtype in SUFFIX and device.type == "cpu" and library() is not None


@functools.cache
def kernel(name: str, dtype: torch.dtype) -> Callable[..., None]:
    loaded = library()
    if loaded is None:
        raise RuntimeError("a native kernel was called where there are none")
    function = getattr(loaded, f"{name}_{SUFFIX[dtype]}")
    function.argtypes = [_KINDS[kind] for kind in _SIGNATURES[name]]
    function.restype = None
    return function  # type: ignore[no-any-return]


def floats(*shape: int) -> Tensor:
    """A buffer of float32, whatever torch's default is."""
    return torch.empty(shape, dtype=torch.float32)


def pointers(dtype: torch.dtype, *tensors: Tensor | None) -> list[int | None]:
    """Addresses of contiguous tensors of one type."""
    for tensor in tensors:
        if tensor is not None and (tensor.dtype != dtype or not tensor.is_contiguous() or tensor.device.type != "cpu"):
            raise ValueError(f"a native kernel needs contiguous {dtype} on the CPU, not {tensor.dtype}")
    return [None if t is None else t.data_ptr() for t in tensors]


def require(*sizes: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """Tensors of these shapes."""
    for tensor, shape in sizes:
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"a native kernel was given {tuple(tensor.shape)} in place of {shape}")
