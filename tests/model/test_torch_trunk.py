"""The Llama family's trunk on torch's ops, beside transformers and beside itself on the kernels."""

import pytest
import torch
from family import FAMILY, made, rollouts, slopes
from naive import ENDS, HERE, flat
from tiny import TOKENIZER, drawn, problems

from upslope.model.llama.trunk import Trunk
from upslope.model.policy import Policy
from upslope.model.precision import cast_weights
from upslope.native import build, kernels, torch_ops
from upslope.types import Sampling

needs_kernels = pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())
SAMPLING = Sampling(max_tokens=70)


def on(ops, name, dtype, checkpointing=False, **changes):
    """A policy whose trunk computes with these ops; None: with transformers."""
    model = made(name, **changes)
    cast_weights(model, dtype)
    subject = Policy(model, TOKENIZER)
    subject.end_ids, subject.native, subject.checkpointing = ENDS, ops is not None, checkpointing
    subject._admit = lambda body: Trunk(body, ops)
    return subject


def computed(ops, name, dtype, **settings):
    subject = on(ops, name, dtype, **settings)
    return slopes(subject.model.model, subject.states(rollouts()).hidden_RD)


def error(got, exact):
    return float((got - exact).norm() / exact.norm())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", FAMILY)
def test_in_float64_it_is_transformers(name, checkpointing):
    """Gaps are 4e-15 at most."""
    found = computed(torch_ops, name, torch.float64, checkpointing=checkpointing)
    expected = computed(None, name, torch.float64)
    for mine, theirs in zip(found, expected, strict=True):
        assert error(mine, theirs) <= 1e-13


@needs_kernels
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_and_torch_compute_the_same(name, dtype):
    for mine, theirs in zip(computed(kernels, name, dtype), computed(torch_ops, name, dtype), strict=True):
        assert error(mine, theirs) <= (5e-6 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("max_rows", [3, 0])
def test_its_decoder_writes_what_transformers_writes(name, max_rows):
    """In float64, where nothing but a defect could part them."""
    subjects = (on(ops, name, torch.float64, initializer_range=0.1) for ops in (torch_ops, None))
    found, expected = (flat(drawn(subject, problems(6), 3, SAMPLING, HERE, max_rows=max_rows)) for subject in subjects)
    assert [(r.response, r.ended) for r in found] == [(r.response, r.ended) for r in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.logp == pytest.approx(theirs.logp, abs=1e-9)
