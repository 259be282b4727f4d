"""Whether a run's checkpoints have room on the disk, known before hours are spent on what goes into them."""

from __future__ import annotations

import shutil
from pathlib import Path

from upslope.algo.recipe import Recipe
from upslope.errors import Unavailable
from upslope.learn.learner import Learner
from upslope.record import checkpoint
from upslope.training.settings import RunSettings


def checkpoint_bytes(learner: Learner, recipe: Recipe) -> int:
    """What one checkpoint takes at least: the weights that move, in full precision, and the optimizer's moments, where
    it moves them (the natural step has none); the critic's likewise."""
    total = 0
    for optimizer in learner.optimizers:
        total += optimizer.master_bytes
        if "curvature" not in recipe.needs or optimizer is not learner.optimizer:
            total += optimizer.moment_bytes
    return total


def require_disk(folder: Path, learner: Learner, recipe: Recipe, settings: RunSettings) -> None:
    """Raise Unavailable unless there is room for the checkpoints that are kept, the best among them, and one more (a
    new one is complete before the oldest goes), or for all that the run writes, if those are fewer. Those that are
    there already count."""
    save = settings.save
    written = 1 + settings.steps // save.every if save.every else 1
    if save.best and settings.eval.every:
        written += settings.steps // settings.eval.every
    size = checkpoint_bytes(learner, recipe)
    missing = max(1, min(save.keep + save.best + 1, written) - len(checkpoint.steps(folder / "checkpoints")))
    free = shutil.disk_usage(folder).free
    if free < missing * size:
        raise Unavailable(
            f"{folder} has {_gb(free)} free, and its checkpoints need {_gb(missing * size)} more ({missing} of "
            f"{_gb(size)}): make room, choose another --out, or lower save.keep (now {save.keep})"
        )


def _gb(num_bytes: int) -> str:
    """In GB, or in MB below one.

    >>> _gb(1_620_000_000), _gb(2_100_000)
    ('1.6 GB', '2.1 MB')
    """
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
