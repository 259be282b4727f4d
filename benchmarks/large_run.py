"""Is `upslope look` quick over a large run? 10,000 steps, 1,000,000 attempts, and what the page takes of them.

    python benchmarks/large_run.py OUT [--steps 10000] [--attempts 100] [--tokens 40]

Writes the run into OUT, unless it is there already: journal and attempts as a run writes them, made of nothing. Then
serves it by `upslope look` in a process of its own, looks at it with a headless Chromium, and prints how long the views
take until they are painted (each in a new tab, nothing cached), how long a search takes, and how much memory the server
holds (its peak). Needs playwright and Debian's chromium (make browser).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import tomli_w
from playwright.sync_api import sync_playwright

from upslope.record.attempts import STEP_SCHEMA, write
from upslope.record.journal import JOURNAL

LOOKS = 5
"""Times that each view is looked at; the table has the median and the longest."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--attempts", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=40)
    given = parser.parse_args()
    run = given.out / "large"
    if not (run / JOURNAL).exists():
        make(run, given.steps, given.attempts, given.tokens)
    size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    print(f"{given.steps:,} steps, {given.steps * given.attempts:,} attempts, {size / 1e9:.2f} GB")
    asked = [sys.executable, "-m", "upslope.cli", "look", str(given.out), "--port", "0"]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = next(word for line in server.stdout for word in line.split() if word.startswith("http://"))
            look(address, server.pid, given.steps, given.attempts)
        finally:
            server.terminate()


