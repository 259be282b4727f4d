"""How rows are split: a step into micro-batches, each one pass of the trunk, and a micro-batch into chunks, each one
pass of the head. All denominators are fixed before, so neither split changes a gradient."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from upslope.learn.settings import ACTIVATION_BUDGET, ACTIVATIONS, ACTIVATIONS_OF_LAYERS, TOKEN_BUDGET
from upslope.model.layout import num_read
from upslope.model.policy import Policy
from upslope.types import Batch


def most_trunk_tokens(policy: Policy) -> int:
    """Tokens whose activations may be held at once: half as many in float32 as in bfloat16. On a device that says how
    much it has, as many as fit a share of that, by what its layers keep."""
    size, budgets = (policy.computes_in or next(policy.model.parameters()).dtype).itemsize, policy.budgets
    most, numbers = TOKEN_BUDGET, float(ACTIVATIONS)
    if budgets.measured(budgets.shares.activations):
        most, numbers = sys.maxsize, _kept_numbers(policy)
    found = min(most, int(budgets.activation_bytes(ACTIVATION_BUDGET) / (numbers * size * policy.width)))
    return budgets.bounded("micro_tokens", max(1, found))


def _kept_numbers(policy: Policy) -> float:
    """Of a token for each of layers x hidden size, until its backward pass: where layers are recomputed, what each was
    given, and all of one layer."""
    numbers = ACTIVATIONS_OF_LAYERS["ours" if policy.native else "transformers"]
    return 2 + numbers / policy.num_layers if policy.checkpointing else float(numbers)


def micro_batches(
    batch: Batch, policy: Policy, *, most_rows: int = 0, most_tokens: int, most_logits: int | None = None
) -> Iterator[Batch]:
    """Consecutive rows, ``most_rows`` at a time, or (0) as many as the bounds allow; never fewer than one.

    ``most_logits`` bounds the logits of all scored tokens together, for whoever holds them at once. The policy's
    budgets are told of each before it is worked on.
    """
    begin = policy.budgets.begin
    rows: list[int] = []
    logits = tokens = 0
    for row, rollout in enumerate(batch.rollouts):
        prompt, response = num_read(rollout) - len(rollout.response), len(rollout.response)
        shared = bool(rows) and policy.packs and batch.rollouts[rows[-1]].prompt == rollout.prompt
        with_logits = (response if policy.packs else prompt + response) * policy.vocabulary
        if most_rows:
            full = len(rows) == most_rows
        else:
            many_logits = most_logits is not None and logits + with_logits > most_logits
            full = many_logits or tokens + response + (0 if shared else prompt) > most_tokens
        if rows and full:
            begin(len(rows), tokens, logits)
            yield batch.take(rows)
            rows, logits, tokens, shared = [], 0, 0, False
        rows.append(row)
        logits += with_logits
        tokens += response + (0 if shared else prompt)
    if rows:
        begin(len(rows), tokens, logits)
        yield batch.take(rows)


def chunks(num_scored: Sequence[int], most: int) -> Iterator[tuple[range, slice]]:
    """(rows, tokens) of consecutive rows with ``num_scored`` tokens each: as many as have ``most`` together, never
    fewer than one; ``tokens`` is where theirs stand when all rows' tokens lie end to end.

    >>> list(chunks([2, 1, 5, 1], 3))
    [(range(0, 2), slice(0, 3, None)), (range(2, 3), slice(3, 8, None)), (range(3, 4), slice(8, 9, None))]
    """
    first = start = end = 0
    for row, num in enumerate(num_scored):
        if row > first and end + num - start > most:
            yield range(first, row), slice(start, end)
            first, start = row, end
        end += num
    if num_scored:
        yield range(first, len(num_scored)), slice(start, end)
