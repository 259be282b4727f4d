"""A row's own solution is run before its tests are believed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.tasks.code_task import CodeTask
from upslope.tasks.sandbox import confine, pool
from upslope.tasks.sandbox.pool import Judgement, Limits, Zygote
from upslope.types import Score

if sys.platform != "linux" or not confine.landlock_version():
    pytest.skip("needs Linux with Landlock", allow_module_level=True)

FUNCTION = {"prompt": "p", "tests": ["assert one() == 1", "assert one() + one() == 2"], "code": "def one(): return 1"}
BEGINNING = {
    "prompt": "def one():\n",
    "entry_point": "one",
    "canonical_solution": "    return 1\n",
    "test": "def check(c):\n    assert c() == 1",
}
PAIRS = {"prompt": "p", "inputs": ["3", "4"], "outputs": ["3", "4"], "code": "print(input())"}


def first_score(row: dict[str, Any], **options: Any) -> Score:
    task = CodeTask((), {}, Limits(seconds=1), **options)
    return task.score([task.build({**row, "id": "x"}, "x")], ["pass"])[0]


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("row", "wrong", "says"),
    [
        (FUNCTION, {"code": "n = [1, 1, 0]\ndef one(): return n.pop(0)"}, "assert one() + one() == 2 (within"),
        (FUNCTION, {"code": "def one():"}, "assert one() == 1 (within"),
        (BEGINNING, {"canonical_solution": "    return 2\n"}, "check(one) (within"),
        (PAIRS, {"code": "print(3)"}, "the input '4' (within"),
    ],
)
def test_a_row_whose_own_solution_fails_stops_the_run(
    row: dict[str, Any], wrong: dict[str, Any], says: str, partial: bool
) -> None:
    with pytest.raises(UserError) as caught:
        first_score({**row, **wrong}, partial=partial)
    assert str(caught.value).startswith(f"x: the row's own solution does not pass {says}")
    assert first_score({**row, **wrong}, trust_tests=True).reward == 0.0
    assert first_score(row, partial=partial).reward == 0.0


def test_demonstrations_may_be_wrong() -> None:
    assert first_score({**FUNCTION, "code": None, "demonstration": "def one(): return 2"}).reward == 0.0


def test_a_solution_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task, programs, judge = CodeTask((), {}, Limits()), list[str](), pool.Zygote.judge

    def noted(zygote: Zygote, program: str, job: Mapping[str, Any]) -> Judgement:
        programs.append(program)
        return judge(zygote, program, job)

    monkeypatch.setattr(pool.Zygote, "judge", noted)
    problem = task.build(FUNCTION, "x")
    for _ in range(2):
        task.score([problem, problem], ["a = 1", "a = 2"])
    assert sorted(programs) == ["a = 1", "a = 1", "a = 2", "a = 2", FUNCTION["code"]]
