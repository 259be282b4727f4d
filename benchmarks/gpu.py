"""All that can be said of upslope on one GPU, in under eight minutes, from a machine with torch and what upslope needs.

    python benchmarks/gpu.py [--out gpu.json] [--minutes 8] [--device cuda] [--small]

In order: gradients, attempts and memory beside the same on the CPU; pocket, trained from nothing by ``upslope train``
(held-out accuracy); a Llama of half a billion random weights through sampling, learning and a whole step of 64 x 8
attempts of 256 tokens, with the most memory each took, the same without graphs and without flash kernels, and the
operations that took longest; ``generate`` of
transformers at the same work, and a step of TRL's GRPO trainer where it is installed. No network is needed.

A line a verdict (PASS, FAIL, or a figure), and one JSON file with all of it, written anew after every stage, so that a
machine that is taken away leaves what was done. What raises is a FAIL with its traceback in the JSON, and the rest goes
on. A stage that begins after ``--minutes`` is left out. Exit status 1 if anything failed.

``--device cpu --small`` is the rehearsal: the same stages on a little model.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

POCKET_SECONDS = 150
"""Left to the run of pocket; what it has reached by then counts."""


class Report:
    """The verdicts so far, on the screen and in the file."""

    def __init__(self, file: Path, minutes: float) -> None:
        self._file, self._end = file, time.monotonic() + 60 * minutes
        self.found: dict[str, Any] = {"verdicts": [], "seconds": {}}
        self.failed = False

    def verdict(self, kind: str, what: str) -> None:
        self.failed |= kind == "FAIL"
        self.found["verdicts"].append([kind, what])
        print(f"{kind:4} {what}", flush=True)

    def check(self, what: str, found: float, bound: float) -> None:
        self.verdict("PASS" if found <= bound else "FAIL", f"{what}: {found:.3g} (at most {bound:g})")

    def figure(self, name: str, value: Any, what: str) -> None:
        self.found[name] = value
        self.verdict("", what)

    @contextmanager
    def stage(self, name: str) -> Iterator[bool]:
        """Whether there is time for it. What it raises is noted, and ends this stage alone."""
        begin = time.monotonic()
        if begin > self._end:
            self.verdict("SKIP", f"{name}: no time is left")
            yield False
            return
        try:
            yield True
        except Exception as error:
            self.found.setdefault("tracebacks", {})[name] = traceback.format_exc()
            first = (str(error).splitlines() or [""])[0]
            self.verdict("FAIL", f"{name}: {type(error).__name__}: {first:.200}")
        self.found["seconds"][name] = round(time.monotonic() - begin, 2)
        self.write()

    def write(self) -> None:
        self._file.write_text(json.dumps(self.found, indent=1) + "\n")


def machine(report: Report, device: Any) -> None:
    import torch
    import transformers

    import upslope

    name, total = "CPU", 0
    if device.type == "cuda":
        seen = torch.cuda.get_device_properties(device)
        name, total = f"{seen.name} (compute {seen.major}.{seen.minor})", seen.total_memory
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "upslope": upslope.__version__}
    report.found["machine"] = {"device": name, "bytes": total, "python": sys.version.split()[0], **versions}
    report.verdict("", f"{name}, {total / 1e9:.0f} GB; {', '.join(f'{k} {v}' for k, v in versions.items())}")


def checks(report: Report, device: Any) -> None:
    import gpu_checks

    for name in ("gradients", "attempts", "memory", "kernels", "merged", "captured"):
        with report.stage(name) as go:
            for found in getattr(gpu_checks, name)(device) if go else ():
                report.check(*found)


def pocket(report: Report, device: Any, *, small: bool) -> None:
    """``upslope train`` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"UPSLOPE_CACHE": str(Path(folder) / "cache"), "PYTHONPATH": str(HERE.parent)}
        words = ["--plain", "--out", folder, "--name", "pocket", f"device={device}"]
        words += ["--model", "pocket:blank", "--steps", "2", "eval.problems=8", "problems=4"] if small else []
        command = [sys.executable, "-m", "upslope.cli", "train", *words]
        try:
            done = subprocess.run(
                command, env=env, capture_output=True, text=True, timeout=600 if small else POCKET_SECONDS, check=False
            )
            ended, told = done.returncode == 0, done.stderr[-2000:]
        except subprocess.TimeoutExpired as error:
            ended, told = True, f"stopped after {error.timeout:.0f} s"
        file = Path(folder) / "pocket" / "journal.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    accuracy = [row["greedy"]["value"] for row in rows if row["kind"] == "eval" and "greedy" in row]
    steps = [row for row in rows if row["kind"] == "step"]
    report.found["pocket"] = {"steps": len(steps), "accuracy": accuracy, "told": told}
    report.verdict("PASS" if ended and steps else "FAIL", f"pocket: {len(steps)} steps; {told.strip()[-200:]!r}")
    if len(accuracy) > 1 and not small:
        report.check("pocket: accuracy before less after", accuracy[0] - accuracy[-1], 0)