def make(run: Path, steps: int, attempts: int, tokens: int) -> None:
    """The run's folder; its journal last, so that a folder that was left half made is made again."""
    shutil.rmtree(run, ignore_errors=True)
    (run / "rollouts").mkdir(parents=True)
    settings = {
        "name": "large",
        "seed": 0,
        "steps": steps,
        "model": "large",
        "recipe": {"name": "grpo"},
        "task": {"name": "gsm8k"},
        "sample": {"temperature": 1.0, "max_tokens": 256},
        "learn": {"dtype": "float32", "lr": 1e-5, "clip": 1.0},
    }
    (run / "run.toml").write_bytes(tomli_w.dumps(settings).encode())
    random = np.random.default_rng(0)
    for step in range(steps):
        write(run / "rollouts" / f"step-{step:06d}.parquet", attempts_of(step, attempts, tokens, random))
        if step % 1000 == 999:
            print(f"{step + 1:,} steps written", flush=True)
    lines = [json.dumps(line_of(step, steps, attempts, random)) for step in range(steps)]
    evals = [json.dumps(evaluation_of(step, steps)) for step in range(0, steps + 1, max(steps // 100, 1))]
    (run / JOURNAL).write_text("\n".join([*evals, *lines]) + "\n")


def attempts_of(step: int, num: int, tokens: int, random: np.random.Generator) -> pa.Table:
    """A step's attempts, eight at a problem: numbers as random as real ones are to a compressor."""
    words = np.array([f" word{number}" for number in range(997)])
    ids = random.integers(0, 997, (num, tokens), dtype=np.int32)
    logp = -random.exponential(0.5, (num, tokens)).astype(np.float32)
    reward = (random.random(num) < 0.3 + 0.4 * step / 10_000).astype(float)
    pieces = words[ids]
    columns: dict[str, Any] = {
        "problem": [f"train/{(step * num + place) // 8 % 7473}" for place in range(num)],
        "sample": [place % 8 for place in range(num)],
        "prompt_text": [f"How much is {place // 8} and {step}, and what does it cost?" for place in range(num)],
        "response_text": ["".join(row) for row in pieces],
        "prompt": random.integers(0, 997, (num, tokens), dtype=np.int32),
        "response": ids,
        "prompt_pieces": words[random.integers(0, 997, (num, tokens))],
        "response_pieces": pieces,
        "mask": np.ones((num, tokens), dtype=bool),
        "version": [step] * num,
        "ended": ["stop" if place % 9 else "length" for place in range(num)],
        "reward": reward,
        "extracted": [str(int(number)) for number in random.integers(0, 1000, num)],
        "kept": [True] * num,
        "advantage": np.repeat(reward[:, None] - 0.5, tokens, axis=1),
        "sampler_logp": logp,
        "learner_logp": logp + 1e-6,
        "entropy": random.exponential(0.5, (num, tokens)),
        "ratio": np.exp(0.01 * random.standard_normal((num, tokens))),
        "clipped": random.random((num, tokens)) < 0.02,
        "push": 1e-3 * random.standard_normal((num, tokens)),
    }
    told = (list(columns[field.name]) if field.name in columns else [None] * num for field in STEP_SCHEMA)
    return pa.Table.from_arrays(
        [pa.array(values, type=field.type) for values, field in zip(told, STEP_SCHEMA, strict=True)], schema=STEP_SCHEMA
    )


def line_of(step: int, steps: int, attempts: int, random: np.random.Generator) -> dict[str, Any]:
    """A line of a run that goes well, with as many numbers as one has."""
    share = step / steps
    names = "length_a length_b advantage_hard advantage_medium advantage_easy reward_shaped ratio_mean effective_share"
    row = {
        "kind": "step",
        "step": step,
        "reward": 0.3 + 0.4 * share + 0.03 * random.standard_normal(),
        "accuracy": 0.3 + 0.4 * share + 0.03 * random.standard_normal(),
        "length": 200 - 20 * share + random.standard_normal(),
        "truncated": 0.05,
        "equal_groups": 0.4,
        "num_rollouts": attempts,
        "num_tokens": 200 * attempts,
        "loss": 0.01 * random.standard_normal(),
        "grad_norm": 0.5 + 0.05 * random.standard_normal(),
        "lr": 1e-5,
        "entropy": 0.8 - 0.3 * share + 0.02 * random.standard_normal(),
        "logp_gap_mean": 1e-6,
        "ratio_max": 1.4,
        "kl_step": 0.002,
        "tokens_per_s": 900 + 9 * random.standard_normal(),
        "seconds": dict.fromkeys(("sample", "prepare", "measure", "update", "record"), 1.0),
        "spent": 5.0 * (step + 1),
    }
    return row | {name: float(random.random()) for name in names.split()}


def evaluation_of(step: int, steps: int) -> dict[str, Any]:
    value = 0.3 + 0.4 * step / steps
    ends = {"value": value, "low": value - 0.03, "high": value + 0.03, "num_problems": 1319}
    return {"kind": "eval", "step": step, "greedy": ends, "seconds": 60.0}


def look(address: str, server: int, steps: int, attempts: int) -> None:
    """Print how long each view takes."""
    newest = f"#/run/large/step/{steps - 1}"
    places = [f"#/run/large/step/{(steps * part) // LOOKS}/{attempts // 2}" for part in range(LOOKS)]
    views = {
        "the table of runs, first": (["#/"], "table.runs tbody tr"),
        "the table of runs": (["#/"] * LOOKS, "table.runs tbody tr"),
        "a run: diagnosis and all curves": (["#/run/large"] * LOOKS, ".charts canvas"),
        "a step": ([newest] * LOOKS, ".problem"),
        "an attempt": (places, ".response .token"),
    }
    print("| view | median, s | longest, s | server's processor, s |\n|---|---|---|---|")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (wanted, shown) in views.items():
            busy = processor(server)
            seconds = [painted(browser, address + place, shown) for place in wanted]
            busy = (processor(server) - busy) / len(wanted)
            print(f"| {name} | {median(seconds):.2f} | {max(seconds):.2f} | {busy:.2f} |", flush=True)
        within = [opened(browser, address, place) for place in places]
        print(f"| an attempt, from within the page | {median(within):.2f} | {max(within):.2f} | |", flush=True)
        tab = browser.new_page()
        begun = time.perf_counter()
        tab.goto(f"{address}#/search/large?text=word7+word7")
        tab.wait_for_selector("table.found tr", timeout=600_000)
        print(f"| a search, first attempt found | {time.perf_counter() - begun:.2f} | | |")
        browser.close()
    print(f"\nThe server held {memory(server, 'VmHWM'):.0f} MB at most, {memory(server, 'VmRSS'):.0f} MB at the end.")


def painted(browser: Any, address: str, shown: str) -> float:
    """Seconds from asking for an address in a new tab to its view being painted."""
    tab = browser.new_page()
    begun = time.perf_counter()
    tab.goto(address)
    tab.wait_for_selector(shown, timeout=120_000)
    tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    seconds = time.perf_counter() - begun
    tab.close()
    return seconds


def opened(browser: Any, address: str, place: str) -> float:
    """Seconds from following a link to an attempt to its tokens being there, in a tab that shows a run."""
    tab = browser.new_page()
    tab.goto(f"{address}#/")
    tab.wait_for_selector("table.runs tbody tr")
    begun = time.perf_counter()
    tab.evaluate("(place) => { location.hash = place }", place)
    tab.wait_for_selector(".response .token")
    seconds = time.perf_counter() - begun
    tab.close()
    return seconds


def processor(process: int) -> float:
    """Seconds that a process has computed for, however busy the machine is."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(process: int, key: str) -> float:
    """Of a process, in MB: ``VmRSS`` now, ``VmHWM`` the most there was."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((float(line.split()[1]) / 1e3 for line in lines if line.startswith(f"{key}:")), math.nan)


if __name__ == "__main__":
    main()
