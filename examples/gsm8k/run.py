"""A real model learns the real GSM8K: imitation with the calculator, then reinforcement learning, then a table.

    python examples/gsm8k/run.py --model DIRECTORY --data FOLDER        (or: make gsm8k MODEL=DIRECTORY DATA=FOLDER)

FOLDER has train.jsonl and test.jsonl. Everything goes to runs/gsm8k; what is done is skipped, a training that was
stopped goes on from its newest checkpoint, an evaluation from its last attempt: give the same command again.
``--smoke`` runs every stage on next to nothing, in a few minutes, to see that all of it works here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from picture import ALONE, draw

HERE = Path(__file__).parent
CALCULATOR = "task.options.calculator=true"
SMOKE = {
    "train": ["steps=2", "problems=2", "sample.max_tokens=16", "learn.warmup=0"],
    "rl": ["recipe.sample.group_size=4", "recipe.sample.keep=everything"],
    "problems": ["--problems", "2"],
    "samples": ["--samples", "2"],
    "longest": ["--max-tokens", "16"],
}
FULL = {
    "train": [],
    "rl": [],
    "problems": ["--problems", "1319"],
    "samples": ["--samples", "8"],
    "longest": ["--max-tokens", "200"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a directory or hub id, such as SmolLM2-135M-Instruct's")
    parser.add_argument("--data", required=True, help="a folder with train.jsonl and test.jsonl")
    parser.add_argument("--out", type=Path, default=Path("runs/gsm8k"))
    parser.add_argument("--seeds", type=int, default=1, help="runs of reinforcement learning, from one imitation")
    parser.add_argument("--smoke", action="store_true", help="every stage on next to nothing")
    given = parser.parse_args()
    budget = SMOKE if given.smoke else FULL
    out = given.out.with_name(given.out.name + "-smoke") if given.smoke else given.out
    out.mkdir(parents=True, exist_ok=True)

    def evaluated(name: str) -> None:
        """Greedy with the calculator and without it, and with it several attempts at each problem."""
        data = ["--task", "gsm8k", "--data", given.data, *budget["problems"]]
        several = [*budget["samples"], *budget["longest"], "--temperature", "0.8"]
        evaluate(out / f"{name}.json", [models[name], CALCULATOR, *data, *several])
        evaluate(out / f"{name}{ALONE}.json", [models[name], *data, *budget["longest"]])

    models = {"start": given.model, "sft": str(out / "sft")}
    train(out / "sft", "sft.toml", ["--model", given.model, "--data", given.data, *budget["train"]])
    evaluated("sft")
    for seed in range(given.seeds):
        name = f"rl-{seed}"
        models[name] = str(out / name)
        start = [f"model={models['sft']}", "--data", given.data, "--seed", str(seed)]
        train(out / name, "rl.toml", [*start, *budget["train"], *budget["rl"]])
        evaluated(name)
    evaluated("start")
    (out / "table.md").write_text(table(out, list(models)))
    print((out / "table.md").read_text())
    print(draw(out))


def train(folder: Path, file: str, settings: list[str]) -> None:
    """Train, or go on, or do nothing if all steps are done."""
    asked, begun = [str(HERE / file), *settings], (folder / "run.toml").exists()
    require_same(folder.with_name(f"{folder.name}.trained-with.json"), asked, begun, [folder.parent])
    if (folder / "done").exists():
        return
    if begun:
        upslope("train", "--resume", str(folder))
    else:
        upslope("train", *asked, "--name", folder.name, "--out", str(folder.parent))
    (folder / "done").touch()


def evaluate(file: Path, arguments: list[str]) -> None:
    """What `upslope eval` measures, to a file, unless it is there; every attempt to another."""
    attempts = file.with_name(f"{file.stem}.attempts.jsonl")
    kept = [found for found in (file, attempts) if found.exists()]
    require_same(file.with_name(f"{file.stem}.evaluated-with.json"), arguments, bool(kept), kept)
    if file.exists():
        return
    found = upslope("eval", *arguments, "--json", "--attempts", str(attempts), read=True)
    write(file, found)


def require_same(file: Path, asked: list[str], begun: bool, holds: list[Path]) -> None:
    """Keep what is asked for. Ends the script if something else was ``begun``, which is in ``holds``."""
    if not (begun and file.exists()):
        write(file, json.dumps(asked))
    before = json.loads(file.read_text())
    if before != asked:
        there = " and ".join(map(str, holds))
        made, now = " ".join(before), " ".join(asked)
        raise SystemExit(f"{there}: made with {made}; now asked for is {now}. Choose another --out, or remove {there}")


def write(file: Path, text: str) -> None:
    """Whole or not at all."""
    aside = file.with_name(f".{file.name}.part")
    aside.write_text(text)
    aside.replace(file)


def upslope(*arguments: str, read: bool = False) -> str:
    """Run a command of upslope; its progress goes to standard error. Ends this script if it fails.

    Ctrl-C reaches the command as well, which finishes its step and saves; so it is waited for.
    """
    print("upslope", *arguments, file=sys.stderr)
    command = [sys.executable, "-P", "-m", "upslope.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE if read else sys.stderr, text=True) as running:
        while True:
            try:
                found, _ = running.communicate()
                break
            except KeyboardInterrupt:
                continue
    if running.returncode:
        raise SystemExit(running.returncode)
    return found or ""


def table(out: Path, names: list[str]) -> str:
    """Every stage, a row each with the calculator and a row without; what a training cost is told once."""
    most = max(json.loads((out / "sft.json").read_text())["pass_at"], key=int)
    heads = ["", "greedy, strict", "greedy, lenient", "pass@1", f"pass@{most}", "tokens: its own + the calculator's"]
    rows = [[*heads, "cut", "cost"], ["---"] * (len(heads) + 2)]
    for name in names:
        for ending, said in (("", label(name)), (ALONE, "the same, without the calculator")):
            found = json.loads((out / f"{name}{ending}.json").read_text())
            passes = found.get("pass_at", {})
            shares = map(share, (found["greedy"], found["lenient"], passes.get("1"), passes.get(most)))
            length = f"{found['length']:.0f} + {found.get('heard', 0):.0f}"
            cost = "" if ending or name == "start" else cost_of(out / name)
            rows.append([said, *shares, length, f"{found['truncated']:.1%}", cost])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def label(name: str) -> str:
    """What a stage is called in the table."""
    seed = name.removeprefix("rl-")
    return {"start": "as it comes", "sft": "imitation"}.get(name, f"reinforcement learning, seed {seed}")


def cost_of(run: Path) -> str:
    """Steps, tokens that were learnt from or tried, and the hours of a training."""
    lines = map(json.loads, (run / "journal.jsonl").read_text().splitlines())
    steps = [row for row in lines if row["kind"] == "step"]
    tokens = sum(row["num_tokens"] for row in steps)
    return f"{len(steps)} steps, {tokens:,} tokens, {steps[-1]['spent'] / 3600:.2f} h"


def share(estimate: dict[str, Any] | None) -> str:
    """Nothing where nothing was measured: there are several attempts only with the calculator."""
    if estimate is None:
        return ""
    return f"{estimate['value']:.2%} [{estimate['low']:.2%}, {estimate['high']:.2%}]"


if __name__ == "__main__":
    main()
