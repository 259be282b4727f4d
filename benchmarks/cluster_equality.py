"""The same run in one process and in several: how far the weights are apart, and what a step takes.

    python benchmarks/cluster_equality.py OUT [--model pocket:sft] [--recipes grpo ppo dapo] [--steps 10] [--problems 8]

Prints, for every recipe and shape, the largest difference of a weight from the run in one process after all steps, the
largest in the loss of the first step, and the median second of a step. What is done is skipped.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from learnable import train
from safetensors.torch import load_file

SHAPES = {
    "one process": [],
    "1 sampler + 1 learner": ["cluster.samplers=1"],
    "2 samplers + 2 learners": ["cluster.samplers=2", "cluster.ranks=2"],
    "2 learners in shards": ["cluster.ranks=2", "cluster.shard=true"],
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--model", default="pocket:sft")
    options.add_argument("--recipes", nargs="+", default=["grpo", "ppo", "dapo"])
    options.add_argument("--steps", type=int, default=10)
    options.add_argument("--problems", type=int, default=8)
    given = options.parse_args()
    print("| recipe | shape | weights apart by | first loss apart by | seconds a step |\n|---|---|---|---|---|")
    for recipe in given.recipes:
        words = ["--model", given.model, "--recipe", recipe, f"steps={given.steps}", f"problems={given.problems}"]
        words += ["eval.problems=0", "threads=1", "learn.dtype=float32"]
        if recipe == "ppo":  # its critic begins alone, and for fewer updates here, so that the policy moves too
            words.append("recipe.critic.warmup=8")
        alone = None
        for place, (shape, more) in enumerate(SHAPES.items()):
            name = f"{recipe}-{place}"
            rows = [row for row in train(given.out, name, *words, *more) if row["kind"] == "step"]
            folder = max((given.out / name / "checkpoints").glob("step-*"))
            weights = load_file(folder / "model.safetensors")
            alone = alone or (weights, rows[0]["loss"])
            apart = max(float((weights[n] - w).abs().max()) for n, w in alone[0].items())
            seconds = statistics.median(sum(row["seconds"].values()) for row in rows)
            loss = abs(rows[0]["loss"] - alone[1])
            print(f"| {recipe} | {shape} | {apart:.1e} | {loss:.1e} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
