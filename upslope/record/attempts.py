"""Rollout files: every attempt of a step with its text, tokens, reward, and what the update did to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from upslope.algo.outcome import Outcome
from upslope.files import write_whole
from upslope.types import Batch, Group, Problem

TOKENS = pa.list_(pa.int32())
FLOATS = pa.list_(pa.float32())
FLAGS = pa.list_(pa.bool_())

STEP_SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("sample", pa.int32()),
        ("prompt_text", pa.string()),
        ("response_text", pa.string()),
        ("prompt", TOKENS),
        ("response", TOKENS),
        ("mask", FLAGS),
        ("version", pa.int32()),
        ("ended", pa.string()),
        ("reward", pa.float64()),
        ("extracted", pa.string()),
        ("kept", pa.bool_()),
        ("advantage", FLOATS),
        ("sampler_logp", FLOATS),
        ("learner_logp", FLOATS),
        ("entropy", FLOATS),
        ("ratio", FLOATS),
        ("clipped", FLAGS),
        ("versions", TOKENS),
    ]
)
"""One row an attempt. ``version`` is of the weights that wrote it; where new weights reached it in the middle, the
newest, and ``versions`` has that of every token (else null). ``learner_logp`` is from before the step's first update,
``entropy`` from the first pass over the attempt, ``ratio`` and ``clipped`` from the last. They are null for attempts
that were not scored."""

EVAL_SCHEMA = (
    pa.schema([STEP_SCHEMA.field(n) for n in ("problem", "prompt_text", "response_text", "ended")])
    .append(STEP_SCHEMA.field("reward"))
    .append(STEP_SCHEMA.field("extracted"))
)


def prompt_text(problem: Problem) -> str:
    """What the policy was asked, for people to read: the contents of the chat so far."""
    return "\n\n".join(m["content"] for m in problem.messages)


def of_step(attempted: Sequence[Group], batch: Batch, outcomes: Sequence[Outcome]) -> pa.Table:
    """A step's attempts, those the recipe dropped too."""
    rows = {(r.problem_id, r.sample): _attempt(g.problem, r) for g in attempted for r in g.rollouts}
    if batch.advantage_NT is not None:
        for rollout, advantage in zip(batch.rollouts, batch.advantage_NT.tolist(), strict=True):
            row = rows[rollout.problem_id, rollout.sample]
            row |= {"kept": True, "advantage": advantage[: len(rollout.response)]}
    if batch.old_logp_NT is not None:
        for rollout, logp in zip(batch.rollouts, batch.old_logp_NT.tolist(), strict=True):
            rows[rollout.problem_id, rollout.sample]["learner_logp"] = logp[: len(rollout.response)]
    for outcome in outcomes:
        _add_outcome(rows, outcome)
    return _table(list(rows.values()), STEP_SCHEMA)


def of_evaluation(groups: Sequence[Group]) -> pa.Table:
    """The greedy attempts of an evaluation."""
    return _table([_attempt(g.problem, r) for g in groups for r in g.rollouts], EVAL_SCHEMA)


def _attempt(problem: Problem, rollout: Any) -> dict[str, Any]:
    return {
        "problem": rollout.problem_id,
        "sample": rollout.sample,
        "prompt_text": prompt_text(problem),
        "response_text": rollout.text,
        "prompt": rollout.prompt,
        "response": rollout.response,
        "mask": rollout.mask,
        "version": rollout.version,
        "versions": rollout.versions,
        "ended": rollout.ended,
        "reward": rollout.reward,
        "extracted": rollout.score.extracted,
        "kept": False,
        "sampler_logp": rollout.logp,
    }


def _add_outcome(rows: dict[tuple[str, int], dict[str, Any]], outcome: Outcome) -> None:
    trace, batch = outcome.trace, outcome.minibatch
    if trace is None:
        return
    columns = (trace.logp_NT, trace.entropy_NT, trace.ratio_NT, trace.clipped_low_NT | trace.clipped_high_NT)
    for rollout, logp, entropy, ratio, clipped in zip(batch.rollouts, *(c.tolist() for c in columns), strict=True):
        row, num = rows[rollout.problem_id, rollout.sample], len(rollout.response)
        row.setdefault("learner_logp", logp[:num])
        row.setdefault("entropy", entropy[:num])
        row |= {"ratio": ratio[:num], "clipped": clipped[:num]}


def _table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = [pa.array([row.get(f.name) for row in rows], type=f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def write(path: Path, table: pa.Table) -> None:
    """Write a table of attempts, whole or not at all."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    write_whole(path, buffer.getvalue())
