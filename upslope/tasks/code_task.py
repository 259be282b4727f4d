"""Task ``code``: the model writes a program, and the reward is what its tests say.

``upslope.tasks.code_rows`` has the shapes of rows (MBPP's, HumanEval's, a general one, scripts),
``upslope.tasks.code_program`` says which part of a response is the program. The prompt is one user message: the row's
prompt (of MBPP with the first test, since the name of the function stands nowhere else), and an instruction.

Before its first attempt counts, a row's own solution is run: if that does not pass, the row is at fault, and is named.
The reward is 1.0 if every test is passed, else 0.0; with ``partial`` it is the share of tests that are. Programs are
run in a sandbox (``upslope.tasks.sandbox``, docs/code.md): each attempt in processes of its own, which can read nothing
but Python's library, write nowhere, reach nothing, and are killed after ``seconds`` of computing (twice that by the
clock) or beyond ``memory_mb``. Where there is no such sandbox, nothing is run: there is no way to do without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from upslope.errors import UserError
from upslope.tasks.code_program import completed, program_in
from upslope.tasks.code_rows import FIELDS, Exercise, exercise_of, has_tests
from upslope.tasks.columns import Columns
from upslope.tasks.files import Files, find_files
from upslope.tasks.problem_set import Row
from upslope.tasks.rewards import NO_REWARDS
from upslope.tasks.row_task import RowTask
from upslope.tasks.sandbox.pool import Limits, Sandbox, Zygote, require_sandbox, workers_for
from upslope.types import Problem, Score

CodeAttempt = tuple[str, Exercise, str]
"""The problem's id, the exercise and a program."""
LEAST_MEMORY_MB = 64
"""An interpreter with what is loaded before a program needs about half of it."""
MOST_SECONDS = 600


