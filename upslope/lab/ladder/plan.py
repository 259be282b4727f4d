"""What a ladder runs: the branches of the family from one start, for one budget, and three of them with reused batches.

An arm is an ordinary ``upslope train`` in a process of its own; everything here is the words of its command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upslope.algo.family import FAMILY
from upslope.algo.recipe import Recipe
from upslope.algo.sample import Attempts
from upslope.algo.update import KLBall
from upslope.config import load_settings
from upslope.errors import UserError, nearest
from upslope.training.settings import RunSettings
from upslope.training.stages import STAGES
from upslope.training.start import resolve_recipe

RECIPES = ("sft", "rft", "reinforce", "reinforce-baseline", "importance", "trpo", "ppo", "grpo", "dapo")
"""In the order of the family tree: each cures what its predecessors suffer from."""
REUSED = ("importance", "trpo", "ppo")
EPOCHS = (1, 4, 16)
"""Passes over one batch in the stability test."""
NUM_POINTS = 10
"""Held-out evaluations along a curve, about."""
STEPS = 1_000_000
"""No limit: the budget of tokens ends a run."""
PASS_SAMPLES = 4
"""Attempts a held-out problem for pass@k at both ends of a run."""


@dataclass(frozen=True)
class Ladder:
    """What was asked for. ``overrides`` are KEY=VALUE for every arm; those of ``recipe.`` for arms that act only."""

    out: Path
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
        for name in self.recipes:
            if name not in FAMILY:
                raise UserError(f"recipe {name!r} is not known{nearest(name, FAMILY)}")
            if FAMILY[name].recipe.sample.source == "documents":
                raise UserError(f"recipe {name!r} reads plain text and answers no problem: no ladder can compare it")
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
        return self.model.partition(":")[0] == "pocket" and not Path(self.model).is_dir()

    def options(self) -> dict[str, Any]:
        """What the task is, by dotted key of the settings."""
        given = {
            "task.name": self.task,
            "task.data": self.data,
            "task.eval_data": self.eval_data,
            "task.rewards": list(self.rewards) or None,
            "task.reward_weights": list(self.reward_weights) or None,
        }
        return {key: value for key, value in given.items() if value is not None}

    def task_words(self) -> list[str]:
        """The same as options of ``upslope train``."""
        pairs = [("--task", self.task), ("--data", self.data), ("--eval-data", self.eval_data)]
        pairs += [("--reward", r) for r in self.rewards] + [("--reward-weight", f"{w:g}") for w in self.reward_weights]
        return [word for key, value in pairs if value is not None for word in (key, value)]

    def settings(self, recipe: str, changes: Sequence[str] = ()) -> RunSettings:
        """An arm's settings as its own process will read them. Raises UserError for a bad override."""
        overrides = [*self.overrides_of(recipe), *changes]
        found = load_settings(None, overrides, {"recipe": {"name": recipe}, **self.options()})
        if not found.eval.problems:
            raise UserError("eval.problems = 0: a ladder compares held-out accuracy, so some must be evaluated")
        return found

    def overrides_of(self, recipe: str) -> list[str]:
        acts = FAMILY[recipe].recipe.acts
        return [text for text in self.overrides if acts or not text.strip().startswith("recipe.")]


@dataclass(frozen=True)
class Arm:
    """One run. ``weight`` is a guess at its cost relative to the others, for the time left."""

    name: str
    recipe: str
    seed: int
    tokens: int
    words: tuple[str, ...]
    """What stands after ``upslope train --plain``, but for its folder."""
    weight: float = 1.0
    epochs: int | None = None
    """Passes over a batch, in an arm of the stability test."""
    passes: int = 1
    """Passes over a batch, in any arm."""


