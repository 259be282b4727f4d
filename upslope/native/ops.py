"""What a fast trunk computes between its matrix products, as one contract: the C kernels keep it (``kernels``), plain
torch does (``torch_ops``), and Triton's do (``triton_ops``), which are imported where they are asked for."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from upslope.native import kernels, torch_ops
from upslope.native.heads import Heads
from upslope.native.spans import Spans


class KeyValueTable(Protocol):
    """What the rows of a decoder have seen, in every layer: keys and values of prompts, which rows share, and of what
    each row wrote itself. How they lie in memory is the table's own affair."""

    room: int
    """Tokens that a row may write."""
    written_N: Tensor
    """Tokens that each row has written; the decoder counts them, after the last layer."""

    def prompt(self, length: int) -> Any:
        """Memory for a prompt's keys and values, still empty: ``store`` fills it, ``assign`` gives it to rows."""
        ...

    def store(self, prompt: Any, layer: int, key_MJD: Tensor, value_MJD: Tensor) -> None:
        """A layer's rotated keys, and values, of all M tokens of a prompt; M may be 0."""
        ...

    def assign(self, prompts: Sequence[Any]) -> None:
        """Row n continues ``prompts[n]``; to be called whenever rows or their prompts have changed."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Only these rows remain, numbered anew in this order."""
        ...

    def widen(self, num: int) -> None:
        """So many rows more, behind the others, that have written nothing. Raises RuntimeError if there would be more
        than it was made for."""
        ...

    def attend(self, layer: int, qkv_NX: Tensor, cosine_NF: Tensor, sine_NF: Tensor) -> Tensor:
        """Attention of one new token a row, [N, H D]: rotates its query and key (``qkv`` may be changed), writes
        key and value as the row's next, and mixes the values of its prompt and of its own tokens, this one included:

            out = softmax(scale q . [prompt's k; own k]) [prompt's v; own v]
        """
        ...


class Ops(Protocol):
    """The functions between a trunk's matrix products; a module may be one.

    T is the dtype of activations and weights, the same for all of a call's tensors; W is what sums are made in: float64
    for float64, else float32. ``qkv`` [K, (H + 2J) D] holds of every token H query heads, J key heads, J value heads of
    depth D; query head h reads key head h // (H / J). A name that ends in ``_`` changes what it is given. There may
    be no rows. A wrong shape, dtype or memory order raises ValueError, KeyError or IndexError.
    """

    fast: bool
    """Whether a trunk on these outruns transformers' layers; only then is one taken unasked."""

    def available(self, dtype: torch.dtype, device: torch.device) -> bool:
        """Whether these can compute in this precision, on this device, on this machine."""
        ...

    def norm(
        self, x_KC: Tensor, add_KC: Tensor | None, weight_C: Tensor, eps: float, *, keep: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(s, out, rstd_K in W if ``keep``) of the root-mean-square norm of a sum (Zhang and Sennrich 2019):

            s = x + add;   rstd = 1 / sqrt(mean_c(s^2) + eps);   out = weight * round(s rstd)

        Without ``add``, s is x itself.
        """
        ...

    def norm_backward(
        self, dout_KC: Tensor, x_KC: Tensor, rstd_K: Tensor, weight_C: Tensor, residual_KC: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(dx + residual, dweight in W). With g = dout * weight:

        dx = rstd (g - x rstd^2 mean_c(g x));   dweight = sum_k dout x rstd
        """
        ...

    def rotary_(
        self, rows_KX: Tensor, cosine_KF: Tensor, sine_KF: Tensor, num_heads: int, *, back: bool = False
    ) -> None:
        """Rotates the first heads of every row by the angles of its position (Su et al. 2021); F = D / 2, angles are
        float32, ``back`` turns the other way, which is the gradient:

            (a, b) -> (a cos - b sin, b cos + a sin)   of the pairs (i, i + F) of a head
        """
        ...

    def head_norm_(self, rows_KX: Tensor, first: int, weight_D: Tensor, num_heads: int, eps: float) -> None:
        """``norm`` of every head by itself, for ``num_heads`` heads from column ``first`` on."""
        ...

    def head_norm_backward_(
        self, dout_KX: Tensor, raw_KX: Tensor, first: int, weight_D: Tensor, num_heads: int, eps: float
    ) -> Tensor:
        """``dout`` becomes the gradient of ``raw`` in these columns; returns dweight in W."""
        ...

    def swiglu(self, both_KX: Tensor) -> Tensor:
        """round(silu(gate)) * up, [K, I], of rows [gate, up], [K, 2I]; silu(g) = g / (1 + exp(-g)) (Shazeer 2020)."""
        ...

    def swiglu_backward_(self, both_KX: Tensor, dout_KI: Tensor) -> None:
        """``both`` becomes its gradient, ``dout`` the forward's output. With s = 1 / (1 + exp(-gate)):

        dgate = dout up s (1 + gate (1 - s));   dup = dout silu(gate)
        """
        ...

    def attend(
        self, qkv_KX: Tensor, spans: Spans, num_heads: int, num_key_heads: int, scale: float
    ) -> tuple[Tensor, Tensor]:
        """(out [K, H D], peak [K, H, 2] in W) of rotated queries, keys and values; who sees whom is ``spans``':

        z = scale q . k;   peak = (max z, 1 / sum exp(z - max z));   out = sum exp(z - peak_0) peak_1 v
        """
        ...

    def attend_backward(
        self,
        qkv_KX: Tensor,
        out_KX: Tensor,
        dout_KX: Tensor,
        peak_KH2: Tensor,
        spans: Spans,
        num_heads: int,
        num_key_heads: int,
        scale: float,
    ) -> Tensor:
        """The gradient of ``qkv``. With P = exp(scale q . k - peak_0) peak_1 and dS = P (dout . v - dout . out):

        dq = scale dS k;   dk = scale dS^T q;   dv = P^T dout
        """
        ...

    def table(self, heads: Heads, num_layers: int, num_rows: int, room: int, like: Tensor) -> KeyValueTable:
        """An empty table for ``num_rows`` rows that may write ``room`` tokens each, in ``like``'s dtype and place."""
        ...

    def draw(self, logits_NV: Tensor, uniform_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """(token_N, logp_N in float64): the least token whose cumulative probability in softmax(logits / temperature)
        exceeds u, the uniform number (float64, in [0, 1)). Token -1 where no logit is finite, or one is NaN or inf.
        """
        ...

    def logps(self, logits_CV: Tensor, target_C: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """(logp_C of the targets, entropy_C in nats, peak [C, 2]), all in W, of p = softmax(logits / temperature):

        peak = (max logit, 1 / sum exp((logit - max) / temperature));   entropy = -sum p log p
        """
        ...

    def logps_backward_(
        self, logits_CV: Tensor, target_C: Tensor, temperature: float, peak_C2: Tensor, dlogp_C: Tensor
    ) -> None:
        """The logits become their gradient, dlogp (onehot - p) / temperature."""
        ...


KINDS: tuple[Ops, ...] = (kernels, torch_ops)
"""The fastest first; the last computes anywhere."""


def ops_for(device: torch.device, dtype: torch.dtype) -> Ops:
    """The fastest there are for this device and dtype, on this machine; Triton's on a GPU, where UPSLOPE_TRITON=1."""
    if device.type == "cuda" and os.environ.get("UPSLOPE_TRITON") == "1" and importlib.util.find_spec("triton"):
        from upslope.native import triton_ops

        if triton_ops.available(dtype, device):
            return triton_ops
    return next(ops for ops in KINDS if ops.available(dtype, device))
