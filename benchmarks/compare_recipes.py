"""Recipes side by side on pocket: the same start, the same wall time, several seeds. Writes a Markdown table.

    python benchmarks/compare_recipes.py OUT [--seeds 3] [--minutes 2] [--jobs 2]

Every arm is an ordinary ``upslope train`` in a process of its own (one thread each, ``--jobs`` at a time); all arms of
a seed start from the same supervised model. The table gives held-out greedy accuracy, mean and range over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ARMS: dict[str, list[str]] = {
    "reinforce-baseline": ["recipe=reinforce-baseline"],
    "grpo": ["recipe=grpo"],
    "reinforce": ["recipe=reinforce"],
    "rft": ["recipe=rft"],
    "more sft": ["recipe=sft", "recipe.sample.replay=0.2", "problems=40", "save.rollouts=0"],
}
NO_LIMIT = 100_000


def train(out: Path, name: str, seed: int, settings: list[str]) -> None:
    """One run in a process of its own; its output goes to ``out/name.log``."""
    command = [sys.executable, "-m", "upslope.cli", "train", "--plain", "--seed", str(seed), "--name", name]
    command += ["--out", str(out), "eval.every=0", "save.rollouts=0", "save.every=0", "save.keep=1", *settings]
    with (out / f"{name}.log").open("w") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, env=environment)


def rows(out: Path, name: str, kind: str) -> list[dict]:
    lines = (out / name / "journal.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def spread(values: list[float]) -> str:
    return f"{sum(values) / len(values):.1%} ({min(values):.1%} to {max(values):.1%})"


def table(out: Path, seeds: range, arms: dict[str, list[str]]) -> str:
    lines = ["| recipe | greedy before | greedy after | sampled after (pass@1) | steps |", "|---|---|---|---|---|"]
    for arm in arms:
        names = [f"{arm.replace(' ', '-')}-{seed}" for seed in seeds]
        evals = [rows(out, name, "eval") for name in names]
        steps = [len(rows(out, name, "step")) for name in names]
        before, after = ([e[i]["greedy"]["value"] for e in evals] for i in (0, -1))
        sampled = [e[-1]["pass_at"]["1"]["value"] for e in evals]
        count = f"{min(steps)} to {max(steps)}"
        lines.append(f"| {arm} | {spread(before)} | {spread(after)} | {spread(sampled)} | {count} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    seeds, arms = range(arguments.seeds), {a: ARMS[a] for a in arguments.arms}
    budget = [f"steps={NO_LIMIT}", f"minutes={arguments.minutes}", f"learn.lr={arguments.lr}", "eval.samples=4"]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        starts = [pool.submit(train, arguments.out, f"start-{s}", s, ["steps=1", "eval.problems=8"]) for s in seeds]
        for start in starts:
            start.result()  # the imitation stages are in the cache from here on
        runs = [
            pool.submit(train, arguments.out, f"{arm.replace(' ', '-')}-{seed}", seed, [*settings, *budget])
            for seed in seeds
            for arm, settings in arms.items()
        ]
        for run in runs:
            run.result()
    text = table(arguments.out, seeds, arms)
    (arguments.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
