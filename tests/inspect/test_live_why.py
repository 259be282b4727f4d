"""What looks wrong is said while a run trains, at little cost, and never stops it."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import made_run
from rich.console import Console
from tiny import TOKENIZER, model as tiny_model

import upslope as up
from upslope.inspect import live_why
from upslope.inspect.live_why import LiveWhy
from upslope.inspect.terminal import TerminalView
from upslope.inspect.why import standing
from upslope.inspect.why.finding import Diagnosis
from upslope.inspect.why.standing import StandingDiagnosis
from upslope.training.view import NullView, ReadsRecords
from upslope.types import Problem, Score

CUT = "Most attempts are cut off before they end. 80.0 % are cut at 64 tokens"


class Nothing:
    """A task of which nobody ever gets anything right."""

    def problems(self, split: str) -> list[Problem]:
        return [Problem(f"{split}/{i}", ({"role": "user", "content": f"Say {i}."},)) for i in range(4)]

    def score(self, problems: Any, responses: Any) -> list[Score]:
        return [Score(0.0) for _ in responses]


def grown(run: Path, step: int, **row: Any) -> None:
    with (run / "journal.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "step", "step": step} | row) + "\n")


def watched(run: Path, *, plain: bool) -> tuple[TerminalView, io.StringIO]:
    told = io.StringIO()
    console = Console(file=told, width=120, height=30, force_terminal=not plain, color_system=None)
    view = TerminalView(console, plain=plain)
    view.start("run", "grpo", 20)
    view.records_in(run)
    return view, told


def test_lines_say_the_first_finding_once(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", 12, rows={"truncated": 0.8})
    view, told = watched(run, plain=True)
    for step in range(3):
        view.step({"kind": "step", "step": step, "reward": 0.1})
    view.close(ok=True)
    said = [line for line in told.getvalue().splitlines() if line.startswith("why ")]
    assert len(said) == 1 and said[0].startswith(f"why {CUT}")


def test_the_screen_keeps_the_first_finding(tmp_path: Path) -> None:
    view, told = watched(made_run(tmp_path / "run", 12, rows={"truncated": 0.8}), plain=False)
    view.step({"kind": "step", "step": 0, "reward": 0.1})
    view.close(ok=True)
    assert f"looks wrong     {CUT}" in told.getvalue().splitlines()[-2] + told.getvalue()


def test_of_a_healthy_run_and_of_a_young_one_nothing_is_said(tmp_path: Path) -> None:
    for name, made in (("healthy", {}), ("young", {"rows": {"truncated": 0.9}})):
        view, told = watched(made_run(tmp_path / name, 3 if name == "young" else 12, **made), plain=True)
        view.step({"kind": "step", "step": 0, "reward": 0.1})
        view.close(ok=True)
        assert "why" not in told.getvalue()


def test_it_says_when_nothing_looks_wrong_any_more(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", 6, rows={"truncated": 0.8})
    view, told = watched(run, plain=True)
    view.step({"kind": "step", "step": 5})
    for step in range(6, 60):
        grown(run, step, reward=0.2 + 0.01 * step, truncated=0.0, equal_groups=0.2)
    view.close(ok=True)
    assert "why nothing looks wrong any more" in told.getvalue()


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    seen: list[int] = []

    def diagnose(run: Any) -> list[Diagnosis]:
        seen.append(len(run.tail.steps))
        return []

    monkeypatch.setattr(standing, "diagnose", diagnose)
    yield seen


def test_looking_takes_a_hundredth_of_the_time(tmp_path: Path, judged: list[int]) -> None:
    run = made_run(tmp_path / "run", 6, attempts=False)
    now = itertools.count()  # every look at the clock is a second later
    found = StandingDiagnosis(StandingDiagnosis.at(run).run, lambda: float(next(now)))
    for step in range(6, 306):
        grown(run, step, reward=0.5)
        found.found(patient=True)
    assert len(judged) == 3  # a judgement takes one second here, so a hundred go by without one
    found.found()
    assert judged[-1] == 306


def test_nothing_new_is_not_judged_again(tmp_path: Path, judged: list[int]) -> None:
    found = StandingDiagnosis.at(made_run(tmp_path / "run", 6, attempts=False))
    for _ in range(3):
        found.found()
    assert judged == [6]


def test_a_rule_that_breaks_is_told_once_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: Any) -> list[Diagnosis]:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(standing, "diagnose", broken)
    told: list[str] = []
    live = LiveWhy(told.append, made_run(tmp_path / "run", 6))
    assert [live.look(patient=False) for _ in range(3)] == [False] * 3
    assert told == ["whether anything looks wrong cannot be said: ZeroDivisionError: division by zero"]
    assert live.line == ""


def test_a_run_tells_its_view_where_its_records_are(tmp_path: Path) -> None:
    assert isinstance(TerminalView(Console(file=io.StringIO()), plain=True), ReadsRecords)
    assert not isinstance(NullView(), ReadsRecords)
    assert live_why.LiveWhy(print).look() is False
    told = io.StringIO()
    view = TerminalView(Console(file=told, width=200), plain=True)
    few: dict[str, Any] = {"eval": {"problems": 0}, "learn": {"dtype": "float32"}, "sample": {"max_tokens": 4}}
    model = (tiny_model(dtype=torch.float32), TOKENIZER)
    up.train(model, task=Nothing(), recipe="grpo", steps=6, problems=2, folder=tmp_path / "run", progress=view, **few)
    assert any(line.startswith("why ") for line in told.getvalue().splitlines())
