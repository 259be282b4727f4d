"""Which problems to try next: drawn evenly, by learnability, or tried until enough groups teach (dynamic sampling).

    python benchmarks/learnable.py OUT [--tokens 200000] [--seeds 3]
    python benchmarks/learnable.py OUT --gsm8k IMITATION FOLDER --tokens 300000 --seeds 1

The three learn from one weak start, for as many tokens of their own each. The start is the pocket model after forty
steps of imitation, not 235: it solves some 4 % of its attempts, and six problems of ten never in sixteen. Or it is the
run of imitation of examples/gsm8k, and FOLDER has GSM8K's train.jsonl and test.jsonl; then all 1,319 test problems are
held out, and tried at the start and at the end alone, since that takes a third as long as the training. Prints held-out
greedy accuracy, mean and range over seeds. What is done is skipped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from filelock import FileLock
from kept_runs import LITTLE, Journal, train, upslope

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


def weak_start(out: Path) -> str:
    """The pocket model's imitation with fewer steps. Its folder."""
    usual = pocket_stage("sft")
    words = ["--model", "pocket:pretrained", "--recipe", "sft", f"steps={IMITATION}", f"problems={usual.problems}"]
    words += [f"recipe.sample.replay={usual.recipe['sample']['replay']}", f"learn.lr={usual.learn.lr}"]
    words += [f"learn.warmup={usual.learn.warmup}", f"learn.decay={usual.learn.decay}", "learn.dtype=float32"]
    train(out, "start", [*words, "--task", "pocket", "eval.problems=0", "save.every=0", *LITTLE])
    return str(out / "start")


def from_pocket(out: Path) -> list[str]:
    """How every arm learns pocket."""
    words = ["--model", weak_start(out), "--task", "pocket", "--recipe", "grpo", "recipe.regulariser=no_penalty"]
    words += ["recipe.sample.group_size=8", "problems=32", "eval.every=2", "eval.problems=1056", "save.every=0"]
    return words


def from_imitation(start: str, data: str) -> list[str]:
    """How every arm learns GSM8K: as examples/gsm8k/rl.toml says, at one rate throughout, since the arms make different
    numbers of steps of the same tokens."""
    words = [str(HERE / "examples" / "gsm8k" / "rl.toml"), f"model={start}", "--data", data]
    return [*words, "learn.decay=constant", "eval.problems=0", "save.every=2"]


def accuracy(out: Path, name: str, run: str) -> float:
    """Greedy, of all test problems: measured once, and kept in a file."""
    file = out / f"{name}.eval.json"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            attempts = ["--attempts", str(out / f"{name}.attempts.jsonl")]
            file.write_text(upslope(["eval", run, "--problems", "1319", "--json", *attempts]))
    return float(json.loads(file.read_text())["greedy"]["value"])


def curve(journal: Journal, tokens: int) -> list[tuple[int, float]]:
    """(tokens so far, greedy accuracy) at the start and at each of ``POINTS``: of the first evaluation after as many
    tokens."""
    evals = [(spent(journal[:n]), row["greedy"]["value"]) for n, row in enumerate(journal) if "greedy" in row]
    return [next((e for e in evals if e[0] >= share * tokens), evals[-1]) for share in (0.0, *POINTS)]


def ends(out: Path, start: str, name: str, journal: Journal) -> list[tuple[int, float]]:
    """The two ends of such a curve, where a run does not evaluate itself."""
    return [(0, accuracy(out, "start", start)), (spent(journal), accuracy(out, name, str(out / name)))]


def spent(journal: Journal) -> int:
    """Tokens of all attempts."""
    return sum(row["num_tokens"] for row in journal if row["kind"] == "step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=ARMS, nargs="+", default=list(ARMS), help="to run two side by side")
    parser.add_argument("--gsm8k", nargs=2, metavar=("IMITATION", "FOLDER"), help="in place of pocket")
    given = parser.parse_args()
    common = from_imitation(*given.gsm8k) if given.gsm8k else from_pocket(given.out)
    common += [f"tokens={given.tokens}", "steps=1000000", *LITTLE]
    for arm in given.only:
        names = [f"{arm}-{seed}" for seed in range(given.seeds)]
        journals = [train(given.out, n, [*common, "--seed", str(seed), *ARMS[arm]]) for seed, n in enumerate(names)]
        if given.gsm8k:
            curves = [ends(given.out, given.gsm8k[0], *run) for run in zip(names, journals, strict=True)]
        else:
            curves = [curve(journal, given.tokens) for journal in journals]
        steps = [[row for row in journal if row["kind"] == "step"] for journal in journals]
        taught = [sum(row["num_learned"] for row in rows) / sum(row["num_rollouts"] for row in rows) for rows in steps]
        print(f"{arm:10} steps {mean(map(len, steps)):.0f}, attempts that taught {mean(taught):.0%}")
        for reached in zip(*curves, strict=True):
            tokens, values = zip(*reached, strict=True)
            print(f"    after {mean(tokens):9,.0f} tokens {spread(values)}")


def mean(values: Any) -> float:
    listed = list(values)
    return float(sum(listed) / len(listed))


def spread(values: tuple[float, ...]) -> str:
    return f"{mean(values):.1%} ({min(values):.1%} to {max(values):.1%})"


if __name__ == "__main__":
    main()
