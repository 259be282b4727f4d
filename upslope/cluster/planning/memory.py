"""Bytes that a learner and a sampler hold, part by part.

N weights, c bytes of a number that computes (2 in bfloat16, 4 in float32), R ranks. Masters, gradients and moments are
float32. Parts are upslope's own; what a library takes for itself (a CUDA context, a caching allocator's gaps) is in
``RESERVED``, a share that is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from upslope.cluster.planning.sizes import ModelSizes
from upslope.learn.settings import ACTIVATION_BUDGET, ACTIVATIONS, TOKEN_BUDGET
from upslope.model.scores import most_tokens

FLOAT = 4
MOMENTS = 2
"""Of AdamW: a mean gradient and a mean squared one."""
HEAD_COPIES = 2
"""The logits that are held, and their gradient."""
RESERVED = 0.08
"""Share of a card that is not ours to plan with; assumed."""


@dataclass(frozen=True)
class RowSizes:
    """What an attempt is made of, in tokens."""

    prompt: int
    most: int
    """The longest response."""
    group: int
    """Attempts that share a prompt."""


def learner_parts(sizes: ModelSizes, element: int, rows: RowSizes, ranks: int = 1, *, shard: bool) -> dict[str, int]:
    """Bytes by part of one learner.

    ::

        masters 4 N    gradients 4 N    moments 8 N    (each / R where sharded, rounded up)
        weights c N, where c < 4; sharded: c (N_outside + 2 N_layer), gathered for the layer at work and the next one
        passing c N_largest: the one gradient that is on its way into its master's, where c < 4
        whole policy c N: where sharded, the first learner's, which saves it and hands it to the samplers
        activations 10 c layers hidden x tokens, tokens = max(micro-batch, one whole attempt)
        logits 2 x 4 x those held at once

    In float32 the masters are the weights that compute, so there is no second copy (unless they are gathered).
    """
    num, low = sizes.weights, element < FLOAT
    share = -(-num // ranks) if shard else num
    gathered = element * (sizes.outside + 2 * sizes.layer)
    return {
        "masters": FLOAT * share,
        "gradients": FLOAT * share,
        "moments": MOMENTS * FLOAT * share,
        "weights": gathered if shard else element * num * low,
        "whole policy": element * num if shard else 0,
        "passing": element * (sizes.layer if shard else sizes.largest * low),
        "activations": _activation_bytes(sizes, element) * max(micro_tokens(sizes, element), rows.prompt + rows.most),
        "logits": HEAD_COPIES * FLOAT * sizes.vocabulary * most_tokens(sizes.vocabulary),
    }


def sampler_parts(sizes: ModelSizes, element: int, rows: RowSizes, num_rows: int) -> dict[str, int]:
    """Bytes by part of a sampler with so many attempts at once: weights c N; keys and values c x 2 layers kv_heads
    width of every token, a prompt's once a group; float32 logits of a position."""
    prompts = -(-num_rows // rows.group) * rows.prompt
    return {
        "weights": element * sizes.weights,
        "keys and values": element * sizes.cached * (num_rows * rows.most + prompts),
        "logits": HEAD_COPIES * FLOAT * sizes.vocabulary * num_rows,
    }


def affordable_rows(sizes: ModelSizes, element: int, rows: RowSizes, room: float, most: int) -> int:
    """How many attempts a sampler can hold in ``room`` bytes, ``most`` at most; 0: not one."""
    left = room - element * sizes.weights
    each = element * sizes.cached * (rows.most + rows.prompt / rows.group) + HEAD_COPIES * FLOAT * sizes.vocabulary
    return max(0, min(most, int(left / each)))


def micro_tokens(sizes: ModelSizes, element: int) -> int:
    """Tokens whose activations the learner holds at once where attempts are short: what ``learn.chunks`` allows."""
    return max(1, min(TOKEN_BUDGET, ACTIVATION_BUDGET // _activation_bytes(sizes, element)))


def _activation_bytes(sizes: ModelSizes, element: int) -> int:
    return ACTIVATIONS * element * sizes.width


def in_all(parts: Mapping[str, int]) -> int:
    """The sum of the parts."""
    return sum(parts.values())
