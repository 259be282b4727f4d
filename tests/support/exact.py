"""How far a result is from the truth, and how far the last rounding alone may take it."""

import pytest
import torch

DTYPES = (torch.float32, torch.bfloat16)
UNIT = {torch.float32: 2**-24, torch.bfloat16: 2**-8}
"""Half a unit in the last place of a number just above a power of two: what one rounding may change, relatively."""
SUM = 1.5e-6
"""What float32 inside a kernel may add to that: n terms in a row have an error of about sqrt(n) roundings of 6e-8; n
is at most a few hundred. In lanes it is less: 3e-7 was the most for norms and activations, 9e-7 for attention, where
scores reach 8, whose last place is 5e-7, and an error of a score is a relative one of its probability."""


def random(*shape, seed=0, dtype=torch.float32, scale=1.0):
    """Normal numbers that the dtype holds exactly."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def gap(got, truth):
    """The largest difference, as a share of the largest entry of the truth."""
    assert got.shape == truth.shape and torch.isfinite(got).all()
    return float((got.double() - truth).abs().max() / truth.abs().max().clamp(min=1e-300)) if truth.numel() else 0.0


def assert_rounded(got, truth, num_roundings):
    """``num_roundings`` to the result's dtype lie between it and the truth in float64, and sums in float32."""
    assert gap(got, truth) <= num_roundings * UNIT[got.dtype] + SUM


def on_threads(function):
    """What a function returns with one thread, having checked that two threads give the same bits."""
    before = torch.get_num_threads()
    found = []
    try:
        for num in (1, 2):
            torch.set_num_threads(num)
            found.append(function())
    finally:
        torch.set_num_threads(before)
    one, two = (f if isinstance(f, (tuple, list)) else (f,) for f in found)
    for a, b in zip(one, two, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    return found[0]


each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
