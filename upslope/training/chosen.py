"""Which held-out problems are evaluated where there are more than are wanted."""

from __future__ import annotations

from upslope.rollout.address import Address
from upslope.tasks.base import Task
from upslope.types import Problem


def chosen_problems(task: Task, num: int) -> list[Problem]:
    """``num`` of the task's held-out problems, in their order; all if there are no more. Raises UserError if there are
    none.

    A file is often sorted, so its first rows are no sample of it (those of a task with ``independent`` problems are).
    Each problem has a number of its own, a function of its id and of nothing else, and those with the least are taken:
    the same ones in every run, whatever its seed; and of a larger number, these and more.
    """
    problems = task.problems("test")
    if num >= len(problems) or task.independent:
        return list(problems)[:num]
    uniforms = Address(0, "held out").uniforms([(problem.id, 0) for problem in problems], 1)[:, 0]
    least = sorted(range(len(problems)), key=lambda i: (float(uniforms[i]), i))[:num]
    return [problems[i] for i in sorted(least)]