def big(report: Report, device: Any, *, small: bool) -> None:
    import gpu_speed

    sizes, shape = ((2, 2, 8), gpu_speed.LITTLE) if small else ((64, 8, 256), gpu_speed.BIG)
    load: Any = None
    rollouts: list[Any] = []
    what = "x".join(map(str, sizes))

    def twice(name: str, work: Callable[[], Any], per: int) -> Any:
        """The first time warms up; both are told."""
        gpu_speed.forget_peak(device)
        first, _ = gpu_speed.timed(work, device)
        seconds, made = gpu_speed.timed(work, device)
        figure = {
            "first_s": first,
            "seconds": seconds,
            "tokens_per_s": per / seconds,
            "peak_gb": gpu_speed.peak_of(device),
        }
        text = f"{name} {what}: {seconds:.2f} s ({per / seconds:,.0f} tokens/s), first {first:.2f} s"
        report.figure(name, figure, f"{text}, {figure['peak_gb']:.1f} GB")
        return made

    with report.stage("a random Llama") as go:
        if go:
            load = gpu_speed.Workload(device, shape, sizes)
            path = "fast trunk" if load.native else "transformers' layers"
            report.figure(
                "weights", load.weights, f"{load.weights / 1e6:.0f} million weights in {load.dtype}, on {path}"
            )
    if load is None:
        return
    with report.stage("sampling") as go:
        rollouts = twice("sampling", lambda: load.sample(0), load.num_tokens) if go else []
    read = load.num_tokens + load.num * gpu_speed.PROMPT
    with report.stage("learning") as go:
        if go and rollouts:
            twice("learning", lambda: load.learn(rollouts), read)
    with report.stage("a step") as go:
        if go:
            twice("step", lambda: load.learn(load.sample(1)), load.num_tokens)
    works: dict[str, Callable[[], Any]] = {
        "sampling": lambda: load.sample(0),
        "learning": lambda: load.learn(rollouts),
    }
    for name, work in works.items():
        with report.stage(f"{name} by {gpu_speed.WITHOUT[name]}") as go, gpu_speed.without(name, load):
            if go and rollouts:
                work()
                seconds = gpu_speed.timed(work, device)[0]
                ratio = f"upslope takes {report.found[name]['seconds'] / seconds:.2f} of it"
                what_is_left = f"{name} by {gpu_speed.WITHOUT[name]} {what}: {seconds:.2f} s; {ratio}"
                report.figure(f"{name}_without_s", seconds, what_is_left)
    with report.stage("slowest in sampling") as go:
        if go:
            few, load.requests = load.requests, load.requests[: max(2, len(load.requests) // 8)]
            show(report, "slowest_sampling", load.slowest(lambda: load.sample(2)))
            load.requests = few
    with report.stage("slowest in learning") as go:
        if go and rollouts:
            part = rollouts[: max(load.size, len(rollouts) // 8 // load.size * load.size)]
            show(report, "slowest_learning", load.slowest(lambda: load.learn(part)))
    load.learner.free_gradients()
    with report.stage("transformers' generate") as go:
        if go:
            seconds = gpu_speed.transformers_generate(load)
            ours = report.found.get("sampling", {}).get("seconds")
            ratio = f"; upslope takes {ours / seconds:.2f} of it" if ours else ""
            report.figure("generate_s", seconds, f"transformers' generate {what}: {seconds:.2f} s{ratio}")
    with report.stage("TRL's step") as go:
        if go and importlib.util.find_spec("trl") is None:
            report.verdict("SKIP", "TRL's step: trl is not installed")
        elif go:
            with tempfile.TemporaryDirectory() as folder:
                seconds = gpu_speed.trl_step(load, folder)
            ours = report.found.get("step", {}).get("seconds")
            ratio = f"; upslope's takes {ours / seconds:.2f} of it" if ours else ""
            report.figure("trl_step_s", seconds, f"TRL's GRPO step {what}: {seconds:.2f} s{ratio}")


def show(report: Report, name: str, rows: list[dict[str, Any]]) -> None:
    most = ", ".join(f"{row['what'][:40]} {row['share']:.0%}" for row in rows[:4])
    report.figure(name, rows, f"{name.replace('_', ' in ')}: {most}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a little model and two steps: the rehearsal")
    options = parser.parse_args()
    report = Report(options.out, options.minutes)
    from upslope.model.load import pick_device

    device = pick_device(options.device)
    with report.stage("machine"):
        machine(report, device)
    checks(report, device)
    big(report, device, small=options.small)
    with report.stage("pocket") as go:
        if go:
            pocket(report, device, small=options.small)
    report.write()
    print(f"{'FAILED' if report.failed else 'sound'}; all of it is in {options.out}")
    raise SystemExit(report.failed)


if __name__ == "__main__":
    main()
