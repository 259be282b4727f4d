"""The two values of ``Ops`` beside each other, the plain one in float64 being the truth of both; and that one's own
gradients beside autograd's."""

import pytest
import torch
from all_ops import EPS, HEADS, continued, results
from exact import UNIT, assert_rounded, each_dtype, gap, random
from spans import LAYOUTS, laid_out

from upslope.native import build, kernels, torch_ops
from upslope.native.ops import KINDS, ops_for

each_ops = pytest.mark.parametrize("ops", KINDS, ids=lambda ops: ops.__name__.rpartition(".")[2])


@pytest.mark.parametrize("part", ["norm", "rstd", "swiglu", "rotary", "head_norm", "logp", "entropy"])
@each_ops
@each_dtype
def test_both_are_the_equations_but_for_rounding(ops, dtype, part):
    """The sum of a norm is rounded first, and what is computed of it differs by that: three roundings."""
    got, truth = results(ops, dtype, dtype), results(torch_ops, dtype, torch.float64)
    assert got.keys() == truth.keys()
    for name in (n for n in got if n.startswith(part)):
        value, num = got[name]
        own = num * UNIT[dtype] if value.dtype != dtype or name in ("rstd", "logp", "entropy") else 0
        assert gap(value, truth[name][0]) <= num * UNIT[value.dtype] + own + 3e-6, name


@pytest.mark.parametrize("name", LAYOUTS)
@each_ops
@each_dtype
def test_both_attend_alike(ops, dtype, name):
    spans, _ = laid_out(LAYOUTS[name])
    qkv, dout = (random(spans.num_tokens, n, seed=i, dtype=dtype) for i, n in enumerate((HEADS.columns, 96)))
    heads = (HEADS.num, HEADS.num_keys, HEADS.scale)
    exact, exact_peak = torch_ops.attend(qkv.double(), spans, *heads)
    truth = torch_ops.attend_backward(qkv.double(), exact, dout.double(), exact_peak, spans, *heads)
    out, peak = ops.attend(qkv, spans, *heads)
    assert_rounded(out, exact, 1)
    assert peak.dtype == torch.float32
    torch.testing.assert_close(peak.double(), exact_peak, rtol=1e-5, atol=1e-5)
    assert_rounded(ops.attend_backward(qkv, out, dout, peak, spans, *heads), truth, 2)


@each_ops
@each_dtype
def test_both_tables_continue_alike(ops, dtype):
    for out, truth in continued(ops, dtype, num=70, longest=66, leave=20, begin=30):
        # Rotated keys and queries are rounded before they meet: a score of some units is off by that.
        assert gap(out, truth) <= (1e-5 if dtype == torch.float32 else 6 * UNIT[dtype])


@each_ops
@each_dtype
def test_both_draw_the_same_tokens(ops, dtype):
    logits = random(300, 500, dtype=dtype, scale=2)
    uniform = torch.rand(300, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    uniform[:2] = torch.tensor([0.0, 1 - 2**-53])
    logits[5] = -torch.inf
    logits[6, 3] = torch.nan
    token, logp = ops.draw(logits, uniform, 0.8)
    truth, exact = torch_ops.draw(logits.double(), uniform, 0.8)
    assert (token < 0).nonzero().flatten().tolist() == [5, 6]
    assert (token != truth).sum() <= 1  # where u lies within 1e-7 of a boundary, of which there are 500 in each of 300
    same = (token == truth) & (token >= 0)
    torch.testing.assert_close(logp[same], exact[same], rtol=0, atol=3e-6)


def test_the_plain_gradients_are_autograds():
    """In float64, of the very functions: 1e-12."""

    def check(found, value, inputs, dout):
        for mine, theirs in zip(found, torch.autograd.grad(value, inputs, dout), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)

    x, dout, weight = random(7, 33).double(), random(7, 33, seed=1).double(), random(33, seed=2).double()
    given = [t.clone().requires_grad_() for t in (x, weight)]
    rstd = torch_ops.norm(x, None, weight, EPS, keep=True)[2]
    found = torch_ops.norm_backward(dout, x, rstd, weight, None)
    check(found, torch_ops.norm(given[0], None, given[1], EPS)[1], given, dout)

    both, slope = random(7, 66, seed=3).double(), dout.clone()
    leaf, out = both.clone().requires_grad_(), torch_ops.swiglu(both)
    torch_ops.swiglu_backward_(both, slope)
    check([both], torch_ops.swiglu(leaf), [leaf], dout)
    assert torch.equal(slope, out)

    raw, weight, dout = random(7, HEADS.columns, seed=4).double(), random(16).double(), random(7, 160, seed=5).double()
    given = [t.clone().requires_grad_() for t in (raw, weight)]
    value, slope = given[0].clone(), dout.clone()
    torch_ops.head_norm_(value, 96, given[1], 2, EPS)
    dweight = torch_ops.head_norm_backward_(slope, raw, 96, weight, 2, EPS)
    check([slope, dweight], value, given, dout)

    spans, _ = laid_out(LAYOUTS["both"])
    qkv, dout = (random(spans.num_tokens, n, seed=i).double() for i, n in enumerate((HEADS.columns, 96)))
    leaf, heads = qkv.clone().requires_grad_(), (HEADS.num, HEADS.num_keys, HEADS.scale)
    out, peak = torch_ops.attend(qkv, spans, *heads)
    found = torch_ops.attend_backward(qkv, out, dout, peak, spans, *heads)
    check([found], torch_ops.attend(leaf, spans, *heads)[0], [leaf], dout)

    logits, target, dlogp = random(9, 50).double(), torch.arange(9), random(9, seed=1).double()
    leaf, peak = logits.clone().requires_grad_(), torch_ops.logps(logits, target, 0.7)[2]
    torch_ops.logps_backward_(logits, target, 0.7, peak, dlogp)
    check([logits], torch_ops.logps(leaf, target, 0.7)[0], [leaf], dlogp)


def test_which_are_taken(monkeypatch):
    cpu = torch.device("cpu")
    for dtype, expected in ((torch.float32, kernels), (torch.bfloat16, kernels), (torch.float64, torch_ops)):
        assert ops_for(cpu, dtype) is expected
    assert ops_for(torch.device("meta"), torch.float32) is torch_ops
    monkeypatch.setenv("UPSLOPE_NATIVE", "0")
    assert build.why_not() and ops_for(cpu, torch.float32) is torch_ops


@each_ops
def test_what_does_not_fit_is_refused(ops):
    spans, _ = laid_out([(3, [2, 2])])
    for call in (
        lambda: ops.attend(random(6, 32), spans, 2, 1, 1.0),
        lambda: ops.attend(random(7, 42), spans, 3, 2, 1.0),
        lambda: ops.head_norm_(random(4, 16), 8, random(8), 2, EPS),
        lambda: ops.head_norm_(random(4, 16), -8, random(8), 1, EPS),
    ):
        with pytest.raises((ValueError, KeyError, IndexError)):
            call()
