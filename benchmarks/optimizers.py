"""Muon and AdamW at equal steps: a new model learns a text, and is measured on documents of it that it never sees.

    python benchmarks/optimizers.py OUT --text FILE... [--vocab 4096] [--depth 4] [--steps 64] [--seeds 3]

A tokenizer is made of the text. Each optimizer tries its rates for half the steps with the first seed, and the one with
the fewest bits per byte goes on to all seeds at full length. Everything else is equal: the weights at the start and the
order of the text (both by the seed), 16 blocks of 255 tokens a step, a rate that rises for 10 steps and falls linearly.
Prints bits per byte of held-out text along the way, mean and range over the seeds, and writes OUT/optimizers.json. What
is done is skipped, and what was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kept_runs import Journal, train, upslope

RATES = {"adamw": (1e-3, 3e-3, 1e-2), "muon": (3e-3, 1e-2, 3e-2)}
BLOCKS, LENGTH = 16, 255


def curve(journal: Journal) -> dict[int, float]:
    """Bits per byte of held-out text by step."""
    return {row["step"]: row["bits_per_byte"] for row in journal if row["kind"] == "eval"}


def rate_of(journal: Journal) -> float:
    """Median tokens a second of the steps."""
    return statistics.median(float(row["tokens_per_s"]) for row in journal if row["kind"] == "step")


def spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--text", action="append", required=True, help="as upslope's --text; repeatable")
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--depth", type=int, default=4, help="of new:llama (default 4: 4.3 million weights)")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    for name, rates in RATES.items():
        parser.add_argument(f"--{name}", type=float, nargs="+", default=rates, help=f"rates to try (default {rates})")
    parser.add_argument("--only", choices=RATES, help="one of them, so that two processes can share the work")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    given = parser.parse_args()
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    words = out / "tokenizer"
    if not (words / "tokenizer.json").exists():
        upslope(["tokenizer", *given.text, "--vocab", str(given.vocab), "-o", str(words)], given.threads)
    common = ["--recipe", "pretrain", "--model", "new:llama", f"new.depth={given.depth}", f"new.tokenizer={words}"]
    common += [word for source in given.text for word in ("--text", source)]
    common += [f"problems={BLOCKS}", f"recipe.sample.block={LENGTH}", "learn.decay=linear", "learn.dtype=float32"]
    common += ["learn.measure_every=0", "eval.text_tokens=16384", "save.every=16", "save.keep=1", "save.rollouts=0"]

    def runs(name: str, optimizer: str, rate: float, steps: int, every: int, seed: int) -> Journal:
        own = ["--seed", str(seed), "--steps", str(steps), f"eval.every={every}"]
        own += [f"learn.optimizer={optimizer}", f"learn.lr={rate}"]
        return train(out, name, [*common, *own], given.threads)

    found: dict[str, Any] = {"text": given.text, "depth": given.depth, "vocab": given.vocab}
    for optimizer in [given.only] if given.only else RATES:
        rates, short = getattr(given, optimizer), given.steps // 2
        tried = {}
        for rate in rates if len(rates) > 1 else ():
            last = curve(runs(f"try-{optimizer}-{rate:g}", optimizer, rate, short, short, 0))[short]
            tried[rate] = last
            print(f"{optimizer:6} rate {rate:g}: {last:.3f} bits per byte after {short} steps", flush=True)
        best = min(tried, key=tried.__getitem__) if tried else rates[0]
        journals = [
            runs(f"{optimizer}-{seed}", optimizer, best, given.steps, max(given.steps // 4, 1), seed)
            for seed in range(given.seeds)
        ]
        curves = [curve(journal) for journal in journals]
        speed = max(map(rate_of, journals))
        print(f"{optimizer:6} rate {best:g}, {len(curves)} seeds, {speed:,.0f} tokens/s; mean (range) bits per byte:")
        for step in curves[0]:
            print(f"    step {step:4}  {spread([values[step] for values in curves])}", flush=True)
        found[optimizer] = {"tried": tried, "rate": best, "bits_per_byte": curves, "tokens_per_s": speed}
    name = f"{given.only or 'optimizers'}.json"
    (out / name).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
