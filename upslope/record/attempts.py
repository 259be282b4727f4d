"""Rollout files: every attempt of a step with its text, tokens, reward, and what the update did to it. Every column is
described in docs/run-folder.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from upslope.algo.outcome import Outcome, Rescored
from upslope.files import write_whole
from upslope.types import Batch, Group, Problem, Rollout

TOKENS = pa.list_(pa.int32())
FLOATS = pa.list_(pa.float32())
FLAGS = pa.list_(pa.bool_())
WORDS = pa.list_(pa.string())

SCHEMA_VERSION = 3
"""Stands in the metadata of every file, as ``upslope.attempts``. 1, which no file says, had neither the texts of single
tokens nor ``reference_logp``, ``push``, ``top_*`` and ``versions``; 2 had none of ``right``, ``parts``, ``weight``,
``after_logp`` and ``extra``, and no conversations: ``turns``, ``forks``, ``calls`` and ``wrong_calls``."""
GROUP_ROWS = 64
"""Attempts in one row group: whoever looks at one attempt reads no more than so many."""
Spell = Callable[[Sequence[int]], Sequence[str]]
"""Token ids to the text of each of them (``upslope.model.pieces.TokenTexts``)."""

STEP_SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("sample", pa.int32()),
        ("prompt_text", pa.string()),
        ("response_text", pa.string()),
        ("prompt", TOKENS),
        ("response", TOKENS),
        ("prompt_pieces", WORDS),
        ("response_pieces", WORDS),
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
        ("reference_logp", FLOATS),
        ("push", FLOATS),
        ("weight", FLOATS),
        ("after_logp", FLOATS),
        ("top_tokens", pa.list_(TOKENS)),
        ("top_pieces", pa.list_(WORDS)),
        ("top_logp", pa.list_(FLOATS)),
        ("versions", TOKENS),
        ("right", pa.bool_()),
        ("parts", pa.string()),
        ("turns", TOKENS),
        ("forks", TOKENS),
        ("calls", pa.int32()),
        ("wrong_calls", pa.int32()),
        ("extra", pa.string()),
    ],
    metadata={"upslope.attempts": str(SCHEMA_VERSION)},
)
"""One row an attempt. ``version`` is of the weights that wrote it; where new weights reached it in the middle, the
newest, and ``versions`` has that of every token (else null). ``turns`` are the tokens with which turns after the
first begin, ``forks`` those before which the chat so far was rendered anew; null in an attempt of one turn.
``learner_logp`` is from before the step's first update, ``entropy`` and ``top_*`` from the first pass over the
attempt, ``ratio``, ``clipped`` and ``push`` from the last. They are null for attempts that were not scored, and
where neither recipe nor settings ask for them."""

EVAL_SCHEMA = pa.schema(
    [
        STEP_SCHEMA.field(name)
        for name in (
            *("problem", "sample", "prompt_text", "response_text", "prompt", "response", "prompt_pieces"),
            *("response_pieces", "mask", "ended", "reward", "extracted", "sampler_logp", "right", "parts"),
            *("turns", "forks", "calls", "wrong_calls"),
        )
    ],
    metadata=STEP_SCHEMA.metadata,
)


def prompt_text(problem: Problem) -> str:
    """What the policy was asked, for people to read: the contents of the chat so far."""
    return "\n\n".join(m["content"] for m in problem.messages)


def of_step(
    attempted: Sequence[Group],
    batch: Batch,
    outcomes: Sequence[Outcome],
    spell: Spell | None = None,
    rescored: Rescored | None = None,
) -> pa.Table:
    """A step's attempts, those the recipe dropped too; with the text of every token if ``spell`` tells it, and what
    they became by the step where they were ``rescored``."""
    rows = {(r.problem_id, r.sample): _attempt(g.problem, r, spell) for g in attempted for r in g.rollouts}
    if batch.advantage_NT is not None:
        for rollout, advantage in zip(batch.rollouts, batch.advantage_NT.tolist(), strict=True):
            row = rows[rollout.problem_id, rollout.sample]
            row |= {"kept": True, "advantage": advantage[: len(rollout.response)]}
    for name, logp_NT in (("learner_logp", batch.old_logp_NT), ("reference_logp", batch.reference_logp_NT)):
        if logp_NT is not None:
            for rollout, logp in zip(batch.rollouts, logp_NT.tolist(), strict=True):
                rows[rollout.problem_id, rollout.sample][name] = logp[: len(rollout.response)]
    for outcome in outcomes:
        _add_outcome(rows, outcome, spell)
    if rescored is not None:
        for rollout, logp in zip(rescored.rollouts, rescored.logp_NT.tolist(), strict=True):
            rows[rollout.problem_id, rollout.sample]["after_logp"] = logp[: len(rollout.response)]
    return _table(list(rows.values()), STEP_SCHEMA)


def of_evaluation(groups: Sequence[Group], spell: Spell | None = None) -> pa.Table:
    """The greedy attempts of an evaluation."""
    return _table([_attempt(g.problem, r, spell) for g in groups for r in g.rollouts], EVAL_SCHEMA)


def _attempt(problem: Problem, rollout: Rollout, spell: Spell | None) -> dict[str, Any]:
    return {
        "problem": rollout.problem_id,
        "sample": rollout.sample,
        "prompt_text": prompt_text(problem),
        "response_text": rollout.text,
        "prompt": rollout.prompt,
        "response": rollout.response,
        "prompt_pieces": None if spell is None else spell(rollout.prompt),
        "response_pieces": None if spell is None else spell(rollout.response),
        "mask": rollout.mask,
        "version": rollout.version,
        "versions": rollout.versions,
        "ended": rollout.ended,
        "reward": rollout.reward,
        "extracted": rollout.score.extracted,
        "right": rollout.score.is_right if rollout.score.decided else None,
        "parts": json.dumps(dict(rollout.score.parts)) if rollout.score.parts else None,
        "kept": False,
        "sampler_logp": rollout.logp,
        "turns": rollout.turns or None,
        "forks": [fork.begin for fork in rollout.forks] if rollout.turns else None,
        "calls": rollout.calls,
        "wrong_calls": rollout.wrong_calls,
        "extra": json.dumps(dict(rollout.score.extra)) if rollout.score.extra else None,
    }


def _add_outcome(rows: dict[tuple[str, int], dict[str, Any]], outcome: Outcome, spell: Spell | None) -> None:
    trace, batch = outcome.trace, outcome.minibatch
    if trace is None:
        return
    first = {"learner_logp": trace.logp_NT, "entropy": trace.entropy_NT}
    last = {"ratio": trace.ratio_NT, "clipped": trace.clipped_low_NT | trace.clipped_high_NT, "push": trace.push_NT}
    last |= {"weight": batch.weight_NT}
    told = {name: found.tolist() for name, found in (first | last).items() if found is not None}
    for place, rollout in enumerate(batch.rollouts):
        row, num = rows[rollout.problem_id, rollout.sample], len(rollout.response)
        if "push" in row:  # an update with it came before this pass
            row["after_logp"] = told["learner_logp"][place][:num]
        for name, values in told.items():
            if name in last or row.get(name) is None:
                row[name] = values[place][:num]
        if trace.top_NTK is not None and trace.top_logp_NTK is not None and "top_tokens" not in row:
            row["top_tokens"] = trace.top_NTK[place, :num].tolist()
            row["top_logp"] = trace.top_logp_NTK[place, :num].tolist()
            row["top_pieces"] = None if spell is None else [[spell([i])[0] for i in ids] for ids in row["top_tokens"]]


def _table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = [pa.array([row.get(f.name) for row in rows], type=f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def write(path: Path, table: pa.Table) -> None:
    """Write a table of attempts, whole or not at all."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", row_group_size=GROUP_ROWS)
    write_whole(path, buffer.getvalue())