def start_of(ladder: Ladder, seed: int) -> Arm:
    """The arm that only makes the start and evaluates it: zero steps. Every other arm of the seed loads its
    checkpoint, so all begin with the same bytes, and none pays for making them."""
    seed = seed if ladder.own_start_a_seed else 0
    words = [*ladder.task_words(), "--model", ladder.model, "--seed", str(seed)]
    words += [text for text in ladder.overrides if not text.strip().startswith("recipe.")]
    return Arm(f"start-{seed}", "", seed, 0, (*words, "steps=0", "tokens=0", "learn.lora_rank=0"), 0.0)


def main_arms(ladder: Ladder, lengths: Mapping[int, float]) -> list[Arm]:
    """Every recipe for every seed. ``lengths``: tokens of a greedy attempt at the start, by seed."""
    return [_arm(ladder, recipe, seed, lengths[seed]) for seed in range(ladder.seeds) for recipe in ladder.recipes]


def reuse_arms(ladder: Ladder, lengths: Mapping[int, float]) -> list[Arm]:
    """The stability test: one batch used 1, 4 and 16 times, for those of its recipes that the ladder has."""
    if not ladder.reuse_tokens:
        return []
    seeds = range(min(ladder.reuse_seeds, ladder.seeds))
    chosen = [name for name in REUSED if name in ladder.recipes]
    return [_arm(ladder, name, seed, lengths[seed], epochs) for seed in seeds for name in chosen for epochs in EPOCHS]


def _arm(ladder: Ladder, name: str, seed: int, length: float, epochs: int | None = None) -> Arm:
    tokens = ladder.tokens if epochs is None else ladder.reuse_tokens
    changes = [] if ladder.lr is None else [f"learn.lr={ladder.lr!r}"]
    if name == STAGES["sft"].recipe["name"] and ladder.settings(name).task.name in ("", "pocket") and not ladder.data:
        # Go on exactly as the start was made: with the same share of plain text.
        changes += [f"recipe.sample.{k}={v}" for k, v in STAGES["sft"].recipe.get("sample", {}).items()]
    if epochs is not None:
        # No warm-up: with one pass a batch it would last as long as the run, with sixteen not even a step.
        changes += [f"recipe.reuse.epochs={epochs}", "recipe.reuse.minibatches=1", "learn.warmup=0"]
        changes += ["recipe.critic.warmup=0"] if FAMILY[name].recipe.has_critic else []
    settings = ladder.settings(name, changes)
    recipe = resolve_recipe(settings.recipe)
    num_steps = tokens / max(tokens_a_step(recipe, settings.problems, length), 1.0)
    every = max(1, round(num_steps / (NUM_POINTS if epochs is None else NUM_POINTS / 2)))
    words = [*ladder.task_words(), "--recipe", name, "--model", str(ladder.runs / start_of(ladder, seed).name)]
    words += ["--seed", str(seed), *ladder.overrides_of(name), *changes, f"steps={STEPS}", f"tokens={tokens}"]
    words += [f"eval.every={every}", f"eval.samples={PASS_SAMPLES}", f"save.every={every}", "save.keep=1"]
    words += [f"save.rollouts={every}", "learn.measure_every=1"]
    label = f"{name}-{seed}" if epochs is None else f"{name}-x{epochs}-{seed}"
    return Arm(label, name, seed, tokens, tuple(words), tokens * cost(recipe), epochs, recipe.reuse.epochs)


def tokens_a_step(recipe: Recipe, num_problems: int, length: float) -> float:
    """A guess, from the length of an attempt at the start, that sets how often to evaluate: dynamic sampling tries
    further problems, and replayed text is longer than an answer."""
    sample = recipe.sample
    if isinstance(sample, Attempts):
        return num_problems * sample.group_size * length * (2 if sample.refill else 1)
    return num_problems * length * (2 if getattr(sample, "replay", 0) else 1)


def cost(recipe: Recipe) -> float:
    """Seconds a step of 512 attempts at pocket takes on one core, roughly, measuring included."""
    if not recipe.acts:
        return 1.0
    update = 2.0 if isinstance(recipe.update, KLBall) else 0.65 if recipe.has_critic else 0.35
    return 1.0 + update * recipe.reuse.epochs
