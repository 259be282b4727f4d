"""Runs of a benchmark that takes hours: each is made once, and gone on with if it was stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

Journal = list[dict[str, Any]]
LITTLE = ("save.rollouts=0", "save.keep=1")
"""Settings with which a run leaves little on the disk."""


def upslope(words: Sequence[str], threads: int = 0) -> str:
    """What a command of this checkout writes to its standard output. Ends the script where the command fails, which
    says why itself."""
    own = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, (own, os.environ.get("PYTHONPATH"))))
    env = os.environ | {"PYTHONPATH": paths} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    done = subprocess.run([sys.executable, "-m", "upslope.cli", *words], stdout=subprocess.PIPE, text=True, env=env)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def train(out: Path, name: str, words: Sequence[str], threads: int = 0) -> Journal:
    """The journal of a run, made if it is not there, and gone on with if it was stopped; a second process waits. Ends
    the script if the run was made with other words."""
    asked, run = out / f"{name}.json", out / name
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / f"{name}.lock"):
        begun = (run / "run.toml").exists()
        if begun and json.loads(asked.read_text()) != list(words):
            raise SystemExit(f"{run} was made with other settings; choose another OUT")
        if not (run / "done").exists():
            asked.write_text(json.dumps(list(words)))
            rest = ["--resume", str(run)] if begun else [*words, "--out", str(out), "--name", name]
            upslope(["train", "--plain", *rest], threads)
            (run / "done").touch()
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
