"""Whatever malformed thing is handed to the command line ends in one clear line: what, where, and the mend.

The cases stand in tests/support/malformed, made from seeds. Every 24th is quick; ``-m exhaustive`` runs the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from malformed import code, columns, commands, models, overrides, records, rows, run_files
from malformed.case import Case
from malformed.drive import complaints, run
from malformed.values import SAYS, TAKEN, TAKES_HUGE, keys

EVERY = 24
ALL = [pytest.mark.slow, pytest.mark.exhaustive]


def sampled(cases: list[Case]) -> list[Any]:
    return [pytest.param(c, id=c.name, marks=ALL if i % EVERY else []) for i, c in enumerate(cases)]


@pytest.fixture
def taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs a case and asserts that its input was taken as it should be."""

    def take(case: Case) -> None:
        outcome = run(case, tmp_path, monkeypatch, capfd)
        assert complaints(case, outcome) == [], outcome

    return take


def test_every_setting_is_in_the_tables_and_no_other() -> None:
    there = {key for key, _ in keys()}
    cases = [*overrides.settings(), *run_files.settings()]
    assert {case.name.partition(": ")[2].partition("=")[0].strip() for case in cases} == there
    assert TAKES_HUGE | {key for key, _ in TAKEN} | set(SAYS) <= there


@pytest.mark.parametrize("case", sampled(run_files.cases()))
def test_run_files(taken: Any, case: Case) -> None:
    taken(case)


@pytest.mark.parametrize("case", sampled(overrides.cases()))
def test_settings(taken: Any, case: Case) -> None:
    taken(case)


@pytest.mark.parametrize("case", sampled(rows.cases()))
def test_rows_of_text(taken: Any, case: Case) -> None:
    taken(case)


@pytest.mark.parametrize("case", sampled(columns.cases()))
def test_rows_of_columns(taken: Any, case: Case) -> None:
    taken(case)


@pytest.mark.parametrize("case", sampled([*code.files(), *code.rewards()]))
def test_rewards(taken: Any, case: Case) -> None:
    taken(case)


@pytest.mark.parametrize("case", sampled([*code.tasks()]))
def test_tasks(taken: Any, case: Case) -> None:
    taken(case)


@pytest.mark.parametrize("case", sampled([*models.configs(), *models.generation()]))
def test_configurations_of_models(taken: Any, case: Case) -> None:
    taken(case)


@pytest.mark.parametrize("case", sampled([*models.files(), *models.weights()]))
def test_files_of_models(taken: Any, case: Case) -> None:
    taken(case)


@pytest.mark.parametrize("case", sampled([*models.tokenizers(), *models.adapters()]))
def test_tokenizers_and_adapters(taken: Any, case: Case) -> None:
    taken(case)


@pytest.mark.parametrize("case", sampled([*records.responses(), *records.row_files()]))
def test_responses_and_attempts(taken: Any, case: Case) -> None:
    taken(case)


@pytest.mark.parametrize("case", sampled([*records.journals(), *records.run_files(), *records.rollouts()]))
def test_folders_of_runs(taken: Any, case: Case) -> None:
    taken(case)


@pytest.mark.parametrize("case", sampled(commands.cases()))
def test_arguments(taken: Any, case: Case) -> None:
    taken(case)
