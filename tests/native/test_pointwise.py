"""Norms, rotations and the gated activation: each beside the expression it stands for, in float64 under autograd."""

import pytest
import torch
from exact import assert_rounded, each_dtype, on_threads, random

from upslope.native import kernels

SIZES = [(1, 8), (3, 7), (5, 33), (37, 64), (300, 130), (70, 576)]
"""(rows, width): one row, widths that are no multiple of 16, and sizes at which the work is shared among threads."""
EPS = 1e-5


def exact(x):
    return x.double().requires_grad_()


def rms_norm(x, weight):
    return weight * x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()


@each_dtype
@pytest.mark.parametrize(("rows", "width"), SIZES)
@pytest.mark.parametrize("adds", [False, True])
def test_norm(rows, width, adds, dtype):
    """The sum is rounded once; the norm twice, before and after the weight."""
    x, add, weight = (random(*s, seed=i, dtype=dtype) for i, s in enumerate([(rows, width), (rows, width), (width,)]))
    given = x.clone(), add.clone()
    total, out, rstd = on_threads(lambda: kernels.norm(x, add if adds else None, weight, EPS, keep=True))
    assert torch.equal(x, given[0]) and torch.equal(add, given[1])
    assert torch.equal(total, x + add) if adds else total is x
    assert_rounded(out, rms_norm(total.double(), weight.double()), 2)
    assert_rounded(rstd, (total.double().square().mean(-1) + EPS).rsqrt(), 2)
    assert kernels.norm(x, add, weight, EPS)[2] is None


@each_dtype
@pytest.mark.parametrize(("rows", "width"), SIZES)
@pytest.mark.parametrize("rest", [False, True])
def test_norm_backward(rows, width, rest, dtype):
    """One rounding at the end of each; dweight stays float32."""
    x, dout, residual = (random(rows, width, seed=i, dtype=dtype) for i in range(3))
    weight = random(width, seed=3, dtype=dtype)
    exact_x, exact_weight = exact(x), exact(weight)
    truth = torch.autograd.grad(rms_norm(exact_x, exact_weight), (exact_x, exact_weight), dout.double())
    rstd = kernels.norm(x, None, weight, EPS, keep=True)[2]
    dx, dweight = on_threads(lambda: kernels.norm_backward(dout, x, rstd, weight, residual if rest else None))
    assert_rounded(dx, truth[0] + residual.double() if rest else truth[0], 1)
    assert dweight.dtype == torch.float32
    assert_rounded(dweight, truth[1], 1)


def rotated(heads, cosine, sine):
    """[K, H, D], the way transformers says it."""
    first, second = heads.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return heads * torch.cat([cosine, cosine], -1)[:, None] + turned * torch.cat([sine, sine], -1)[:, None]


