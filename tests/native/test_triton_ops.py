"""The kernels in Triton, run by its interpreter on the CPU, beside the plain ones in float64 and the C ones.

PYTHONPATH=WHERE_TRITON_IS python -m pytest tests/native/test_triton_ops.py
"""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch
from all_ops import EPS, HEADS, continued, results
from exact import DTYPES, UNIT, each_dtype, gap, random
from spans import laid_out
from tiny import model, random_groups

from upslope.model.layout import lay_out
from upslope.model.llama.trunk import Trunk
from upslope.native import kernels, torch_ops
from upslope.native.ops import ops_for


@pytest.fixture(scope="module")
def ops() -> ModuleType:
    """The twins; tests/conftest.py lets Triton interpret."""
    pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
    return importlib.import_module("upslope.native.triton_ops")


LAYOUT = [(5, [1, 18]), (1, [2]), (34, [3]), (2, [])]
NAMES = sorted(results(torch_ops, torch.float32, torch.float32))
FOUND: dict[torch.dtype, dict[str, object]] = {}


ROUND = {torch.float32: UNIT[torch.float32], torch.bfloat16: 2 * UNIT[torch.bfloat16]}
"""What a rounding may change: to bfloat16 the interpreter cuts off, where a GPU takes the nearest."""


@pytest.mark.parametrize("name", NAMES)
@each_dtype
def test_every_function_is_the_equation_but_for_rounding(ops, dtype, name):
    if dtype not in FOUND:
        FOUND[dtype] = {
            "ours": results(ops, dtype, dtype),
            "truth": results(torch_ops, dtype, torch.float64),
            "C": results(kernels, dtype, dtype) if kernels.available(dtype, torch.device("cpu")) else {},
        }
    (value, num), truth = FOUND[dtype]["ours"][name], FOUND[dtype]["truth"][name][0]
    own = num * ROUND[dtype] if value.dtype != dtype or name in ("rstd", "logp", "entropy") else 0
    assert gap(value, truth) <= num * ROUND[value.dtype] + own + 3e-6
    if name in FOUND[dtype]["C"]:
        beside, _ = FOUND[dtype]["C"][name]
        assert value.dtype == beside.dtype
        assert gap(value, beside.double()) <= 2 * num * ROUND[value.dtype] + own + 3e-6


@each_dtype
def test_attention_sees_what_the_spans_say(ops, dtype):
    """Weights are rounded to the dtype before they meet values, as flash attention does: one rounding more."""
    spans, _ = laid_out(LAYOUT)
    qkv, dout = (random(spans.num_tokens, n, seed=i, dtype=dtype) for i, n in enumerate((HEADS.columns, 96)))
    heads = (HEADS.num, HEADS.num_keys, HEADS.scale)
    exact, exact_peak = torch_ops.attend(qkv.double(), spans, *heads)
    truth = torch_ops.attend_backward(qkv.double(), exact, dout.double(), exact_peak, spans, *heads)
    out, peak = ops.attend(qkv, spans, *heads)
    assert gap(out, exact) <= 2 * ROUND[dtype] + 3e-6
    torch.testing.assert_close(peak.double(), exact_peak, rtol=1e-5, atol=1e-5)
    assert gap(ops.attend_backward(qkv, out, dout, peak, spans, *heads), truth) <= 4 * ROUND[dtype] + 3e-6


@each_dtype
def test_a_table_continues_as_the_plain_one_does(ops, dtype):
    """Over 32 keys."""
    for out, truth in continued(ops, dtype, num=12, longest=30, leave=5, begin=8):
        assert gap(out, truth) <= (1e-5 if dtype == torch.float32 else 7 * ROUND[dtype])


@each_dtype
def test_draws_are_the_plain_ones(ops, dtype):
    """Over two stripes of the vocabulary."""
    logits = random(40, 1500, dtype=dtype, scale=2)
    uniform = torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    uniform[:2] = torch.tensor([0.0, 1 - 2**-53])
    logits[5], logits[6, 3] = -torch.inf, torch.nan
    logits[7, :1400] = -torch.inf
    token, logp = ops.draw(logits, uniform, 0.8)
    truth, exact = torch_ops.draw(logits.double(), uniform, 0.8)
    assert (token < 0).nonzero().flatten().tolist() == [5, 6]
    assert (token != truth).sum() <= 1
    same = (token == truth) & (token >= 0)
    torch.testing.assert_close(logp[same], exact[same], rtol=0, atol=3e-6)


def test_no_rows_are_no_work(ops):
    heads = (HEADS.num, HEADS.num_keys, HEADS.scale)
    spans, _ = laid_out([])
    out, peak = ops.attend(random(0, HEADS.columns), spans, *heads)
    assert ops.attend_backward(random(0, HEADS.columns), out, out, peak, spans, *heads).shape == (0, HEADS.columns)
    assert ops.norm(random(0, 8), None, random(8), EPS)[1].shape == (0, 8)
    assert ops.norm_backward(random(0, 8), random(0, 8), random(0), random(8), None)[1].tolist() == [0.0] * 8
    assert ops.swiglu(random(0, 8)).shape == (0, 4)
    assert ops.draw(random(0, 8), random(0).double(), 1.0)[0].shape == (0,)
    assert ops.logps(random(0, 8), torch.zeros(0, dtype=torch.long), 1.0)[2].shape == (0, 2)


def test_what_does_not_fit_is_refused(ops):
    spans, _ = laid_out([(3, [2, 2])])
    for call in (
        lambda: ops.attend(random(6, 32), spans, 2, 1, 1.0),
        lambda: ops.attend(random(7, 42), spans, 3, 2, 1.0),
        lambda: ops.head_norm_(random(4, 16), 8, random(8), 2, EPS),
        lambda: ops.norm(random(4, 16), random(4, 8), random(16), EPS),
        lambda: ops.norm(random(16, 4).T, None, random(16), EPS),
        lambda: ops.swiglu(random(4, 6).half()),
    ):
        with pytest.raises((ValueError, KeyError, IndexError)):
            call()


def test_a_trunk_on_them_has_the_models_states_and_gradients(ops):
    """The seam as a whole: layers, packed prompts, the backward pass by hand."""
    made = model(dtype=torch.float32)
    rollouts = [r for group in random_groups(2, 3, longest=5) for r in group.rollouts]
    layout = lay_out(rollouts, torch.device("cpu"))
    found = {}
    for name, value in (("triton", ops), ("torch", torch_ops)):
        made.zero_grad()
        states = Trunk(made.model, value).states(layout)
        (states * random(*states.shape, seed=3)).sum().backward()
        found[name] = states.detach(), {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}
    assert gap(found["triton"][0], found["torch"][0].double()) < 1e-5
    assert found["torch"][1].keys() == found["triton"][1].keys()
    for name, slope in found["torch"][1].items():
        assert gap(found["triton"][1][name], slope.double()) < 1e-4, name


def test_they_are_taken_on_a_gpu_where_they_are_asked_for(ops, monkeypatch):
    gpu = torch.device("cuda")
    for dtype in DTYPES:
        monkeypatch.delenv("UPSLOPE_TRITON", raising=False)
        assert ops_for(gpu, dtype) is torch_ops
        monkeypatch.setenv("UPSLOPE_TRITON", "1")
        assert ops_for(gpu, dtype) is ops
    assert ops_for(gpu, torch.float64) is torch_ops
    assert ops_for(torch.device("cpu"), torch.float32) is not ops
