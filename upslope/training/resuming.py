"""Going on with a run: what may be changed, from which checkpoint, and what is not as it was when it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import tomllib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from upslope.errors import UserError
from upslope.model.digest import weights_digest
from upslope.plugins import names_a_file, source
from upslope.record import checkpoint
from upslope.record.checkpoint import Checkpoint
from upslope.record.journal import JOURNAL, read_journal
from upslope.tasks.base import Task
from upslope.training.settings import RunSettings
from upslope.training.tables import dotted, names
from upslope.versions import running

TIMES = ("task.reward_timeout", "task.on_timeout", "task.reward_workers")
SHAPE = tuple(
    f"cluster.{name}"
    for name in (
        *("samplers", "ranks", "rewards", "shard", "address", "patience"),
        *("vllm_python", "vllm_url", "vllm_memory", "most_gap"),
    )
)
"""Of a cluster, all but what changes what is learnt from whom: ``staleness`` and ``engine``."""
ROOM = ("learn.activations_share", "learn.logits_share", "sample.cache_share")
"""Shares of a GPU's memory, which change no result."""
CHANGEABLE = (
    "steps",
    "epochs",
    "minutes",
    "tokens",
    "learn.lr",
    "save",
    "eval",
    "threads",
    "track",
    *SHAPE,
    *TIMES,
    *ROOM,
)
"""Settings that may be given along with ``--resume``: they say how far and how fast, not what is learnt from whom."""


def require_changeable(keys: Sequence[str], unchanged: Container[str] = ()) -> None:
    """Raise UserError for a setting that a resumed run cannot change, but for those that are as they were."""
    for key in keys:
        if key not in unchanged and not names(CHANGEABLE, key):
            raise UserError(
                f"--resume continues a run with its own {key}; only {', '.join(CHANGEABLE)} can be changed. Start "
                "a new run from it with --model instead"
            )


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each setting that two documents of a run have otherwise, of those that may be changed."""
    old, new = dict(dotted(before)), dict(dotted(now))
    keys = [key for key in new if key in old and names(CHANGEABLE, key)]
    return [f"{key} is {new[key]} now, it was {old[key]}" for key in keys if new[key] != old[key]]


def made_with(settings: RunSettings, task: Task, base: Any | None, text: str | None = None) -> dict[str, str]:
    """What a run's results depend on beside its settings, by name: hashes of the data, of ``text`` (its fingerprint),
    of the user's code and of an adapter's ``base`` model, and versions."""
    task_specs = [settings.task.name, *settings.task.rewards, *settings.task.tools, settings.task.environment]
    specs = [*task_specs, *(value for _, value in dotted(settings.recipe))]
    code = [source(spec) + spec.rpartition(":")[2] for spec in specs if isinstance(spec, str) and names_a_file(spec)]
    found: dict[str, str] = {}
    with contextlib.suppress(
        UserError
    ):  # it reads everything, also what this run has no use for, and that may be broken
        found["the task's data"] = task.fingerprint()
    found["the user's code"] = " ".join(code)
    if text is not None:
        found["the text"] = text
    if base is not None:
        found["the adapter's base"] = weights_digest(base.state_dict())
    hashed = {name: hashlib.sha256(text.encode()).hexdigest()[:12] for name, text in found.items()}
    return hashed | running() | {"torch": str(torch.__version__)}


def differences(before: Mapping[str, str], now: Mapping[str, str], step: int) -> list[str]:
    """A line for each thing that is not what it was when the checkpoint of ``step`` was written."""
    differ = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [
        f"{name} changed since step {step}: {before.get(name, 'none')} then, {now.get(name, 'none')} now"
        for name in differ
    ]


def require_run(folder: Path) -> dict[str, Any]:
    """What a run's run.toml says. Raises UserError for a folder that no run can go on in."""
    file = folder / "run.toml"
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if "versions" not in document:
        raise UserError(f"{file} is not what a run wrote there, so nothing says how to go on")
    if checkpoint.steps(folder / "checkpoints") and not (folder / JOURNAL).exists():
        raise UserError(
            f"{folder} has checkpoints and no {JOURNAL}: what it did so far is lost; put it back, or start anew"
        )
    return document


def notes_of(
    folder: Path,
    saved: Checkpoint | None,
    was: Mapping[str, Any],
    document: Mapping[str, Any],
    now: Mapping[str, str],
) -> list[str]:
    """What a resumed run should say: settings (``was``: its old run.toml) and surroundings that are others, and what
    stood in the way of its checkpoints. Raises UserError for one whose checkpoints are gone."""
    notes = changed(was, document)
    if saved is None:
        require_checkpoint(folder, was)
        return notes
    notes += checkpoint.move_strangers(folder / "checkpoints", saved.step)
    before = saved.state.get("made_with")
    return notes + (differences(before, now, saved.step) if before else [])


def require_checkpoint(folder: Path, was: Mapping[str, Any]) -> None:
    """Raise UserError for a run that has no checkpoint and must have had one."""
    num = len(read_journal(folder).steps) if (folder / JOURNAL).exists() else 0
    every = dict(dotted(was)).get("save.every")
    if isinstance(every, int) and 0 < every < num:
        raise UserError(
            f"{folder} has {num} steps in its journal and no checkpoint, though one was written every {every}: put "
            "checkpoints back, or start anew in another folder"
        )


def set_aside(folder: Path, step: int) -> None:
    """Make the checkpoint of ``step`` the newest of a run's folder: later ones are renamed, and deleted when the next
    one is written. Raises UserError if it is not there or not complete."""
    checkpoints = folder / "checkpoints"
    there = checkpoint.steps(checkpoints)
    found = [number for number in there if number == step]
    wrong = checkpoint.complaint_about(checkpoints, step) if found else "there is none"
    if wrong:
        listed = ", ".join(map(str, there)) or "none"
        raise UserError(f"--from {step}: {folder} has no whole checkpoint of that step ({wrong}); there are {listed}")
    checkpoint.abandon(checkpoints, step)
