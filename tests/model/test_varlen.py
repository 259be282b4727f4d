"""Torch's flash kernels for unequal lengths: what is relied on, tried on the CPU with a plain kernel in their place."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from reference_calls import ReferenceCalls
from tiny import policy

from upslope.model import attention, varlen
from upslope.model.attention import packed
from upslope.model.cuts import Cuts
from upslope.model.varlen import FlashCalls, calls_for, refusal

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)
HALF = torch.bfloat16


class Kernel:
    """Stands where torch has its kernels for a GPU: it is given what those are given, and computes plainly. ``bend``
    changes what it returns."""

    def __init__(self):
        self.bend = {}
        self.calls = ReferenceCalls()

    def forward(self, query, key, value, ask, read, longest, furthest, dropout, causal, debug, **more):
        assert (dropout, debug, more["window_size_right"]) == (0.0, False, 0 if causal else -1)
        assert all(more.get(name) is None for name in ("seqused_k", "alibi_slopes", "block_table", "num_splits"))
        cuts = Cuts(ask, longest), Cuts(read, furthest)
        out, lse = self.calls.forward(query, key, value, *cuts, causal, more["scale"])
        none = torch.empty(0)
        return out, self.bend.get("lse", lambda x: x)(lse), none, none, none

    def backward(self, dout, q, k, v, out, lse, ask, read, longest, furthest, dropout, causal, rng, _, **more):
        assert dropout == 0.0 and rng.dtype == torch.uint64 and all(x.is_contiguous() for x in (dout, out, lse))
        cuts = Cuts(ask, longest), Cuts(read, furthest)
        found = self.calls.backward(dout, q, k, v, out, lse, *cuts, causal, more["scale"])
        return self.bend.get("backward", lambda x: x)(found)


@pytest.fixture
def kernel():
    made, library = Kernel(), torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", made.forward, "CPU")
    library.impl("_flash_attention_backward", made.backward, "CPU")
    yield made
    library._destroy()


def test_the_private_call_has_the_arguments_that_it_is_given():
    schema = torch.ops.aten._flash_attention_backward.default._schema
    given = ["grad_out", "query", "key", "value", "out", "logsumexp", "cum_seq_q", "cum_seq_k", "max_q", "max_k"]
    given += ["dropout_p", "is_causal", "rng_state", "unused"]
    assert [a.name for a in schema.arguments if not a.kwarg_only] == given
    assert "scale" in [a.name for a in schema.arguments if a.kwarg_only]
    assert len(schema.returns) == 3


def test_both_calls_have_the_shapes_that_are_relied_on():
    """The log-sum-exp is [heads, tokens] in float32, as the backward call wants it."""
    query = torch.empty(10, 4, 16, dtype=HALF, device="meta")
    key = torch.empty(7, 2, 16, dtype=HALF, device="meta")
    asked, read = (Cuts(torch.empty(3, dtype=torch.int32, device="meta"), n) for n in (6, 4))
    out, lse = FlashCalls().forward(query, key, key, asked, read, False, 0.25)
    assert (out.shape, out.dtype, lse.shape, lse.dtype) == (query.shape, HALF, (4, 10), torch.float32)
    found = FlashCalls().backward(out, query, key, key, out, lse, asked, read, False, 0.25)
    assert [x.shape for x in found] == [query.shape, key.shape, key.shape]


def test_they_are_given_what_they_need_to_be_the_present_attention(kernel):
    """Float32 and float64 too: the kernels themselves take neither."""
    for dtype in (torch.float64, torch.float32, HALF, torch.float16):
        assert varlen._tried(FlashCalls(), CPU, dtype, 16, packed) == ""
    assert kernel.calls.causal == [True, False] * 4


@pytest.mark.parametrize(
    ("bend", "what"),
    [
        ({"lse": lambda lse: lse + torch.arange(lse.shape[1])}, "compute something else here"),
        ({"backward": lambda found: (found[0], 2 * found[1], found[2])}, "compute something else here"),
        ({"backward": lambda found: found[7]}, "do not run here (IndexError: tuple index out of range)"),
    ],
    ids=["log-sum-exp", "gradient", "raises"],
)
def test_kernels_that_do_not_hold_are_not_used_and_it_is_said(kernel, bend, what, monkeypatch):
    kernel.bend = bend
    monkeypatch.setattr(varlen, "_REFUSED", {})
    tried = varlen._tried
    monkeypatch.setattr(varlen, "_tried", lambda calls, device, *how: tried(calls, CPU, *how))
    told = f"attention in learning pads its rows, since torch's flash kernels {what}"
    assert refusal(CUDA, HALF, 16, packed) == told
    assert calls_for(*seen(), {}, packed) is None


def test_a_torch_without_them_is_told(monkeypatch):
    monkeypatch.setattr(varlen, "_offered", lambda: False)
    assert varlen._tried(FlashCalls(), CPU, HALF, 16, packed) == f"are not in torch {torch.__version__}"


def seen(dtype=HALF, depth=64, device=CUDA, **other):
    """Queries, keys and values, as far as anybody looks at them."""
    one = SimpleNamespace(device=device, dtype=dtype, shape=(4, 9, depth))
    return one, one, SimpleNamespace(**vars(one) | other)


def test_they_are_chosen_for_plain_scores_in_half_precision_on_a_gpu(monkeypatch):
    monkeypatch.setattr(varlen, "_tried", lambda *_: "")
    monkeypatch.setattr(varlen, "_REFUSED", {})
    usual = {"dropout": 0.0, "sliding_window": None, "softcap": None}
    assert isinstance(calls_for(*seen(), usual, packed), FlashCalls)
    assert isinstance(calls_for(*seen(torch.float16, 256), {}, packed), FlashCalls)
    for other in ({"sliding_window": 4096}, {"softcap": 30.0}, {"s_aux": object()}, {"dropout": 0.1}):
        assert calls_for(*seen(), usual | other, packed) is None
    for odd in (
        seen(torch.float32),
        seen(torch.float64),
        seen(depth=20),
        seen(depth=264),
        seen(device=CPU),
        seen(device=torch.device("mps")),
        seen(shape=(4, 9, 32)),
        (*seen()[:2], SimpleNamespace(device=CUDA, dtype=torch.float32, shape=(4, 9, 64))),
    ):
        assert calls_for(*odd, usual, packed) is None
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # as where a second derivative is wanted
        assert calls_for(*seen(), usual, packed) is None


def test_a_policy_says_once_that_it_learns_without_them(monkeypatch):
    subject, asked = policy(dtype=torch.float32), []
    subject.native = False
    assert subject.notes == ()

    def told(device, dtype, depth, plain):
        asked.append((device, dtype, depth, plain))
        return "slower"

    monkeypatch.setattr(attention, "refusal", told)
    assert subject.notes == ("slower",)
    subject.computes_in = HALF
    assert subject.notes == ("slower",)
    assert asked == [(CPU, torch.float32, 8, packed), (CPU, HALF, 8, packed)]
    subject.native = True
    assert subject.notes == ()