class CodeTask(RowTask):
    """Rows with tests, and the sandbox that runs them."""

    name = "code"
    max_tokens = 512
    fields = FIELDS

    def __init__(
        self,
        files: Files,
        columns: Columns,
        limits: Limits,
        partial: bool = False,
        instruction: str | None = None,
        trust_tests: bool = False,
    ) -> None:
        super().__init__(files, NO_REWARDS, columns)
        self._limits, self._partial, self._instruction = limits, partial, instruction
        self._trust_tests = trust_tests
        self._proven: set[Exercise] = set()

    def build(self, row: Mapping[str, Any], where: str) -> Problem:
        exercise = exercise_of(row, where)
        names = [str(row[key]) for key in ("id", "task_id") if row.get(key) is not None]
        return Problem(
            id=names[0] if names else "",
            messages=({"role": "user", "content": self._told(exercise)},),
            demonstration=exercise.demonstration,
            columns=dict(row),
        )

    def without_files(self) -> Iterable[Row]:
        raise UserError("task code has no data: give --data FILE with rows that have tests (docs/code.md)")

    def build_to_score(self, row: Mapping[str, Any], where: str) -> Problem | None:
        """A line of ``upslope score`` that has its own tests."""
        return dataclasses.replace(self.build(row, where), id=where) if has_tests(row) else None

    def check_rewards(self) -> None:
        require_sandbox(self._limits)

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """Raises UserError for a test that no program could pass, Unavailable where the sandbox fails: never 0."""
        exercises = {problem.id: exercise_of(problem.columns, problem.id) for problem in problems}
        programs = [
            _program(exercises[problem.id], response) for problem, response in zip(problems, responses, strict=True)
        ]
        written = [
            (problem.id, exercises[problem.id], program)
            for problem, program in zip(problems, programs, strict=True)
            if program is not None
        ]
        if not written:
            return [Score(0.0) for _ in programs]
        proofs = self._unproven(exercises)
        with Sandbox(self._limits, workers_for(len(proofs) + len(written))) as sandbox:
            found = sandbox.map(self._passed, [*proofs, *written])
        self._prove(proofs, found[: len(proofs)])
        rewards = (
            self._reward(attempt[1], passed) for attempt, passed in zip(written, found[len(proofs) :], strict=True)
        )
        return [Score(0.0 if program is None else next(rewards), extracted=program) for program in programs]

    def _unproven(self, exercises: Mapping[str, Exercise]) -> list[CodeAttempt]:
        """The solutions of rows that are scored for the first time."""
        new = {exercise: id for id, exercise in exercises.items() if exercise not in self._proven}
        found = [(id, exercise, exercise.solution) for exercise, id in new.items() if exercise.solution is not None]
        return [] if self._trust_tests else found

    def _prove(self, proofs: Sequence[CodeAttempt], found: Sequence[Sequence[bool]]) -> None:
        """Raise UserError for a row whose own solution does not pass: then perhaps nobody can."""
        for (id, exercise, _), passed in zip(proofs, found, strict=True):
            if sum(passed) < exercise.num_tests:
                first = [*passed, False].index(False)
                test = exercise.tests[first] if exercise.tests else f"the input {exercise.pairs[first][0]!r:.60}"
                raise UserError(
                    f"{id}: the row's own solution does not pass {' '.join(test.split()):.80} (within "
                    f"{self._limits.seconds} s and {self._limits.memory_mb} MB); mend or drop the row, or set "
                    "task.options.trust_tests to true"
                )
            self._proven.add(exercise)

    def _told(self, exercise: Exercise) -> str:
        instruction = exercise.instruction if self._instruction is None else self._instruction
        if not exercise.entry:
            return f"{exercise.prompt.rstrip()}\n\n{instruction}" if instruction else exercise.prompt
        return f"{instruction}\n\n```python\n{exercise.prompt.rstrip()}\n```" if instruction else exercise.prompt

    def _reward(self, exercise: Exercise, passed: Sequence[bool]) -> float:
        share = sum(passed) / exercise.num_tests
        return share if self._partial else float(share == 1)

    def _passed(self, zygote: Zygote, attempt: CodeAttempt) -> Sequence[bool]:
        """Which tests were passed, as far as they were run."""
        where, exercise, program = attempt
        if exercise.pairs:
            return self._run_pairs(zygote, exercise, program)
        verdict = zygote.judge(program, self._job(exercise))
        if verdict.fault:
            raise UserError(f"{where}: {verdict.fault}; mend the test or drop the row")
        return verdict.passed

    def _job(self, exercise: Exercise) -> Mapping[str, object]:
        return {
            "before": exercise.before,
            "names": exercise.names,
            "after": exercise.after,
            "tests": exercise.tests,
            "all": self._partial,
        }

    def _run_pairs(self, zygote: Zygote, exercise: Exercise, program: str) -> list[bool]:
        passed: list[bool] = []
        for given, wanted in exercise.pairs:
            if self._partial or all(passed):
                ended = zygote.run(program, given)
                passed.append(ended.well and _lines(ended.output.decode(errors="replace")) == _lines(wanted))
        return passed


def open(
    data: str | None = None,
    eval_data: str | None = None,
    columns: Columns = MappingProxyType({}),
    partial: bool = False,
    seconds: int = Limits.seconds,
    memory_mb: int = Limits.memory_mb,
    instruction: str | None = None,
    trust_tests: bool = False,
) -> CodeTask:
    """The task. Paths are checked now, rows are read when they are first needed. ``instruction`` is told to the model
    instead of the built-in one; an empty one leaves it out. ``trust_tests`` leaves out the check that a row's solution
    passes its tests."""
    if not 1 <= seconds <= MOST_SECONDS:
        raise UserError(f"option 'seconds' of task code is {seconds}; it must be from 1 to {MOST_SECONDS}")
    if memory_mb < LEAST_MEMORY_MB:
        raise UserError(f"option 'memory_mb' of task code is {memory_mb}; it must be at least {LEAST_MEMORY_MB}")
    files = find_files(data, eval_data) if data is not None else ()
    return CodeTask(files, columns, Limits(seconds, memory_mb), partial, instruction, trust_tests)


def _program(exercise: Exercise, response: str) -> str | None:
    program = program_in(response)
    if program is None or exercise.entry is None:
        return program
    return completed(exercise.prompt, exercise.entry, program)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
