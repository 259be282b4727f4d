"""What is wrong with a run: every rule speaks of its sickness and is silent on a healthy run."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_run

from upslope.errors import UserError
from upslope.inspect.why.command import found_in
from upslope.inspect.why.diagnosis import RULES

STEPS = 30


def falling(step: int) -> float:
    return 0.6 - 0.5 * step / STEPS


TOLD = itertools.count()


SICK: dict[str, dict[str, Any]] = {
    "limit too short": {"rows": {"truncated": 0.8, "reward": 0.05, "accuracy": 0.05}},
    "format missed": {"rows": {"reward": 0.02, "accuracy": 0.02, "equal_groups": 0.95}, "extracted": None},
    "temperature too low": {
        "settings": {"sample": {"temperature": 0.1, "max_tokens": 64}},
        "rows": {"equal_groups": 0.8},
    },
    "reward always 0": {"rows": {"reward": 0.0, "accuracy": 0.0, "equal_groups": 1.0}, "reward": 0.0},
    "reward always full": {"rows": {"reward": 1.0, "accuracy": 1.0, "equal_groups": 1.0}, "reward": 1.0},
    "reward is hacked": {"response_text": "####", "rows": {"reward": 0.9}, "reward": 1.0},
    "no mixed groups": {
        "rows": {"equal_groups": 0.95, "reward": lambda step: 0.3 + 0.01 * (step % 2), "accuracy": 0.3}
    },
    "attempts are duplicated": {"response_text": lambda number: f"always {next(TOLD) // 4}"},
    "sampler and learner disagree": {"rows": {"logp_gap_mean": 0.2}},
    "rate too high": {"rows": {"kl_step": 0.5, "reward": falling, "accuracy": falling}},
    "entropy runs away": {"rows": {"entropy": lambda step: 1.0 + step, "reward": 0.2, "accuracy": 0.2}},
    "entropy collapsed": {"rows": {"entropy": lambda step: 0.5**step, "accuracy": 0.3}},
    "penalty too strong": {
        "settings": {"recipe": {"name": "ppo", "regulariser": {"kind": "k3", "coefficient": 5.0}}},
        "rows": {"kl_reference": 1e-4, "reward": 0.3, "accuracy": 0.3},
    },
    "critic explains nothing": {"rows": {"explained_variance": -0.1}},
    "gradient always clipped": {"rows": {"grad_norm": 40.0}},
}


@pytest.mark.parametrize("rule", SICK)
def test_a_sick_run_is_named_first(rule: str, tmp_path: Path) -> None:
    found = found_in(made_run(tmp_path / "run", STEPS, **SICK[rule]))
    assert [finding.rule for finding in found][:1] == [rule]
    assert found[0].numbers and found[0].mend


def test_words_by_the_yard_are_a_hacked_reward(tmp_path: Path) -> None:
    rows = {"length": lambda step: 20 + 1.4 * step, "truncated": 0.3, "reward": lambda step: 0.1 + 0.02 * step}
    assert [finding.rule for finding in found_in(made_run(tmp_path / "run", STEPS, rows=rows))] == ["reward is hacked"]


HEALTHY: dict[str, dict[str, Any]] = {
    "it learns": {},
    "it learns slowly": {"rows": {"reward": lambda step: 0.1 + 0.003 * step, "accuracy": 0.12, "equal_groups": 0.7}},
    "it has learnt": {
        "rows": {
            "reward": lambda step: min(0.4 + 0.04 * step, 0.95),
            "accuracy": 0.95,
            "equal_groups": 0.85,
            "entropy": lambda step: max(0.9**step, 0.05),
        }
    },
    "it has a critic that sees": {"rows": {"explained_variance": 0.4}},
    "it pays a penalty": {
        "settings": {"recipe": {"name": "ppo", "regulariser": {"kind": "k3", "coefficient": 0.05}}},
        "rows": {"kl_reference": 0.02},
    },
    "its answers are short": {
        "rows": {"length": 1.0},
        "response_text": lambda number: "yes" if number % 2 else "no",
        "reward": lambda number: float((number + number // 4) % 2),
    },
    "it imitates": {
        "rows": {"reward": 1.0, "accuracy": None, "equal_groups": None, "logp_gap_mean": None},
        "attempts": False,
    },
}


@pytest.mark.parametrize("run", HEALTHY)
def test_nothing_is_said_of_a_healthy_run(run: str, tmp_path: Path) -> None:
    assert found_in(made_run(tmp_path / "run", STEPS, **HEALTHY[run])) == []


def test_every_rule_speaks_in_some_test() -> None:
    rules: list[Callable[..., Any]] = list(RULES)
    assert len(SICK) + 1 == len(rules)  # two rules speak of a hacked reward


def test_a_run_whose_reward_is_no_number_is_judged_all_the_same(tmp_path: Path) -> None:
    assert (
        found_in(made_run(tmp_path / "run", 8, rows={"reward": None, "equal_groups": 1.0}))[0].rule == "no mixed groups"
    )


def test_a_young_run_is_not_judged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 3 steps; 5 are needed"):
        found_in(made_run(tmp_path / "run", 3))


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no journal of a run"):
        found_in(tmp_path)


def test_a_run_without_attempts_is_judged_by_its_journal(tmp_path: Path) -> None:
    found = found_in(made_run(tmp_path / "run", STEPS, attempts=False, rows={"truncated": 0.9}))
    assert [finding.rule for finding in found] == ["limit too short"]


def test_the_command_says_it_and_loads_no_torch(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", STEPS, rows={"truncated": 0.8})
    code = (
        "import sys\nfrom upslope.cli import main\nsys.argv = ['upslope', 'why', sys.argv[1]]\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith("1. Most attempts are cut off before they end.\n   80.0 % are cut at 64 tokens")
    assert "AssertionError" not in done.stderr
