"""Attempts of steps that nobody has learnt from yet, as a checkpoint keeps them.

A file a step, ``ahead/step-000011.parquet``: a row for each attempt, and what holds of the whole step as JSON in the
file's metadata. They lie in a folder of their own, where no model loader looks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from upslope.forks import Fork
from upslope.record.attempts import FLAGS, TOKENS
from upslope.types import Group, Problem, Rollout, Score

AHEAD = "ahead"
EXACT = pa.list_(pa.float64())
SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("sample", pa.int32()),
        ("prompt", TOKENS),
        ("response", TOKENS),
        ("mask", FLAGS),
        ("logp", EXACT),
        ("version", pa.int32()),
        ("versions", TOKENS),
        ("ended", pa.string()),
        ("text", pa.string()),
        ("unanswered", pa.int32()),
        ("reward", pa.float64()),
        ("extracted", pa.string()),
        ("lenient", pa.float64()),
        ("parts", pa.string()),
        ("steps", pa.string()),
        ("by_token", EXACT),
        ("timed_out", pa.bool_()),
        ("right", pa.bool_()),
        ("decided", pa.bool_()),
        ("by_turn", EXACT),
        ("turns", TOKENS),
        ("fork_begins", TOKENS),
        ("fork_prompts", pa.list_(TOKENS)),
        ("calls", pa.int32()),
        ("wrong_calls", pa.int32()),
        ("chat", pa.string()),
        ("told", pa.string()),
        ("extra", pa.string()),
    ]
)
"""Every field of a ``Rollout`` and its ``Score``, to the last bit; ``parts``, ``steps``, ``chat``, ``told`` and
``extra`` are JSON. What a world said of it (``earned``) is its score by now."""
OF_STEP = b"upslope.step"


@dataclass(frozen=True)
class DrawnStep:
    """A step's attempts, with what the collector knew when it had them.

    >>> problem = Problem("toy/0", ())
    >>> DrawnStep(3, (Group(problem, ()),), (), {}, {}).step
    3
    """

    step: int
    """Which step learns from them; with the run's seed, the address of every draw."""
    attempted: Sequence[Group]
    kept: Sequence[Group]
    """Those to learn from."""
    told: Mapping[str, float]
    """For the step's line of the journal."""
    state: Mapping[str, Any]
    """As JSON can say it."""

    @property
    def oldest(self) -> int | None:
        """The lowest version of the weights that wrote some of it; None if there is no attempt."""
        rollouts = [r for group in (*self.attempted, *self.kept) for r in group.rollouts]
        return min((v for r in rollouts for v in r.versions or (r.version,)), default=None)


def write_drawn(folder: Path, drawn: Sequence[DrawnStep]) -> None:
    """Write every step into ``folder/ahead``; without any there is no such folder."""
    for made in drawn:
        (folder / AHEAD).mkdir(exist_ok=True)
        pq.write_table(to_table(made), folder / AHEAD / f"step-{made.step:06d}.parquet", compression="zstd")


def read_drawn(folder: Path, problems: Mapping[str, Problem]) -> list[DrawnStep]:
    """What ``write_drawn`` wrote, lowest step first. Raises KeyError, with its id, for a problem that is not among
    ``problems``."""
    return [from_table(pq.read_table(file), problems) for file in sorted((folder / AHEAD).glob("step-*.parquet"))]


def any_drawn(folder: Path) -> bool:
    """Whether there is something to read."""
    return (folder / AHEAD).is_dir()


def to_table(made: DrawnStep) -> pa.Table:
    """The rows of a step. An attempt that is in several groups has one row; problems are there by id."""
    rows: list[Rollout] = []
    place_of: dict[int, int] = {}

    def group_row(group: Group) -> list[Any]:
        for rollout in group.rollouts:
            if id(rollout) not in place_of:
                place_of[id(rollout)] = len(rows)
                rows.append(rollout)
        return [group.problem.id, group.weight, [place_of[id(rollout)] for rollout in group.rollouts]]

    of_step = {
        "step": made.step,
        "attempted": [group_row(group) for group in made.attempted],
        "kept": [group_row(group) for group in made.kept],
        "told": dict(made.told),
        "state": dict(made.state),
    }
    given = [_row(rollout) for rollout in rows]
    columns = [pa.array([row[f.name] for row in given], type=f.type) for f in SCHEMA]
    return pa.Table.from_arrays(columns, schema=SCHEMA.with_metadata({OF_STEP: json.dumps(of_step).encode()}))


def from_table(table: pa.Table, problems: Mapping[str, Problem]) -> DrawnStep:
    """The step that ``to_table`` was given. Raises KeyError as ``read_drawn`` does."""
    of_step = json.loads(table.schema.metadata[OF_STEP])
    rollouts = [_rollout(row) for row in table.to_pylist()]

    def groups(rows: Sequence[tuple[str, float, Sequence[int]]]) -> tuple[Group, ...]:
        return tuple(Group(problems[name], tuple(rollouts[i] for i in places), weight) for name, weight, places in rows)

    attempted, kept = groups(of_step["attempted"]), groups(of_step["kept"])
    return DrawnStep(int(of_step["step"]), attempted, kept, of_step["told"], of_step["state"])


def _row(rollout: Rollout) -> dict[str, Any]:
    r, score = rollout, rollout.score
    return {
        "problem": r.problem_id,
        "sample": r.sample,
        "prompt": r.prompt,
        "response": r.response,
        "mask": r.mask,
        "logp": r.logp,
        "version": r.version,
        "versions": r.versions,
        "ended": r.ended,
        "text": r.text,
        "unanswered": r.unanswered,
        "reward": score.reward,
        "extracted": score.extracted,
        "lenient": score.lenient,
        "parts": json.dumps(dict(score.parts)),
        "steps": json.dumps(score.steps),
        "by_token": score.by_token,
        "timed_out": score.timed_out,
        "right": score.right,
        "decided": score.decided,
        "by_turn": score.by_turn,
        "turns": r.turns,
        "fork_begins": [fork.begin for fork in r.forks],
        "fork_prompts": [fork.prompt for fork in r.forks],
        "calls": r.calls,
        "wrong_calls": r.wrong_calls,
        "chat": json.dumps(r.chat),
        "told": json.dumps(dict(score.told)),
        "extra": json.dumps(dict(score.extra)),
    }


def _rollout(row: Mapping[str, Any]) -> Rollout:
    score = Score(
        row["reward"],
        row["extracted"],
        row["lenient"],
        json.loads(row["parts"]),
        tuple((place, reward) for place, reward in json.loads(row["steps"])),
        _tuple(row["by_token"]),
        tuple(row.get("by_turn") or ()),
        timed_out=row["timed_out"],
        right=row.get("right"),
        decided=row.get("decided", True),
        told=json.loads(row.get("told") or "{}"),  # a file of an older version has neither
        extra=json.loads(row.get("extra") or "{}"),
    )
    return Rollout(
        row["problem"],
        row["sample"],
        tuple(row["prompt"]),
        tuple(row["response"]),
        tuple(row["mask"]),
        _tuple(row["logp"]),
        row["version"],
        row["ended"],
        row["text"],
        score,
        row["unanswered"],
        _tuple(row["versions"]),
        tuple(row.get("turns") or ()),  # files from before there were conversations have none of these
        tuple(
            Fork(begin, tuple(prompt))
            for begin, prompt in zip(row.get("fork_begins") or (), row.get("fork_prompts") or (), strict=True)
        ),
        row.get("calls") or 0,
        row.get("wrong_calls") or 0,
        tuple(json.loads(row.get("chat") or "[]")),
    )


def _tuple(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
