"""Which problems to try next: drawn evenly, by learnability, or tried until enough groups teach (dynamic sampling).

    python benchmarks/learnable.py OUT [--tokens 200000] [--seeds 3]
    python benchmarks/learnable.py OUT --gsm8k IMITATION FOLDER --tokens 300000 --seeds 1

The three learn from one weak start, for as many tokens of their own each. The start is the pocket model after forty
steps of imitation, not 235: it solves some 4 % of its attempts, and six problems of ten never in sixteen. Or it is the
run of imitation of examples/gsm8k, and FOLDER has GSM8K's train.jsonl and test.jsonl; then all 1,319 test problems are
held out. Prints held-out greedy accuracy along the way, mean and range over seeds. What is done is skipped.
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
HERE = Path(__file__).resolve().parent.parent
ARMS = {
    "uniform": ["recipe.sample.kind=attempts"],
    "learnable": ["recipe.sample.kind=learnable"],
    "dynamic": ["recipe.sample.kind=attempts", "recipe.sample.keep=mixed", "recipe.sample.refill=8"],
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
            command += [*words, "--out", str(out), "--name", name, "save.rollouts=0", "save.keep=1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        done.touch()
    return [json.loads(line) for line in (out / name / "journal.jsonl").read_text().splitlines()]


def weak_start(out: Path) -> str:
    """The pocket model's imitation with fewer steps. Its folder."""
    usual = pocket_stage("sft")
    words = ["--model", "pocket:pretrained", "--recipe", "sft", f"steps={IMITATION}", f"problems={usual.problems}"]
    words += [f"recipe.sample.replay={usual.recipe['sample']['replay']}", f"learn.lr={usual.learn.lr}"]
    words += [f"learn.warmup={usual.learn.warmup}", f"learn.decay={usual.learn.decay}", "learn.dtype=float32"]
    train(out, "start", *words, "--task", "pocket", "eval.problems=0", "save.every=0")
    return str(out / "start")


def from_pocket(out: Path) -> list[str]:
    """How every arm learns pocket."""
    words = ["--model", weak_start(out), "--task", "pocket", "--recipe", "grpo", "recipe.regulariser=no_penalty"]
    words += ["recipe.sample.group_size=8", "problems=32", "eval.every=2", "eval.problems=1056", "save.every=0"]
    return words


def from_imitation(start: str, data: str) -> list[str]:
    """How every arm learns GSM8K: as examples/gsm8k/rl.toml says, at one rate throughout, since the arms make different
    numbers of steps of the same tokens."""
    words = [str(HERE / "examples" / "gsm8k" / "rl.toml"), f"model={start}", "--data", data, "learn.lr=2e-5"]
    words += ["learn.decay=constant", "eval.every=4", "eval.problems=1319", "save.every=2"]
    return words


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
    parser.add_argument("--gsm8k", nargs=2, metavar=("IMITATION", "FOLDER"), help="in place of pocket")
    given = parser.parse_args()
    common = from_imitation(*given.gsm8k) if given.gsm8k else from_pocket(given.out)
    common += [f"tokens={given.tokens}", "steps=1000000"]
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
