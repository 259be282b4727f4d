"""Does `upslope why` name what is wrong? Twelve runs on pocket, each made sick by one setting, and three healthy ones.

    python benchmarks/sick_runs.py OUT [--steps 30] [--only NAME ...]

Prints a table: what each run suffers from, what is said first, and what else is said. Runs that are in OUT already are
judged anew and not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import upslope as up
from upslope.inspect.why.command import found_in
from upslope.rollout.local import LocalSampler
from upslope.tasks.base import Task
from upslope.types import Problem, Score


class Judged(Task):
    """Pocket's problems with another reward."""

    has_reward = True

    def __init__(self, name: str, reward: Any) -> None:
        self.name, self._reward, self._pocket = name, reward, up.tasks.pocket()
        self.max_tokens = self._pocket.max_tokens

    def problems(self, split: Any) -> Sequence[Problem]:
        return self._pocket.problems(split)

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        return [Score(float(self._reward(p, r)), r[-8:] or None) for p, r in zip(problems, responses, strict=True)]


class Stale(LocalSampler):
    """Writes with the weights it began with, whatever it is given."""

    def __init__(self, policy: Any) -> None:
        import copy

        super().__init__(type(policy)(copy.deepcopy(policy.model), policy.tokenizer))

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        pass


def by_words(problem: Problem, response: str) -> float:
    return min(len(response.split()) / 30, 1.0)


def by_problem(problem: Problem, response: str) -> float:
    return float(sum(map(ord, problem.id)) % 2)


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "rate": ("rate too high", {"learn": {"lr": 1e-2, "measure_every": 1}}),
    "temperature": ("temperature too low", {"sample": {"temperature": 0.05}}),
    "limit": ("limit too short", {"sample": {"max_tokens": 5}}),
    "zero": ("reward always 0", {"task": Judged("zero", lambda p, r: 0.0)}),
    "one": ("reward always full", {"task": Judged("one", lambda p, r: 1.0)}),
    "words": ("reward is hacked", {"task": Judged("words", by_words), "learn": {"lr": 1e-3}}),
    "unmixed": ("no mixed groups", {"task": Judged("problem", by_problem)}),
    "stale": ("sampler and learner disagree", {"sampler": Stale, "learn": {"lr": 1e-3}}),
    "format": ("format missed", {"model": "pocket:pretrained"}),
    "critic": ("critic explains nothing", {"recipe": {"name": "ppo", "critic": {"rate": 1e-6, "warmup": 0}}}),
    "entropy": (
        "entropy runs away",
        {"recipe": {"name": "reinforce-baseline", "regulariser": {"kind": "entropy_bonus", "coefficient": 1.0}}},
    ),
    "penalty": (
        "penalty too strong",
        {"recipe": {"name": "grpo", "regulariser": {"kind": "k3", "coefficient": 100.0}}},
    ),
    "healthy-grpo": ("nothing", {"recipe": "grpo"}),
    "healthy-dapo": ("nothing", {"recipe": "dapo"}),
    "healthy-baseline": ("nothing", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--only", nargs="*", default=list(RUNS))
    given = parser.parse_args()
    right = 0
    print("| run | suffers from | said first | also said |\n|---|---|---|---|")
    for name in given.only:
        sickness, patch = RUNS[name]
        folder = given.out / name
        if not (folder / "report.done").exists():
            train(folder, given.steps, patch)
            (folder / "report.done").touch()
        said = [found.rule for found in found_in(folder)] or ["nothing"]
        right += said[0] == sickness
        print(f"| {name} | {sickness} | {said[0]} | {', '.join(said[1:])} |", flush=True)
    print(f"\n{right} of {len(given.only)} are named first, or left in peace.")


def train(folder: Path, steps: int, patch: Mapping[str, Any]) -> None:
    """One short run of 16 problems x 8 attempts."""
    settings: dict[str, Any] = {
        "model": "pocket:sft",
        "task": up.tasks.pocket(),
        "recipe": "reinforce-baseline",
        "problems": 16,
        "eval": {"problems": 64, "every": 10},
    } | dict(patch)
    recipe = settings.pop("recipe")
    recipe = {"name": recipe} if isinstance(recipe, str) else recipe
    recipe = recipe | {"sample": {"group_size": 8}}
    up.train(settings.pop("model"), recipe=recipe, steps=steps, folder=folder, progress=False, **settings)


if __name__ == "__main__":
    main()
