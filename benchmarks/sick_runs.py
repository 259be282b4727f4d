"""Does `upslope why` name what is wrong? Twelve runs on pocket, each made sick by one setting, and three healthy ones.

    python benchmarks/sick_runs.py OUT [--steps 20] [--more] [--only NAME ...] [--start FOLDER]

Prints a table: what each run suffers from, what is said first, and what else is said. Runs that are done in OUT
already are judged anew and not trained again. `--more`: other runs with the same sicknesses, from other causes.
`--start`: a folder whose `pretrained` and `sft` are the stages of the pocket model; without it they are made, or come
from the cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sick_parts import (
    Fixed,
    Judged,
    Lagging,
    Other,
    Stale,
    Warm,
    by_brevity,
    by_closeness,
    by_digit,
    by_problem,
    by_sums,
    by_words,
    constant,
)

import upslope as up
from upslope.inspect.why.command import found_in
from upslope.record import checkpoint


def regulariser(recipe: str, kind: str, coefficient: float, **more: Any) -> dict[str, Any]:
    return {"recipe": {"name": recipe, "regulariser": {"kind": kind, "coefficient": coefficient} | more}}


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "rate": ("rate too high", {"learn": {"lr": 1e-2}}),
    "temperature": ("temperature too low", {"sample": {"temperature": 0.05}}),
    "limit": ("limit too short", {"sample": {"max_tokens": 5}}),
    "zero": ("reward always 0", {"task": Judged("zero", constant(0.0))}),
    "one": ("reward always full", {"task": Judged("one", constant(1.0))}),
    "words": ("reward is hacked", {"task": Judged("words", by_words), "learn": {"lr": 1e-3}}),
    "unmixed": ("no mixed groups", {"task": Judged("problem", by_problem)}),
    "stale": ("sampler and learner disagree", {"sampler": Stale, "learn": {"lr": 1e-3}}),
    "format": ("format missed", {"model": "pretrained"}),
    "critic": ("critic explains nothing", {"recipe": {"name": "ppo", "critic": {"rate": 1e-6, "warmup": 0}}}),
    "entropy": ("entropy runs away", regulariser("reinforce-baseline", "entropy_bonus", 1.0)),
    "penalty": ("penalty too strong", regulariser("grpo", "k3", 100.0)),
    "healthy-grpo": ("nothing", {"recipe": "grpo"}),
    "healthy-dapo": ("nothing", {"recipe": "dapo"}),
    "healthy-baseline": ("nothing", {}),
}
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "rate-grpo": ("rate too high", {"recipe": "grpo", "learn": {"lr": 5e-3}}),
    "rate-ppo": ("rate too high", {"recipe": "ppo", "learn": {"lr": 3e-2}}),
    "temperature-grpo": ("temperature too low", {"recipe": "grpo", "sample": {"temperature": 0.2}}),
    "limit-9": ("limit too short", {"recipe": "grpo", "sample": {"max_tokens": 9}}),
    "minus-one": ("reward always 0", {"task": Judged("minus", constant(-1.0))}),
    "half": ("no mixed groups", {"task": Judged("half", constant(0.5))}),
    "digit": ("reward is hacked", {"task": Judged("digit", by_digit), "learn": {"lr": 1e-3}}),
    "sums": ("reward is hacked", {"task": Judged("sums", by_sums), "learn": {"lr": 1e-3}}),
    "rare": ("no mixed groups", {"task": Judged("rare", by_problem), "recipe": "dr-grpo"}),
    "lagging": ("sampler and learner disagree", {"sampler": Lagging, "recipe": "grpo"}),
    "warm": ("sampler and learner disagree", {"sampler": Warm}),
    "other-form": ("format missed", {"task": Other()}),
    "critic-wild": ("critic explains nothing", {"recipe": {"name": "ppo", "critic": {"rate": 1e4, "warmup": 0}}}),
    "entropy-grpo": ("entropy runs away", regulariser("grpo", "entropy_bonus", 3.0)),
    "penalty-k1": ("penalty too strong", regulariser("rloo", "k1", 20.0, place="reward")),
    "penalty-k2": ("penalty too strong", regulariser("reinforce-baseline", "k2", 30.0)),
    "healthy-ppo": ("nothing", {"recipe": "ppo"}),
    "healthy-rloo": ("nothing", {"recipe": "rloo", "seed": 1}),
    "healthy-gspo": ("nothing", {"recipe": "gspo", "seed": 2}),
    "healthy-fixed": ("nothing", {"task": Fixed()}),
    "healthy-quick": ("nothing", {"learn": {"lr": 1e-3}}),
    "healthy-rft": ("nothing", {"recipe": "rft"}),
    "healthy-trpo": ("nothing", {"recipe": "trpo"}),
    "healthy-graded": ("nothing", {"task": Judged("graded", by_closeness)}),
    "critic-short": ("critic explains nothing", {"recipe": {"name": "ppo", "critic": {"rate": 1e-3, "warmup": 4}}}),
    "entropy-less": ("entropy runs away", regulariser("reinforce-baseline", "entropy_bonus", 0.5)),
    "rate-trifle": ("rate too high", {"learn": {"lr": 1e-1, "warmup": 0}}),
    "empty": ("reward is hacked", {"task": Judged("short", by_brevity), "learn": {"lr": 1e-3}}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--more", action="store_true")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--start", type=Path)
    given = parser.parse_args()
    known = RUNS | MORE
    right, names = 0, given.only or list(MORE if given.more else RUNS)
    print("| run | suffers from | said first | also said |\n|---|---|---|---|")
    for name in names:
        sickness, patch = known[name]
        folder = given.out / name
        if not (folder / "report.done").exists():
            train(folder, given.steps, patch, given.start)
            (folder / "report.done").touch()
        said = [found.rule for found in found_in(folder)] or ["nothing"]
        right += said[0] == sickness
        print(f"| {name} | {sickness} | {said[0]} | {', '.join(said[1:])} |", flush=True)
    print(f"\n{right} of {len(names)} are named first, or left in peace.")


def train(folder: Path, steps: int, patch: Mapping[str, Any], start: Path | None) -> None:
    """One short run of 8 problems x 8 attempts."""
    settings: dict[str, Any] = {
        "model": "sft",
        "task": up.tasks.pocket(),
        "recipe": "reinforce-baseline",
        "problems": 8,
        "eval": {"problems": 32, "every": 12},
        "save": {"every": 0},
    } | dict(patch)
    recipe = settings.pop("recipe")
    recipe = {"name": recipe} if isinstance(recipe, str) else recipe
    recipe = recipe | {"sample": {"group_size": 8}}
    model = begun(settings.pop("model"), start)
    up.train(model, recipe=recipe, steps=steps, folder=folder, progress=False, **settings)


def begun(stage: str, start: Path | None) -> str:
    """The model that a run begins with."""
    if start is None:
        return f"pocket:{stage}"
    saved = checkpoint.newest(start / stage / "checkpoints")
    if saved is None:
        raise SystemExit(f"{start / stage} has no checkpoint")
    return str(saved.folder)


if __name__ == "__main__":
    main()
