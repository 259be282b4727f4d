"""How far each step moves the policy, with a trust region and without: 50 steps of ``trpo`` beside ``importance`` at
the same reuse (one update a batch), from the same start. Writes OUT/trust_region.png and prints a summary.

    python benchmarks/trust_region.py OUT [--steps 50] [--model pocket]

Both are ordinary runs whose exact mean KL(before || after) is measured at every step (learn.measure_every=1).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ARMS = {
    "trpo": ["--recipe", "trpo"],
    "importance": ["--recipe", "importance", "recipe.reuse.epochs=1"],
}
COLOURS = {"trpo": "#0072B2", "importance": "#D55E00"}


def train(out: Path, name: str, words: list[str], steps: int, model: str) -> list[dict[str, Any]]:
    """The journal's steps of a run, made if it is not there."""
    if not (out / name / "journal.jsonl").exists():
        command = [sys.executable, "-m", "upslope.cli", "train", "--plain", "--task", "pocket", "--model", model]
        command += ["--out", str(out), "--name", name, "--steps", str(steps), "save.rollouts=0"]
        subprocess.run([*command, "learn.measure_every=1", *words], check=True, stdout=subprocess.DEVNULL)
    return [json.loads(line) for line in (out / name / "journal.jsonl").read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--model", default="pocket")
    arguments = parser.parse_args()
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for name, words in ARMS.items():
        rows = train(arguments.out, name, words, arguments.steps, arguments.model)
        steps = [row for row in rows if row["kind"] == "step"]
        reached = [row["kl_step"] for row in steps]
        axes.plot([row["step"] for row in steps], reached, "o-", ms=3, color=COLOURS[name], label=name)
        first, last = (row["greedy"]["value"] for row in (rows[0], rows[-1]))
        print(f"{name}: {first:.1%} -> {last:.1%} held out; KL a step {min(reached):.5f} to {max(reached):.5f}")
        if name == "trpo":
            budget = steps[0]["kl_budget"]
            axes.axhline(budget, color="black", lw=1, ls="--", label=f"trpo's budget, {budget:g}")
            short = [row for row in steps if row["kl_step"] < budget / 2]
            print(f"  over budget: {sum(r > budget for r in reached)}; under half of it: {len(short)} of {len(steps)}")
            for row in short:
                facts = ("kl_step", "backtracks", "over_budget", "no_gain", "refused", "negative_curvature")
                print(f"    step {row['step']}: " + ", ".join(f"{k}={row[k]:.3g}" for k in facts if k in row))
    axes.set(xlabel="step", ylabel="exact mean KL(before || after), nats a token", yscale="log")
    axes.legend()
    figure.savefig(arguments.out / "trust_region.png", dpi=130)


if __name__ == "__main__":
    main()
