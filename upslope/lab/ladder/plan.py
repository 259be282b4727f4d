"""What a ladder runs: the branches of the family from one start, for one budget, and three of them with reused batches.

An arm is an ordinary ``upslope train`` in a process of its own; everything here is the words of its command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from upslope.algo.family import FAMILY
from upslope.algo.recipe import Recipe
from upslope.algo.sample import Attempts
from upslope.algo.update import KLBall
from upslope.config import load_settings
from upslope.errors import UserError, nearest
from upslope.lab.ladder.options import Ladder
from upslope.tasks.right import require_right
from upslope.training.named import open_run_task, resolve_recipe
from upslope.training.pocket_start import pocket_stage
from upslope.training.settings import RunSettings

REUSED = ("importance", "trpo", "ppo")
EPOCHS = (1, 4, 16)
"""Passes over one batch in the stability test."""
NUM_POINTS = 10
"""Held-out evaluations along a curve, about."""
STEPS = 1_000_000
"""No limit: the budget of tokens ends a run."""
PASS_SAMPLES = 4
"""Attempts a held-out problem for pass@k at both ends of a run."""


def require_comparable(ladder: Ladder) -> None:
    """Raise UserError for a recipe that does not exist, or answers no problem."""
    for name in ladder.recipes:
        if name not in FAMILY:
            raise UserError(f"recipe {name!r} is not known{nearest(name, FAMILY)}")
        if FAMILY[name].recipe.sample.source == "documents":
            raise UserError(f"recipe {name!r} reads plain text and answers no problem: no ladder can compare it")


def settings_of(ladder: Ladder, recipe: str, changes: Sequence[str] = ()) -> RunSettings:
    """An arm's settings as its own process will read them. Raises UserError for a bad override."""
    overrides = [*overrides_of(ladder, recipe), *changes]
    found = load_settings(None, overrides, {"recipe": {"name": recipe}, **ladder.options()})
    if not found.eval.problems:
        raise UserError("eval.problems = 0: a ladder compares held-out accuracy, so some must be evaluated")
    if len(found.task.rewards) > 1:
        require_right(open_run_task(found.task, found.seed), "a ladder, which compares held-out accuracy,")
    return found


def overrides_of(ladder: Ladder, recipe: str) -> list[str]:
    """The ladder's overrides, without those of slots where the recipe imitates."""
    acts = FAMILY[recipe].recipe.acts
    return [text for text in ladder.overrides if acts or not text.strip().startswith("recipe.")]


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
    """Every recipe for every seed. ``lengths``: tokens of a greedy attempt at the start, by seed. Raises UserError."""
    require_comparable(ladder)
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
    taught = pocket_stage("sft").recipe
    if name == taught["name"] and settings_of(ladder, name).task.name in ("", "pocket") and not ladder.data:
        # Go on exactly as the start was made: with the same share of plain text.
        changes += [f"recipe.sample.{k}={v}" for k, v in taught.get("sample", {}).items()]
    if epochs is not None:
        # No warm-up: with one pass a batch it would last as long as the run, with sixteen not even a step.
        changes += [f"recipe.reuse.epochs={epochs}", "recipe.reuse.minibatches=1", "learn.warmup=0"]
        changes += ["recipe.critic.warmup=0"] if FAMILY[name].recipe.has_critic else []
    settings = settings_of(ladder, name, changes)
    recipe = resolve_recipe(settings.recipe)
    num_steps = tokens / max(tokens_a_step(recipe, settings.problems, length), 1.0)
    every = max(1, round(num_steps / (NUM_POINTS if epochs is None else NUM_POINTS / 2)))
    words = [*ladder.task_words(), "--recipe", name, "--model", str(ladder.runs / start_of(ladder, seed).name)]
    words += ["--seed", str(seed), *overrides_of(ladder, name), *changes, f"steps={STEPS}", f"tokens={tokens}"]
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
