"""Whether the cost of a step is proportional to its tokens, and memory to the length of an attempt: upslope alone.

    python benchmarks/linear.py MODEL_DIR train.jsonl [--shapes 2x8x128,4x8x128,...] [--lengths 64,128,...]

Every row is ``upslope bench`` in a process of its own: the best of some whole steps (sampling, learning, optimizer),
attempts of exactly L tokens, and the most memory the process has held.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common import Result, parser, run_json, show_ceilings, sizes

SHAPES = "2x8x128,4x8x128,8x8x128,16x8x128"
LENGTHS = "64,128,256,512"


def bench(options: argparse.Namespace, shape: str, repeat: int) -> Result:
    sizes(shape)
    words = ["--model", options.model, "--data", options.data, "--task", "gsm8k", "--shape", shape]
    words += ["--repeat", str(repeat), "--recipe", options.recipe, "--json"]
    own = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-m", "upslope.cli", "bench", *words]
    return run_json(command, threads=options.threads, env={"PYTHONPATH": own})


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--shapes", default=SHAPES, help=f"(default {SHAPES})")
    arguments.add_argument("--lengths", default=LENGTHS, help=f"of 8 attempts at 1 problem (default {LENGTHS})")
    arguments.add_argument("--recipe", default="reinforce-baseline")
    options = arguments.parse_args()
    show_ceilings(options.threads)
    print("\n| shape | tokens | seconds a step | milliseconds a token | rollouts, tokens/s | learning, tokens/s |")
    print("|---|---|---|---|---|---|")
    for shape in options.shapes.split(","):
        found = bench(options, shape, options.rounds)
        num_tokens, seconds = found["rollout"]["tokens"], found["step"]["seconds"]
        rates = f"{found['rollout']['tokens_per_s']:.0f} | {found['learn']['response_tokens_per_s']:.0f}"
        print(f"| {shape} | {num_tokens:,} | {seconds:.2f} | {1000 * seconds / num_tokens:.2f} | {rates} |", flush=True)
    print("\n| shape | peak GB | more than the row above, MB | for a token more of 8 attempts, MB |\n|---|---|---|---|")
    before: tuple[int, float] | None = None
    for length in map(int, options.lengths.split(",")):
        peak = bench(options, f"1x8x{length}", 1)["step"]["peak_gb"]
        more = (peak - before[1]) * 1000 if before else 0.0
        each = more / (length - before[0]) if before else 0.0
        told = f"{more:.0f} | {each:.2f}" if before else " | "
        print(f"| 1x8x{length} | {peak:.3f} | {told} |", flush=True)
        before = (length, peak)


if __name__ == "__main__":
    main()