@each_dtype
@pytest.mark.parametrize(
    ("rows", "heads", "rest", "depth"),
    [(1, 1, 0, 2), (3, 4, 2, 8), (5, 3, 1, 24), (70, 9, 3, 64), (40, 5, 5, 80), (9, 2, 1, 128)],
)
def test_rotary(rows, heads, rest, depth, dtype):
    """One rounding; the columns behind the heads (values) stay; turned back it is what it was, and the gradient."""
    x = random(rows, (heads + rest) * depth, dtype=dtype)
    angle = 100 * random(rows, depth // 2, seed=1)
    cosine, sine = angle.cos(), angle.sin()

    def turned(back):
        out = x.clone()
        kernels.rotary_(out, cosine, sine, heads, back=back)
        return out

    for back in (False, True):
        out = on_threads(lambda back=back: turned(back))
        truth = exact(x[:, : heads * depth].reshape(rows, heads, depth))
        value = rotated(truth, cosine.double(), sine.double())
        if back:
            (value,) = torch.autograd.grad(value, truth, truth.detach())
        assert_rounded(out[:, : heads * depth].reshape(rows, heads, depth), value.detach(), 1)
        assert torch.equal(out[:, heads * depth :], x[:, heads * depth :])


@each_dtype
@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_swiglu(rows, width, dtype):
    """The sigmoid's product is rounded, as transformers rounds it, and then the product with the other half: two. The
    gradient of the gate is rounded once, that of the other half twice, since silu is rounded in it."""
    both, dout = random(rows, 2 * width, dtype=dtype, scale=3), random(rows, width, seed=1, dtype=dtype)
    exact_both = exact(both)
    gate, up = exact_both.chunk(2, dim=-1)
    value = torch.nn.functional.silu(gate) * up
    out = on_threads(lambda: kernels.swiglu(both))
    assert_rounded(out, value.detach(), 2)

    def backward():
        slope, again = both.clone(), dout.clone()
        kernels.swiglu_backward_(slope, again)
        return slope, again

    slope, again = on_threads(backward)
    assert_rounded(again, value.detach(), 2)
    (truth,) = torch.autograd.grad(value, exact_both, dout.double())
    assert_rounded(slope, truth, 2)


@each_dtype
def test_a_gate_far_from_zero(dtype):
    """silu(100) = 100. silu(-100) = -4e-42 comes out as -100 exp(-88) = -6e-37: the exponential ends at 88."""
    both = torch.tensor([[100.0, -100.0, 0.0, -30.0, 2.0, 2.0, 2.0, 2.0]]).to(dtype)
    value = kernels.swiglu(both)[0].double()
    assert value.tolist() == pytest.approx([200, 0, 0, -60 * 9.357622968839299e-14], rel=2.0**-7, abs=1e-35)
    kernels.swiglu_backward_(both, torch.ones(1, 4, dtype=dtype))
    # silu'(-30) = s (1 - 30 (1 - s)) = -29 s with s = 9.4e-14
    gate = [2, 0, 2 / 2, 2 * -29 * 9.357622968839299e-14]
    assert both[0, :4].double().tolist() == pytest.approx(gate, rel=2.0**-7, abs=1e-35)


@each_dtype
@pytest.mark.parametrize(
    ("rows", "first", "heads", "depth", "stride"),
    [(1, 0, 1, 8, 8), (7, 16, 3, 16, 80), (5, 0, 4, 24, 96), (200, 64, 2, 64, 256), (30, 128, 2, 128, 512)],
)
def test_head_norm(rows, first, heads, depth, stride, dtype):
    """Like the norm of rows; columns outside stay. dweight is a sum over rows and heads in float32."""
    x, dout = (random(rows, stride, seed=i, dtype=dtype) for i in range(2))
    weight = random(depth, seed=2, dtype=dtype)
    inside = slice(first, first + heads * depth)

    def forward():
        out = x.clone()
        kernels.head_norm_(out, first, weight, heads, EPS)
        return out

    def backward():
        slope = dout.clone()
        return slope, kernels.head_norm_backward_(slope, x, first, weight, heads, EPS)

    exact_x, exact_weight = exact(x[:, inside].reshape(rows, heads, depth)), exact(weight)
    value = rms_norm(exact_x, exact_weight)
    out = on_threads(forward)
    assert_rounded(out[:, inside].reshape(rows, heads, depth), value.detach(), 2)
    slope, dweight = on_threads(backward)
    dvalue = dout[:, inside].reshape(rows, heads, depth).double()
    truth = torch.autograd.grad(value, (exact_x, exact_weight), dvalue)
    assert_rounded(slope[:, inside].reshape(rows, heads, depth), truth[0], 1)
    assert_rounded(dweight, truth[1], 1)
    for changed, given in ((out, x), (slope, dout)):
        assert torch.equal(changed[:, :first], given[:, :first])
        assert torch.equal(changed[:, inside.stop :], given[:, inside.stop :])


def test_torchs_default_dtype_changes_nothing():
    """Buffers are float32 because the loops write float32."""
    x, weight = random(40, 33), random(33, seed=1)
    before = torch.get_default_dtype()
    found = []
    try:
        for default in (torch.float32, torch.float64, torch.bfloat16):
            torch.set_default_dtype(default)
            rstd = kernels.norm(x, None, weight, EPS, keep=True)[2]
            found.append((rstd, *kernels.norm_backward(x, x, rstd, weight, None)))
            found[-1] += (
                kernels.head_norm_backward_(x.clone(), x, 0, weight, 1, EPS),
                *kernels.logps(x, torch.arange(33).repeat(2)[:40], 1.0),
            )
    finally:
        torch.set_default_dtype(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@each_dtype
def test_no_rows_are_no_error(dtype):
    nothing, weight = torch.empty(0, 16, dtype=dtype), torch.ones(16, dtype=dtype)
    total, out, rstd = kernels.norm(nothing, nothing, weight, EPS, keep=True)
    assert total.shape == out.shape == (0, 16)
    assert not kernels.norm_backward(nothing, nothing, rstd, weight, nothing)[1].any()
    assert kernels.swiglu(nothing).shape == (0, 8)
    kernels.swiglu_backward_(nothing, torch.empty(0, 8, dtype=dtype))
    kernels.rotary_(nothing, torch.empty(0, 4), torch.empty(0, 4), 2)
    kernels.head_norm_(nothing, 0, torch.ones(8, dtype=dtype), 2, EPS)


@each_dtype
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(value, dtype):
    """A run that blew up must be seen to; each kernel makes NaN or infinity of one."""
    x, weight = torch.ones(2, 16, dtype=dtype), torch.ones(16, dtype=dtype)
    x[1, 3] = value
    out = kernels.norm(x, None, weight, EPS)[1]
    assert torch.isfinite(out[0]).all() and not torch.isfinite(out[1]).all()
    assert not torch.isfinite(kernels.swiglu(x)[1]).all()
    rows = x.clone()
    kernels.rotary_(rows, torch.ones(2, 4), torch.ones(2, 4), 2)
    assert not torch.isfinite(rows[1]).all()
    kernels.head_norm_(x, 0, weight[:8], 2, EPS)
    assert not torch.isfinite(x[1, :8]).all() and torch.isfinite(x[1, 8:]).all()


FLOATS, WEIGHT = torch.ones(4, 16), torch.ones(16)
WRONG = {
    "another dtype": lambda: kernels.norm(FLOATS, None, WEIGHT.bfloat16(), EPS),
    "a dtype there is no kernel for": lambda: kernels.norm(FLOATS.double(), None, WEIGHT.double(), EPS),
    "columns of something wider": lambda: kernels.norm(torch.ones(4, 32)[:, :16], None, WEIGHT, EPS),
    "a transposed one": lambda: kernels.swiglu(torch.ones(16, 4).t()),
    "fewer rows to add": lambda: kernels.norm(FLOATS, FLOATS[:3], WEIGHT, EPS),
    "a weight that is too short": lambda: kernels.norm(FLOATS, None, WEIGHT[:8], EPS),
    "a gradient of fewer rows": lambda: kernels.norm_backward(FLOATS[:3], FLOATS, torch.ones(4), WEIGHT, None),
    "too few root mean squares": lambda: kernels.norm_backward(FLOATS, FLOATS, torch.ones(3), WEIGHT, None),
    "too small a residual": lambda: kernels.norm_backward(FLOATS, FLOATS, torch.ones(4), WEIGHT, FLOATS[:3]),
    "angles in float64": lambda: kernels.rotary_(FLOATS, torch.ones(4, 4).double(), torch.ones(4, 4).double(), 2),
    "angles of other rows": lambda: kernels.rotary_(FLOATS, torch.ones(3, 4), torch.ones(3, 4), 2),
    "fewer sines than cosines": lambda: kernels.rotary_(FLOATS, torch.ones(4, 4), torch.ones(4, 3), 2),
    "more heads than there are": lambda: kernels.rotary_(FLOATS, torch.ones(4, 4), torch.ones(4, 4), 3),
    "half a gate": lambda: kernels.swiglu(torch.ones(4, 15)),
    "a gate of another width": lambda: kernels.swiglu_backward_(FLOATS, FLOATS),
    "heads beyond the row": lambda: kernels.head_norm_(FLOATS, 8, torch.ones(8), 2, EPS),
    "heads before the row": lambda: kernels.head_norm_(FLOATS, -8, torch.ones(8), 1, EPS),
    "heads' gradient of fewer rows": lambda: kernels.head_norm_backward_(FLOATS[:3], FLOATS, 0, torch.ones(8), 2, EPS),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_would_write_elsewhere_is_refused(name):
    with pytest.raises((ValueError, KeyError)):
        WRONG[name]()
