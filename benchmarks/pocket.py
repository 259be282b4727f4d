"""The main job, ``upslope train`` on pocket: seconds of a step by phase, and the whole wall time from an empty cache.

    python benchmarks/pocket.py [--source CHECKOUT ...] [--rounds 3]

Each ``--source`` is a folder that holds the package (``git worktree add OLD COMMIT`` makes one of an older state); by
default this checkout. Several take turns, and the last is compared with the others. Every round is a new process with
an empty cache, so pretraining and imitation are in the wall time, as in a first run; ``--model pocket:blank`` leaves
them out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import Result, compare, run, show_ceilings, take_turns

WARM_UP = 1
"""First steps of the run, not counted."""


def train(source: Path, options: argparse.Namespace) -> Result:
    """One run by the package in ``source``; medians over its steps."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        env = {"PYTHONPATH": str(source.resolve()), "UPSLOPE_CACHE": str(cache)}
        words = ["--plain", "--model", options.model, "--steps", str(options.steps), "--out", "runs", "--name", "main"]
        used = run([sys.executable, "-c", "import upslope; print(upslope.__file__)"], env=env, cwd=folder).strip()
        if not Path(used).is_relative_to(source.resolve()):
            raise SystemExit(f"{source} holds no package upslope: {used} would be measured")
        start = time.perf_counter()
        run([sys.executable, "-m", "upslope.cli", "train", *words], threads=options.threads, env=env, cwd=folder)
        wall = time.perf_counter() - start
        lines = (Path(folder) / "runs" / "main" / "journal.jsonl").read_text().splitlines()
    return {"wall": wall} | of_steps([json.loads(line) for line in lines])


def of_steps(journal: list[dict[str, Any]]) -> Result:
    """Medians of the steps' seconds and rates; ``learn`` is prepare and update."""
    steps = [row for row in journal if row["kind"] == "step"][WARM_UP:]
    seconds = [row["seconds"] for row in steps]
    learning = [s["prepare"] + s["update"] for s in seconds]
    return {
        "sample": median(s["sample"] for s in seconds),
        "learn": median(learning),
        "step": median(sum(s.values()) for s in seconds),
        "sample_tokens_per_s": sum(r["num_tokens"] for r in steps) / sum(s["sample"] for s in seconds),
        "learn_tokens_per_s": sum(r["num_tokens"] for r in steps) / sum(learning),
        "memory_gb": max(row["memory_gb"] for row in steps),
        "held_out": journal[-1].get("greedy", {}).get("value", float("nan")),
    }


def line(found: Result) -> str:
    return (
        f"wall {found['wall']:6.1f} s; a step {found['step']:.3f} s: sample {found['sample']:.3f} "
        f"({found['sample_tokens_per_s']:,.0f} tokens/s), learn {found['learn']:.3f} "
        f"({found['learn_tokens_per_s']:,.0f} tokens/s); {found['memory_gb']:.2f} GB; held out {found['held_out']:.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own = Path(__file__).resolve().parent.parent
    parser.add_argument("--source", type=Path, action="append", help="a folder with the package; repeat for several")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    options = parser.parse_args()
    sources = {str(source): source for source in options.source or [own]}
    show_ceilings(options.threads)
    sides = {name: lambda source=source: train(source, options) for name, source in sources.items()}
    found = take_turns(sides, options.rounds, line)
    for key, unit in (("sample", "s sampling a step"), ("learn", "s learning a step"), ("wall", "s in all")):
        compare(found, key, unit, against=list(sources)[-1], least=True)


if __name__ == "__main__":
    main()
