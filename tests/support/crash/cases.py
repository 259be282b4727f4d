"""The runs that are killed: small ones that carry along everything a run can, and what must be equal in the end."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crash.forks import Server

STEPS, EVERY = 6, 2
MEASURED = ("seconds", "spent", "tokens_per_s", "memory_gb", "resident_gb")
"""What the journal says of time and memory."""
PART = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.part")
"""A single file that was being written when a process was killed."""
NAME, RUN = "it", Path("runs/it")
REWARD = """
def odd(completions, **columns):
    return [float(sum(map(ord, text)) % 2) for text in completions]
"""
SETTINGS = (
    *("problems=2", "recipe.sample.group_size=3", "sample.max_tokens=6", "learn.lr=0.01", "learn.warmup=0"),
    *(f"steps={STEPS}", f"save.every={EVERY}", "eval.problems=2", "eval.every=3", "device=cpu"),
)
RECIPES: Mapping[str, tuple[str, ...]] = {
    "grpo": ("recipe=grpo", "reference.every=3", "learn.measure_every=2"),
    "ppo": ("recipe=ppo", "recipe.critic.warmup=3", "recipe.critic.rate=1", "recipe.reuse.epochs=2"),
    "dapo": ("recipe=dapo", "recipe.reuse.minibatches=2", "recipe.reuse.epochs=2"),
    "adapter": ("recipe=grpo", "learn.lora_rank=2", "recipe.regulariser.coefficient=0.5"),
    "learnable": ("recipe=reinforce-baseline", "recipe.sample.kind=learnable"),
}
"""A reference that is made anew; a critic with its own optimizer, and several updates a step; refills and mini-batches;
an adapter; what is known of the problems."""


@dataclass(frozen=True)
class Bench:
    """Where trials are made: a server, and a folder that holds data, reward, start and trials."""

    server: Server
    place: Path

    def trial(self, label: str) -> Path:
        """A new folder to run in."""
        folder = self.place / "trials" / label
        folder.mkdir(parents=True)
        return folder

    def first(self, recipe: str) -> list[str]:
        """The command that begins a run; ``RUN`` below its working folder is where the run goes."""
        start = self.place / "start" if recipe == "adapter" else "pocket:blank"
        data = ["--data", str(self.place / "data.jsonl"), "--eval-data", str(self.place / "held-out.jsonl")]
        given = ["train", "--plain", "--name", NAME, "--model", str(start), "--reward", f"{self.place / 'mine.py'}:odd"]
        return [*given, *data, *SETTINGS, *RECIPES[recipe]]

    def next(self, recipe: str, trial: Path) -> list[str]:
        """What a user types then: --resume, or the first command again where no run had begun."""
        return ["train", "--plain", "--resume", str(RUN)] if begun(trial) else self.first(recipe)


def furnished(server: Server, place: Path) -> Bench:
    """Data, a reward, and a directory to start an adapter from."""
    names = ["Tom", "Sam", "Eva", "Leo"]
    for file, num in (("data.jsonl", 16), ("held-out.jsonl", 4)):
        rows = [{"prompt": f"{names[i % 4]} has {i} {'apples' if num > 4 else 'books'}."} for i in range(num)]
        (place / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "mine.py").write_text(REWARD)
    bench = Bench(server, place)
    whole = bench.trial("start")
    ended = server.run([*bench.first("learnable"), "steps=1", "eval.problems=0"], whole)
    assert ended.code == 0, ended
    (whole / RUN / "checkpoints" / "step-000001").rename(place / "start")
    return bench


def begun(trial: Path) -> bool:
    return (trial / RUN / "run.toml").exists()


def contents(trial: Path) -> dict[str, Any]:
    """Everything that must be equal, by file: bytes, but for what is measured and for what names the process."""
    found: dict[str, Any] = {}
    folder = trial / RUN
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = file.relative_to(folder).as_posix()
        if file.name == "journal.jsonl":
            found[name] = journal(trial)
        elif file.name == "run_state.json":
            found[name] = {k: v for k, v in json.loads(file.read_text()).items() if k != "spent"}
        elif file.name == "manifest.json":
            found[name] = sorted(json.loads(file.read_text()))
        elif name not in (".lock", "report.png") and not PART.fullmatch(file.name):
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    found["folders"] = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_dir())
    return found


def without_older_checkpoints(found: dict[str, Any]) -> dict[str, Any]:
    """The same but for checkpoints before the last: a run that was asked to stop has one of the step where it did."""
    last = f"checkpoints/step-{STEPS:06d}"
    step = re.compile(r"checkpoints/step-\d+(?=/|$)")

    def stays(name: str) -> bool:
        of = step.match(name)
        return of is None or of[0] == last

    kept = {name: value for name, value in found.items() if stays(name)}
    return kept | {"folders": [folder for folder in found["folders"] if stays(folder)]}


def journal(trial: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (trial / RUN / "journal.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]


def done(trial: Path) -> int:
    """How many steps the journal has; a line that was cut in half is none."""
    file = trial / RUN / "journal.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return sum(json.loads(line)["kind"] == "step" for line in lines)


def saved(trial: Path) -> int:
    """The step of the newest whole checkpoint, as its manifest says; 0 if there is none."""
    steps = [0]
    for manifest in (trial / RUN / "checkpoints").glob("step-*/manifest.json"):
        hashes = json.loads(manifest.read_text())
        if hashes and all(digest(manifest.parent / name) == value for name, value in hashes.items()):
            steps.append(int(manifest.parent.name[5:11]))
    return max(steps)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def parts(trial: Path) -> dict[str, int]:
    """Single files that were not finished, with the process that was at work on each."""
    found = [(file, PART.fullmatch(file.name)) for file in (trial / RUN).rglob(".*.part")]
    return {file.relative_to(trial / RUN).as_posix(): int(part["pid"]) for file, part in found if part}
