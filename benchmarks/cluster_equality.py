"""The same run in one process and in several: how far the weights are apart, and what a step takes.

    python benchmarks/cluster_equality.py OUT [--model pocket:sft] [--recipes grpo ppo dapo] [--steps 10] [--problems 8]

Prints, for every recipe and shape, the largest difference of a weight from the run in one process after all steps, the
largest in the loss of the first step, the median second of a step, and the most memory that each process was seen to
hold (resident, in GB; torch's own 0.3 GB are in each). What is done is skipped, and its memory is told again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from kept_runs import LITTLE, train
from safetensors.torch import load_file

SHAPES = {
    "one process": [],
    "1 sampler + 1 learner": ["cluster.samplers=1"],
    "2 samplers + 2 learners": ["cluster.samplers=2", "cluster.ranks=2"],
    "2 learners in shards": ["cluster.ranks=2", "cluster.shard=true"],
}

FIRST = "the first learner"
ACTOR = re.compile(r"ray::(\w+)")
LEARNER, SAMPLER = "Follower", "SamplerWorker"
"""The classes of a run's other processes, by which Ray names them."""


@contextlib.contextmanager
def memory_of(name: str, found: dict[str, float]) -> Iterator[None]:
    """Looks, ten times a second, what the run of this name and its actors hold; ``found`` gets the most of each."""
    over, since = threading.Event(), time.time()

    def look() -> None:
        while not over.wait(0.1):
            for process in psutil.process_iter(["pid", "cmdline", "memory_info", "create_time"]):
                words, held = process.info["cmdline"] or [""], process.info["memory_info"]
                if process.info["create_time"] < since - 1 or held is None:
                    continue
                actor = ACTOR.match(words[0])
                if actor and actor[1] in (LEARNER, SAMPLER):
                    who = f"{actor[1]} {process.info['pid']}"
                elif "upslope.cli" in words and name in words:
                    who = FIRST
                else:
                    continue
                found[who] = max(found.get(who, 0.0), held.rss / 1e9)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def trained(out: Path, name: str, words: list[str]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The journal of a run and the memory of its processes; both are kept."""
    kept = out / f"{name}-memory.json"
    found: dict[str, float] = {}
    with memory_of(name, found):
        journal = train(out, name, [*words, *LITTLE])
    if found:
        kept.write_text(json.dumps(found))
    return journal, json.loads(kept.read_text()) if kept.exists() else {}


def told(memory: dict[str, float]) -> str:
    """Learners first, then samplers."""
    learners = [memory[FIRST]] if FIRST in memory else []
    learners += [gb for who, gb in memory.items() if who.startswith(LEARNER)]
    samplers = [gb for who, gb in memory.items() if who.startswith(SAMPLER)]
    parts = [", ".join(f"{gb:.2f}" for gb in part) for part in (learners, samplers) if part]
    return " + ".join(parts)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--model", default="pocket:sft")
    options.add_argument("--recipes", nargs="+", default=["grpo", "ppo", "dapo"])
    options.add_argument("--steps", type=int, default=10)
    options.add_argument("--problems", type=int, default=8)
    given = options.parse_args()
    print("| recipe | shape | weights apart by | first loss apart by | seconds a step | GB, learners + samplers |")
    print("|---|---|---|---|---|---|")
    for recipe in given.recipes:
        words = ["--model", given.model, "--recipe", recipe, f"steps={given.steps}", f"problems={given.problems}"]
        words += ["eval.problems=0", "threads=1", "learn.dtype=float32"]
        if recipe == "ppo":  # its critic begins alone, and for fewer updates here, so that the policy moves too
            words.append("recipe.critic.warmup=8")
        alone = None
        for place, (shape, more) in enumerate(SHAPES.items()):
            name = f"{recipe}-{place}"
            journal, memory = trained(given.out, name, [*words, *more])
            rows = [row for row in journal if row["kind"] == "step"]
            folder = max((given.out / name / "checkpoints").glob("step-*"))
            weights = load_file(folder / "model.safetensors")
            alone = alone or (weights, rows[0]["loss"])
            apart = max(float((weights[n] - w).abs().max()) for n, w in alone[0].items())
            seconds = statistics.median(sum(row["seconds"].values()) for row in rows)
            loss = abs(rows[0]["loss"] - alone[1])
            print(f"| {recipe} | {shape} | {apart:.1e} | {loss:.1e} | {seconds:.2f} | {told(memory)} |", flush=True)


if __name__ == "__main__":
    main()
