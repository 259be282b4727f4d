"""Which problems to try next: drawn evenly, by learnability, or tried until enough groups teach (dynamic sampling).

    python benchmarks/learnable.py OUT [--tokens 200000] [--seeds 3]

The three learn from one weak start, for as many tokens of their own each. The start is the pocket model after forty
steps of imitation, not 235: it solves some 4 % of its attempts, and six problems of ten never in sixteen. Prints
held-out greedy accuracy along the way, mean and range over seeds. What is done is skipped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from upslope.training.pocket_start import pocket_stage

IMITATION = 40
"""Steps, of 40 texts."""
ARMS = {
    "uniform": [],
    "learnable": ["recipe.sample.kind=learnable"],
    "dynamic": ["recipe.sample.keep=mixed", "recipe.sample.refill=8"],
}
POINTS = (0.25, 0.5, 1.0)
"""Of the budget of tokens, where accuracy is told."""


def train(out: Path, name: str, *words: str) -> list[dict[str, Any]]:
    """The journal of a run, made if it is not there, and gone on with if it was stopped. Ends the script if it was made
    with other words."""
    asked, done = out / f"{name}.json", out / name / "done"
    out.mkdir(parents=True, exist_ok=True)
    if asked.exists() and json.loads(asked.read_text()) != list(words):
        raise SystemExit(f"{out / name} was made with other settings; choose another OUT")
    if not done.exists():
        asked.write_text(json.dumps(words))
        command = [sys.executable, "-m", "upslope.cli", "train", "--plain"]
        if (out / name / "run.toml").exists():
            command += ["--resume", str(out / name)]
        else:
            command += ["--task", "pocket", "--out", str(out), "--name", name]
            command += ["save.rollouts=0", "save.every=0", "save.keep=1", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        done.touch()
    return [json.loads(line) for line in (out / name / "journal.jsonl").read_text().splitlines()]


def weak_start(out: Path) -> str:
    """The pocket model's imitation with fewer steps. Its folder."""
    usual = pocket_stage("sft")
    words = ["--model", "pocket:pretrained", "--recipe", "sft", f"steps={IMITATION}", f"problems={usual.problems}"]
    words += [f"recipe.sample.replay={usual.recipe['sample']['replay']}", f"learn.lr={usual.learn.lr}"]
    words += [f"learn.warmup={usual.learn.warmup}", f"learn.decay={usual.learn.decay}", "learn.dtype=float32"]
    train(out, "start", *words, "eval.problems=0")
    return str(out / "start")


def curve(journal: list[dict[str, Any]], tokens: int) -> list[float]:
    """Greedy accuracy at the start and at each of ``POINTS``: of the first evaluation after as many tokens."""
    spent, found, evals = 0, [], []
    for row in journal:
        if row["kind"] == "step":
            spent += row["num_tokens"]
        if "greedy" in row:
            evals.append((spent, row["greedy"]["value"]))
    for share in (0.0, *POINTS):
        found.append(next((value for at, value in evals if at >= share * tokens), evals[-1][1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    start = weak_start(given.out)
    common = ["--model", start, "--recipe", "grpo", "recipe.regulariser=no_penalty", "recipe.sample.group_size=8"]
    common += ["problems=32", f"tokens={given.tokens}", "steps=1000000", "eval.every=2", "eval.problems=1056"]
    for arm, words in ARMS.items():
        journals = [
            train(given.out, f"{arm}-{seed}", *common, "--seed", str(seed), *words) for seed in range(given.seeds)
        ]
        curves = [curve(journal, given.tokens) for journal in journals]
        steps = [[row for row in journal if row["kind"] == "step"] for journal in journals]
        taught = [sum(row["num_learned"] for row in rows) / sum(row["num_rollouts"] for row in rows) for rows in steps]
        print(f"{arm:10} steps {mean(map(len, steps)):.0f}, attempts that taught {mean(taught):.0%}")
        for share, values in zip((0.0, *POINTS), zip(*curves, strict=True), strict=True):
            print(f"    after {share * given.tokens:7,.0f} tokens {spread(values)}")


def mean(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def spread(values: tuple[float, ...]) -> str:
    return f"{mean(values):.1%} ({min(values):.1%} to {max(values):.1%})"


if __name__ == "__main__":
    main()
