"""What is wrong with a run: every rule speaks of its sickness and is silent on a healthy run."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_attempts, made_run

from upslope.errors import UserError
from upslope.inspect.why.command import found_in, judged_run
from upslope.inspect.why.diagnosis import RULES
from upslope.inspect.why.facts import RunCourse
from upslope.record.attempts import write

STEPS = 30


def falling(step: int) -> float:
    return 0.6 - 0.5 * step / STEPS


TOLD = itertools.count()


def lost(step: int) -> float:
    """A reward that rises and falls to nothing."""
    return 0.3 + 0.04 * step if step < 12 else 0.02


def penalised(kind: str = "k3", coefficient: float = 0.05, **more: Any) -> dict[str, Any]:
    return {"recipe": {"name": "ppo", "regulariser": {"kind": kind, "coefficient": coefficient} | more}}


PROMPTS = ["Ann has {} pens and buys some more", "Ben reads {} pages in the morning", "Zoe shares {} nuts with three"]


def on_to_the_next(number: int) -> str:
    """A right answer, and then other problems, as somebody writes who has only read documents."""
    return (
        f"2 + {number} = 5. {PROMPTS[(number // 4 + 1) % 3].format(number)} {PROMPTS[(number // 4 + 2) % 3].format(3)}"
    )


FLAT = {"reward": 0.3, "accuracy": 0.3}
SICK: dict[str, tuple[str, dict[str, Any]]] = {
    "most are cut": ("limit too short", {"rows": {"truncated": 0.8, "reward": 0.05, "accuracy": 0.05}}),
    "no answer is found": (
        "format missed",
        {"rows": {"reward": 0.02, "accuracy": 0.02, "equal_groups": 0.95}, "extracted": None},
    ),
    "no answer is found of a task that is an object": (
        "format missed",
        {
            "rows": {"reward": 0.02, "accuracy": 0.02, "equal_groups": 0.95},
            "extracted": None,
            "settings": {"task": {"name": ""}, "python": {"objects": ["task"], "task": "pocket"}},
        },
    ),
    "cut, and on to the next problem": (
        "format missed",
        {
            "rows": {"truncated": 1.0, "reward": 0.0, "accuracy": 0.0, "equal_groups": 1.0},
            "ended": "length",
            "extracted": None,
            "reward": 0.0,
            "prompt_text": lambda number: PROMPTS[number // 4 % 3].format(number),
            "response_text": on_to_the_next,
        },
    ),
    "cut, in circles": (
        "format missed",
        {
            "rows": {"truncated": 0.9, "reward": 0.0, "accuracy": 0.0, "equal_groups": 1.0},
            "ended": "length",
            "reward": 0.0,
            "response_text": lambda number: f"so {number} it is and " * 20,
        },
    ),
    "drawn cold": (
        "temperature too low",
        {"settings": {"sample": {"temperature": 0.1, "max_tokens": 64}}, "rows": {"equal_groups": 0.8}},
    ),
    "never right": (
        "reward always 0",
        {"rows": {"reward": 0.0, "accuracy": 0.0, "equal_groups": 1.0}, "reward": 0.0},
    ),
    "always right": (
        "reward always full",
        {"rows": {"reward": 1.0, "accuracy": 1.0, "equal_groups": 1.0}, "reward": 1.0},
    ),
    "one text for all": ("reward is hacked", {"response_text": "####", "rows": {"reward": 0.9}, "reward": 1.0}),
    "one end for all": (
        "reward is hacked",
        {
            "response_text": lambda number: f"so {number} it is\n#### {7 if number % 3 else number}",
            "reward": lambda number: float(bool(number % 3)),
        },
    ),
    "paid by the word": (
        "reward is hacked",
        {
            "mask": lambda number: [True] * (2 + number * 5 % 9) + [False] * (10 - number * 5 % 9),
            "reward": lambda number: (2 + number * 5 % 9) / 12,
        },
    ),
    "words by the yard": (
        "reward is hacked",
        {"rows": {"length": lambda step: 20 + 1.4 * step, "truncated": 0.3, "reward": lambda step: 0.1 + 0.02 * step}},
    ),
    "no group differs": (
        "no mixed groups",
        {"rows": {"equal_groups": 0.95, "reward": lambda step: 0.3 + 0.01 * (step % 2), "accuracy": 0.3}},
    ),
    "wrong again and again": (
        "attempts are duplicated",
        {"response_text": lambda number: f"always {next(TOLD) // 4}"},
    ),
    "another distribution": ("sampler and learner disagree", {"rows": {"logp_gap_mean": 0.2}}),
    "stale weights": (
        "sampler and learner disagree",
        {"rows": {"logp_gap_mean": lambda step: 1e-7 + 2e-4 * step}, "settings": {"learn": {"dtype": "auto"}}},
    ),
    "far in a step": ("rate too high", {"rows": {"kl_step": 0.5, "reward": falling, "accuracy": falling}}),
    "won and lost": (
        "rate too high",
        {"rows": {"reward": lost, "accuracy": lost, "truncated": lambda step: 0.02 if step < 12 else 0.9}},
    ),
    "imitation undone": (
        "rate too high",
        {
            "rows": {"reward": 1.0, "accuracy": None, "equal_groups": None, "loss": lambda step: 1.0 + 0.05 * step},
            "attempts": False,
        },
    ),
    "a bonus for noise": (
        "entropy runs away",
        {
            "settings": penalised("entropy_bonus", 1.0),
            "rows": {"entropy": lambda step: 0.3 + 0.05 * step, "reward": lost, "accuracy": lost},
        },
    ),
    "noise": (
        "entropy runs away",
        {"rows": {"entropy": lambda step: 1.0 + step, "reward": 0.2, "accuracy": 0.2}},
    ),
    "settled": ("entropy collapsed", {"rows": {"entropy": lambda step: 0.5**step, "accuracy": 0.3}}),
    "held by the coefficient": (
        "penalty too strong",
        {"settings": penalised(coefficient=5.0), "rows": {"kl_reference": 1e-4} | FLAT},
    ),
    "held by the gradient": (
        "penalty too strong",
        {
            "settings": penalised(),
            "rows": {"kl_reference": 0.01, "grad_norm": 3.0, "grad_norm_up": 0.5, "grad_norm_down": 0.4} | FLAT,
        },
    ),
    "held in the reward": (
        "penalty too strong",
        {
            "settings": penalised("k1", place="reward"),
            "rows": {"kl_reference": 0.2, "reward_shaped": 0.05} | FLAT,
        },
    ),
    "a critic that knows nothing": ("critic explains nothing", {"rows": {"explained_variance": -0.1}}),
    "a critic that knows nothing of problems that are tried once": (
        "critic explains nothing",
        {
            "settings": {"recipe": {"name": "ppo", "sample": {"group_size": 1}, "advantage": {"kind": "gae"}}},
            "rows": {"explained_variance": -0.1, "equal_groups": 1.0},
            "samples": 1,
        },
    ),
    "equal groups, less their mean": (
        "no mixed groups",
        {
            "settings": {"recipe": {"name": "some", "advantage": {"kind": "batch_z_score", "centre": "group"}}},
            "rows": {"equal_groups": 0.95, "reward": lambda step: 0.3 + 0.01 * (step % 2), "accuracy": 0.3},
        },
    ),
    "a critic that knows no more": (
        "critic explains nothing",
        {"rows": {"explained_variance": lambda step: 0.3 if step < 20 else -2.0}},
    ),
    "clipped every time": ("gradient always clipped", {"rows": {"grad_norm": 40.0}}),
}


@pytest.mark.parametrize("run", SICK)
def test_a_sick_run_is_named_first(run: str, tmp_path: Path) -> None:
    rule, made = SICK[run]
    found = found_in(made_run(tmp_path / "run", STEPS, **made))
    assert [finding.rule for finding in found][:1] == [rule]
    assert found[0].numbers and found[0].mend and "nan" not in found[0].numbers


def test_what_was_paid_by_the_word_is_seen_in_the_first_attempts_too(tmp_path: Path) -> None:
    """In the end all are as long as is paid best, and nothing differs."""
    run = made_run(tmp_path / "run", STEPS, reward=0.9, rows={"reward": 0.9})
    long = lambda number: 2 + number * 5 % 9  # noqa: E731
    for step in range(3):
        table = made_attempts(
            step, 4, 4, 12, "so it is", reward=lambda number: 1 - long(number) / 12,
            mask=lambda number: [True] * long(number) + [False] * (12 - long(number)),
        )  # fmt: skip
        write(run / "rollouts" / f"step-{step:06d}.parquet", table)
    found = found_in(run)
    assert found[0].rule == "reward is hacked" and "by writing less" in found[0].says
    assert "of the first attempts" in found[0].numbers


IMITATES = {"reward": 1.0, "accuracy": None, "equal_groups": None, "logp_gap_mean": None, "truncated": None}


def of_recipe(advantage: str, group_size: int = 8, **more: Any) -> dict[str, Any]:
    sample = {"kind": "attempts", "group_size": group_size}
    return {"recipe": {"name": "some", "advantage": {"kind": advantage} | more, "sample": sample}}


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
    "its attempts are long, and cut now and then": {
        "rows": {"truncated": 0.4, "length": 60},
        "ended": lambda number: "length" if number % 3 else "stop",
    },
    "it has two answers": {  # and knows which
        "rows": {"length": 1.0, "reward": 0.95, "accuracy": 0.95},
        "response_text": lambda number: "yes" if number // 4 % 2 else "no",
        "reward": lambda number: float(number % 16 > 0),
    },
    "its reward has many values": {"reward": lambda number: (number * 7 % 11) / 11},
    "its reward wavers": {"rows": {"reward": lambda step: 0.4 + 0.2 * (step * 7 % 5 - 2) / 2, "accuracy": 0.4}},
    "it goes far once, and gains by it": {"rows": {"kl_step": lambda step: 0.3 if step == 0 else 0.01}},
    "its attempts are old on purpose": {"rows": {"logp_gap_mean": lambda step: 1e-7 + 2e-4 * step, "age_max": 1.0}},
    "its sampler rounds": {
        "rows": {"logp_gap_mean": lambda step: 0.02 + 0.001 * step},
        "settings": {"learn": {"dtype": "bfloat16", "clip": 1.0}},
    },
    "it is right again and again": {
        "rows": {"reward": 0.9, "accuracy": 0.9},
        "response_text": lambda number: f"so it is {next(TOLD) // 4}, as was to be said",
        "reward": lambda number: float(number % 10 > 0),
    },
    "it is paid for a little noise": {
        "settings": penalised("entropy_bonus", 0.01),
        "rows": {"entropy": lambda step: 1.0 + 0.03 * step},
    },
    "its penalty is felt": {
        "settings": penalised(coefficient=0.5),
        "rows": {"kl_reference": 1e-3, "grad_norm": 1.0, "grad_norm_up": 0.5, "grad_norm_down": 0.4} | FLAT,
    },
    "its critic warms up": {"rows": {"explained_variance": 0.0, "warming": 1.0}},
    "its critic has little to explain": {"rows": {"explained_variance": lambda step: 0.06 if step < 24 else -0.05}},
    "it imitates": {
        "rows": {"reward": 1.0, "accuracy": None, "equal_groups": None, "logp_gap_mean": None},
        "attempts": False,
    },
    "it imitates words that end alike, and its entropy rises": {
        "settings": penalised(coefficient=5.0),
        "rows": IMITATES | {"entropy": lambda step: 0.1 + 0.1 * step, "kl_reference": 1e-4},
        "response_text": lambda number: f"so {number} it is\nThat was the answer.",
        "reward": 1.0,
    },
    "it imitates, drawn cold": {
        "settings": {"sample": {"temperature": 0.1, "max_tokens": 64}},
        "rows": IMITATES,
        "response_text": "so it is, as was to be said",
        "reward": 1.0,
    },
    "a teacher judges it, who pays nothing": {
        "settings": {"recipe": {"name": "distill", "advantage": {"kind": "teacher_gap"}}},
        "rows": {"reward": 0.0, "accuracy": 0.0, "equal_groups": 1.0, "kl_step": 0.3, "truncated": 0.6},
        "response_text": "so it is, as was to be said",
        "ended": "length",
        "reward": 0.0,
    },
    "it tries once a problem": {
        "settings": of_recipe("group_mean", group_size=1),
        "rows": {"equal_groups": 1.0},
        "samples": 1,
    },
    "it tries once a problem, drawn cold": {
        "settings": of_recipe("returns", group_size=1) | {"sample": {"temperature": 0.4, "max_tokens": 64}},
        "rows": {"equal_groups": 1.0},
        "samples": 1,
    },
    **{
        f"what it learns from needs no others: {kind}": {
            "settings": of_recipe(kind, **more),
            "rows": {"equal_groups": 0.95},
        }
        for kind, more in {"returns": {}, "ones": {}, "gae": {}, "batch_z_score": {"centre": "batch"}}.items()
    },
}


@pytest.mark.parametrize("run", HEALTHY)
def test_nothing_is_said_of_a_healthy_run(run: str, tmp_path: Path) -> None:
    assert found_in(made_run(tmp_path / "run", STEPS, **HEALTHY[run])) == []


def test_every_rule_speaks_in_some_test(tmp_path: Path) -> None:
    silent = set(RULES)
    for place, (_, made) in enumerate(SICK.values()):
        run = RunCourse(judged_run(made_run(tmp_path / str(place), STEPS, **made)))
        silent -= {rule for rule in silent if rule(run) is not None}
    assert silent == set()


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
