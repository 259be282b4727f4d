"""Samplers that go on while the learner learns: what stale attempts cost, and what weighing them gives back.

    python benchmarks/staleness.py OUT [--staleness 0 1 2 4 8] [--seeds 3] [--steps 60] [--problems 16]

Pocket after imitation, grpo with two updates a batch, one sampler and one learner in processes of their own. Every arm
learns from as many problems and attempts, with and without weights from the sampler's to the learner's policy. Prints
held-out greedy accuracy, mean and range over seeds, the median second of a step, the age of tokens, the share of
bounded weights and the effective share of the batch. What is done is skipped.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from kept_runs import LITTLE, train


def mean(rows: list[dict[str, Any]], key: str) -> float:
    """Of the steps that have it; NaN if none has."""
    found = [row[key] for row in rows if row["kind"] == "step" and row.get(key) is not None]
    return statistics.fmean(found) if found else float("nan")


def told(journals: list[list[dict[str, Any]]]) -> str:
    """One arm's cells: accuracy over seeds, and means over its steps."""
    ends = [[row["greedy"]["value"] for row in rows if row["kind"] == "eval"][-1] for rows in journals]
    rows = [row for journal in journals for row in journal]
    seconds = statistics.median(sum(row["seconds"].values()) for row in rows if row["kind"] == "step")
    spread = f"{100 * statistics.fmean(ends):.1f} % ({100 * min(ends):.1f} to {100 * max(ends):.1f})"
    ages = f"{mean(rows, 'age_mean'):.2f} | {max((r.get('age_max') or 0) for r in rows):.0f}"
    return (
        f"{spread} | {seconds:.2f} | {ages} | {mean(rows, 'correction_cut'):.4f} | {mean(rows, 'effective_share'):.3f}"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--problems", type=int, default=16)
    given = options.parse_args()
    print("| staleness | correction | greedy, held out | seconds a step | age, mean | most | bounded | effective |")
    print("|---|---|---|---|---|---|---|---|")
    for staleness in given.staleness:
        for correction in ("no_correction", "truncated_weights") if staleness else ("no_correction",):
            journals = []
            for seed in range(given.seeds):
                words = ["--model", "pocket:sft", "--recipe", "grpo", f"steps={given.steps}", f"seed={seed}"]
                words += [f"problems={given.problems}", "recipe.reuse.minibatches=2", "eval.problems=256"]
                words += [f"recipe.correction={correction}", "cluster.samplers=1", f"cluster.staleness={staleness}"]
                words += ["threads=1", "learn.dtype=float32", "learn.warmup=0"]
                journals.append(train(given.out, f"s{staleness}-{correction}-{seed}", [*words, *LITTLE]))
            print(f"| {staleness} | {correction} | {told(journals)} |", flush=True)


if __name__ == "__main__":
    main()
