"""Reward files of the shapes that users publish run unchanged, with the values that TRL's trainer gets from them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from published import FOLDER, PUBLISHED, QUESTIONS, RESPONSES, Published, rows

from upslope.tasks.registry import load_rewards
from upslope.tasks.response import Response, Standing
from upslope.tasks.user import problem_of
from upslope.types import Problem

TRL = Path(__file__).parent.parent / "support" / "trl_values.py"
SPAWNS = "code_pool:parallel_check"
CASES = [pytest.param(one, id=one.spec, marks=[pytest.mark.slow] if one.spec == SPAWNS else []) for one in PUBLISHED]


def problems(*, chat: bool) -> list[Problem]:
    return [problem_of(row, "a row") for row in rows(chat=chat)]


def values(one: Published, tokens: Any = None) -> list[float | None]:
    """Of the function beside one that says 0, so that None is a value too."""
    given = [
        Response(r, t, Standing(0, 1)) for r, t in zip(RESPONSES, tokens or map(str.encode, RESPONSES), strict=True)
    ]
    rewards = load_rewards([one.path, zero])
    scores = rewards.score(problems(chat=one.chat), given)
    return [next(iter(score.parts.values())) for score in scores]


def zero(completions: Any) -> list[float]:
    return [0.0] * len(completions)


def state() -> list[Any]:
    """What a process has one of."""
    return [
        Path.cwd(),
        dict(os.environ),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        signal.getsignal(signal.SIGALRM),
        signal.getitimer(signal.ITIMER_REAL)[0],
        warnings.filters[:],
    ]


def test_there_are_twenty_files() -> None:
    assert len(list(FOLDER.glob("*.py"))) == 20 == len({one.spec.partition(":")[0] for one in PUBLISHED})


@pytest.mark.parametrize("one", CASES)
def test_a_published_file_runs_unchanged(one: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = state()
    for _ in range(2):
        assert values(one) == pytest.approx(one.values, abs=1e-6)
    assert state() == before


@pytest.mark.slow
def test_trls_trainer_gets_the_same_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    told = subprocess.run([sys.executable, TRL, tmp_path], check=True, capture_output=True, text=True, cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    for chat, theirs in enumerate(json.loads(told.stdout)):
        tokens = [theirs["tokens"][question] for question in QUESTIONS]
        for one in PUBLISHED:
            if one.chat == bool(chat):
                expected = [theirs[one.spec][question] for question in QUESTIONS]
                assert values(one, tokens) == pytest.approx(expected, abs=1e-6), one.spec
