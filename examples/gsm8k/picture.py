"""The real run as a picture: rewards of the attempts while it learns, and what each stage solves of the held-out
problems. run.py writes it to OUT/picture.png; `python examples/gsm8k/picture.py OUT` draws it again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
SMOOTH = 8
"""Steps that a point of the curve is the mean of."""
ALONE = "-alone"
"""How the name of an evaluation without the calculator ends."""
SHOWN = (
    ("", "greedy", ORANGE, "strict"),
    ("", "lenient", GREY, "lenient"),
    (ALONE, "greedy", BLUE, "strict, without the calculator"),
)
"""What is shown of a stage: the file's ending, the share in it, its colour and its name."""


def draw(out: Path) -> Path:
    """The picture of what is in the folder ``out`` of run.py."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    runs = sorted(folder for folder in out.glob("rl-*") if (folder / "journal.jsonl").exists())
    for run in runs:
        lines = (run / "journal.jsonl").read_text().splitlines()
        rewards = [row["reward"] for row in map(json.loads, lines) if row["kind"] == "step"]
        left.plot(smoothed(rewards), color=BLUE, alpha=0.8, lw=1.5)
    left.set(xlabel="step", ylabel=f"reward of the attempts, mean of {SMOOTH} steps")
    left.set_ylim(bottom=0)
    left.set_title("Reinforcement learning, a line a seed", fontsize=10)

    stages = {"start": "as it comes", "sft": "imitation"} | {
        run.name: run.name.replace("rl-", "RL,\nseed ") for run in runs
    }
    for place, (ending, key, colour, name) in enumerate(SHOWN):
        label: str | None = name  # once
        for x, stage in enumerate(stages):
            if (file := out / f"{stage}{ending}.json").exists():
                shift = 0.15 * (place - 1)
                bar(right, x + shift, json.loads(file.read_text())[key], colour, label)
                label = None
    right.set_xticks(range(len(stages)), list(stages.values()), fontsize=8)
    right.set(ylabel="held-out problems solved, greedy (%)")
    right.set_ylim(bottom=0)
    right.set_title("Held out, with 95 % intervals", fontsize=10)
    if right.get_legend_handles_labels()[0]:
        right.legend(frameon=False, fontsize=8)
    figure.savefig(out / "picture.png", dpi=130)
    plt.close(figure)
    return out / "picture.png"


def bar(axes: Any, x: float, share: dict[str, float], colour: str, label: str | None) -> None:
    """A share and its interval, in percent."""
    value, low, high = (100 * share[key] for key in ("value", "low", "high"))
    axes.errorbar(x, value, yerr=[[value - low], [high - value]], fmt="o", color=colour, capsize=3, label=label)


def smoothed(values: list[float]) -> list[float]:
    """The mean of each value and those before it, ``SMOOTH`` at most."""
    return [sum(values[max(0, i + 1 - SMOOTH) : i + 1]) / min(i + 1, SMOOTH) for i in range(len(values))]


if __name__ == "__main__":
    print(draw(Path(sys.argv[1])))
