"""Checkpoints: ordinary Hugging Face model directories, what a run goes on from, and a manifest of hashes.

Many loaders (vLLM's among them) take every ``*.safetensors`` in a directory for the model's. So optimizer and critic
lie in ``resume/``, and under another suffix, though they are files of that format. Checkpoints of earlier versions have
them beside the model, and are read from there.

A checkpoint is written aside, flushed, and renamed into place; its predecessor goes only afterwards, one of the very
same step too (``step-000010.replaced``). What is newest is decided by what is complete (every file there, every hash
right), never by a name or a date alone.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from upslope.errors import UserError
from upslope.files import sync_folder
from upslope.model.hf import system_errors
from upslope.model.policy import Policy
from upslope.record.drawn import AHEAD, DrawnStep, any_drawn, read_drawn, write_drawn
from upslope.record.manifest import MANIFEST, is_ours, is_whole, remove, whole_folder, why_not_whole
from upslope.types import Problem

RESUME = "resume"
OPTIMIZER, CRITIC = f"{RESUME}/optimizer.state", f"{RESUME}/critic.state"
ONCE = {OPTIMIZER: "optimizer.safetensors", CRITIC: "critic.safetensors"}
"""Where earlier versions wrote them."""
STATE = "run_state.json"
NOT_THE_MODEL = frozenset({RESUME, AHEAD, STATE, MANIFEST, *ONCE.values()})
"""What of a checkpoint's folder is for the run alone."""
NAME = re.compile(r"step-(\d+)(\.replaced)?")
ASIDE = ".set-aside"
"""Stands behind the name of what was called as a checkpoint is, and was none."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on the disk."""

    folder: Path
    step: int
    """Turns of the loop done."""
    state: Mapping[str, Any]

    def optimizer(self) -> dict[str, Tensor]:
        return load_file(file_in(self.folder, OPTIMIZER))

    def critic(self) -> dict[str, Tensor]:
        """Weights and optimizer state of the critic, in a recipe that has one."""
        return load_file(file_in(self.folder, CRITIC))

    @property
    def drew_ahead(self) -> bool:
        """Whether there are attempts that nobody had learnt from."""
        return any_drawn(self.folder)

    def drawn(self, problems: Mapping[str, Problem]) -> list[DrawnStep]:
        """These, lowest step first. Raises KeyError for a problem, by id, that is not among ``problems``."""
        return read_drawn(self.folder, problems)


def save(
    parent: Path,
    step: int,
    policy: Policy,
    weights: Mapping[str, Tensor],
    optimizer: dict[str, Tensor],
    state: dict[str, Any],
    critic: dict[str, Tensor] | None = None,
    drawn: Sequence[DrawnStep] = (),
) -> Path:
    """Write ``parent/step-000010``, whole or not at all. ``weights`` (full precision) stand in for the compute ones;
    ``drawn`` are steps whose attempts are there and wait to be learnt from."""
    folder = parent / f"step-{step:06d}"
    with whole_folder(folder) as aside:
        policy.save(aside, weights)
        (aside / RESUME).mkdir()
        with system_errors(aside):
            save_file({k: v.contiguous() for k, v in optimizer.items()}, aside / OPTIMIZER)
            if critic is not None:
                save_file({k: v.contiguous() for k, v in critic.items()}, aside / CRITIC)
        write_drawn(aside, drawn)
        (aside / STATE).write_text(json.dumps({"step": step, **state}, indent=1))
    for later in _folders(parent):
        if step_of(later) > step and not is_whole(later):
            remove(later)  # broken, and passed over when the run went back to an older one
    return folder


def newest(parent: Path) -> Checkpoint | None:
    """The complete checkpoint of the highest step, or None. Incomplete ones are passed over (``passed_over``)."""
    for folder in _folders(parent):
        if not why_not_complete(folder):
            state = json.loads((folder / STATE).read_text())
            return Checkpoint(folder, int(state["step"]), state)
    return None


