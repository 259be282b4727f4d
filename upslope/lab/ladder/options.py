"""What a ladder can be told. Loads no torch: the command line has its defaults from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upslope.errors import UserError
from upslope.model.names import is_pocket

RECIPES = ("sft", "rft", "reinforce", "reinforce-baseline", "importance", "trpo", "ppo", "grpo", "dapo")
"""In the order of the family tree: each cures what its predecessors suffer from."""


@dataclass(frozen=True)
class Ladder:
    """What was asked for. ``overrides`` are KEY=VALUE for every arm; those of ``recipe.`` for arms that act only."""

    out: Path = Path("runs/ladder")
    task: str | None = None
    data: str | None = None
    eval_data: str | None = None
    rewards: tuple[str, ...] = ()
    reward_weights: tuple[float, ...] = ()
    model: str = "pocket"
    recipes: tuple[str, ...] = RECIPES
    seeds: int = 3
    tokens: int = 150_000
    """Generated (or imitated) tokens an arm."""
    reuse_tokens: int = 60_000
    """Generated tokens an arm of the stability test; 0: no such test."""
    reuse_seeds: int = 1
    noise_batches: int = 32
    """Batches for the gradient's variance at the start; 0: no such measurement."""
    noise_problems: int = 16
    """P of such a batch."""
    lr: float | None = None
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.recipes)) < len(self.recipes) or not self.recipes:
            raise UserError("--recipes wants one recipe or more, each once")
        least = {"seeds": 1, "tokens": 1, "reuse_tokens": 0, "reuse_seeds": 1, "noise_batches": 0, "noise_problems": 1}
        for key, value in least.items():
            if getattr(self, key) < value:
                raise UserError(f"--{key.replace('_', '-')} = {getattr(self, key)} must be at least {value}")
        if 0 < self.noise_batches < 4:
            raise UserError("--noise-batches needs at least 4 (a variance in each of two halves), or 0 for none")

    @property
    def runs(self) -> Path:
        return self.out / "runs"

    @property
    def own_start_a_seed(self) -> bool:
        """The pocket model is made anew for every seed; any other start is one for all."""
        return is_pocket(self.model)

    def options(self) -> dict[str, Any]:
        """What the task is, by dotted key of the settings."""
        from upslope.training.tables import task_options

        return task_options(self.task, self.data, self.eval_data, self.rewards, self.reward_weights)

    def task_words(self) -> list[str]:
        """The same as options of ``upslope train``."""
        pairs = [("--task", self.task), ("--data", self.data), ("--eval-data", self.eval_data)]
        pairs += [("--reward", r) for r in self.rewards] + [("--reward-weight", f"{w:g}") for w in self.reward_weights]
        return [word for key, value in pairs if value is not None for word in (key, value)]