def why_not_complete(folder: Path) -> str:
    """Why no run could go on from a folder, in a few words; empty if one could."""
    if not folder.is_dir():
        return "it is no folder"
    wrong = why_not_whole(folder)
    if wrong:
        return wrong
    missing = [name for name in (STATE, OPTIMIZER) if not file_in(folder, name).is_file()]
    if missing or not any(folder.glob("*model*.safetensors")):
        return f"{(*missing, 'model.safetensors')[0]} is missing"
    try:
        state = json.loads((folder / STATE).read_bytes())
        step = int(state["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return f"its {STATE} is none"
    return "" if step == step_of(folder) else f"its {STATE} is of step {step}"


def file_in(folder: Path, name: str) -> Path:
    """Where a file of a checkpoint is, or should be: also in one of an earlier version."""
    before = folder / ONCE.get(name, name)
    return before if before.is_file() and not (folder / name).exists() else folder / name


def passed_over(parent: Path, found: Checkpoint | None) -> list[str]:
    """A line for each checkpoint that is newer than ``found``, the newest complete one, and why it is none."""
    later = [path for path in _named(parent) if found is None or step_of(path) > found.step]
    return [f"{path} is passed over: {why_not_complete(path)}" for path in sorted(later, key=step_of)]


def move_strangers(parent: Path, step: int) -> list[str]:
    """Rename what is called as a checkpoint of a later step, and was not written by upslope, or not under that name, so
    that it is neither lost nor in the way; returns a line for each."""
    said = []
    for path in [path for path in _named(parent) if step_of(path) > step and (not is_ours(path) or is_whole(path))]:
        names = (path.with_name(f"{path.name}{ASIDE}{number or ''}") for number in itertools.count())
        free = next(name for name in names if not name.exists() and not name.is_symlink())
        path.rename(free)
        said.append(f"{path} was not written by upslope as it is, and is {free.name} now")
    return said


def complaint_about(parent: Path, step: int) -> str:
    """What is wrong with the checkpoint of a step, in a few words; empty if nothing is."""
    return why_not_complete(parent / f"step-{step:06d}")


def abandon(parent: Path, step: int) -> None:
    """Set all checkpoints of later steps aside: no checkpoint any more, and deleted by the next ``prune``."""
    for folder in _folders(parent):
        if step_of(folder) > step:
            aside = parent / f".{folder.name}.part"
            remove(aside)
            folder.rename(aside)
    sync_folder(parent)


def steps(parent: Path) -> list[int]:
    """The steps of all checkpoints there, lowest first."""
    return sorted(step_of(folder) for folder in _folders(parent))


def prune(parent: Path, keep: int, spare: int | None = None) -> None:
    """Delete all but the ``keep`` newest and that of step ``spare``, and what was left half written, once the newest
    one is sure to be complete.

    Raises UserError, and deletes nothing, if it is not.
    """
    folders = _folders(parent)
    if folders and not is_whole(folders[0]):
        raise UserError(f"{folders[0]} does not match its manifest right after writing; older checkpoints were kept")
    excess = [folder for folder in folders[max(keep, 1) :] if step_of(folder) != spare]
    for folder in (*excess, *filter(is_ours, parent.glob(".step-*.part"))):
        remove(folder)


def prune_before(parent: Path, step: int, keep: int, spare: int | None = None) -> None:
    """Delete what ``prune`` would have after the checkpoint of ``step``, had no kill come first. Nothing, unless that
    one is complete."""
    folders = [folder for folder in _folders(parent) if step_of(folder) <= step]
    excess = [folder for folder in folders[max(keep, 1) :] if step_of(folder) != spare]
    for folder in excess if excess and is_whole(folders[0]) else ():
        remove(folder)


def _folders(parent: Path) -> list[Path]:
    """Every checkpoint of ours, highest step first; a replaced one stands behind its replacement."""
    return sorted(filter(is_ours, _named(parent)), key=lambda path: (-step_of(path), path.suffix))


def _named(parent: Path) -> list[Path]:
    """Whatever is called as a checkpoint is, be it one or not."""
    return [path for path in parent.glob("step-*") if NAME.fullmatch(path.name)]


def step_of(folder: Path) -> int:
    """Turns of the loop done, by the name of a checkpoint or of a replaced one."""
    return int(folder.stem.removeprefix("step-"))
