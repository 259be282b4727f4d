"""``upslope measure``: how often a model solves each training problem, as rows that are a data set again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from upslope.errors import UserError
from upslope.inspect.terminal import TerminalView
from upslope.lab.kept import drawn_with, mark_of, read_rows, write_row
from upslope.model.policy import Policy
from upslope.rollout.address import Address
from upslope.rollout.groups import sample_groups
from upslope.rollout.local import LocalSampler
from upslope.tasks.base import Task
from upslope.training.scored import score
from upslope.training.settings import RunSettings
from upslope.training.speaking import speaking
from upslope.training.start import open_run_task, with_limit
from upslope.training.statistics import mean_interval
from upslope.training.tally import solved
from upslope.types import Group, Problem

WAVE = 32
"""Problems tried at once; after each wave its rows are on the disk."""


def measure_command(settings: RunSettings, file: Path) -> None:
    """Measure all training problems that ``file`` does not have yet, and append a row for each. Progress and a summary
    go to standard error. Raises UserError for a file that was measured otherwise."""
    task = open_run_task(settings.task, settings.seed)
    problems = list(task.problems("train"))
    aside = Console(stderr=True)
    with speaking(settings, lambda: TerminalView(aside)) as policy:
        settings = with_limit(settings, task, policy.max_positions)
        mark = mark_of(policy, *drawn_with(settings, task), settings.eval.samples)
        known = {row["id"] for row in read_rows(file, mark)}
        stray = known - {p.id for p in problems}
        if stray:
            raise UserError(f"{file} has rows of other problems, such as {sorted(stray)[0]!r}; choose another file")
        left = [p for p in problems if p.id not in known]
        with file.open("a", encoding="utf-8") as out:
            for row in _measured(task, policy, problems, left, settings, aside):
                write_row(out, row, mark)
            os.fsync(out.fileno())
    for line in summed_up(read_rows(file, mark)):
        aside.print(line, highlight=False, markup=False)


def _measured(
    task: Task,
    policy: Policy,
    problems: Sequence[Problem],
    left: Sequence[Problem],
    settings: RunSettings,
    aside: Console,
) -> Iterator[dict[str, Any]]:
    """A row for every problem that is left, wave by wave."""
    sampler = LocalSampler(policy, max_rows=settings.sample.max_rows)
    sampling = replace(settings.sample.sampling(), temperature=settings.eval.temperature)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=aside, transient=True) as progress:
        bar = progress.add_task("problems measured", total=len(problems), completed=len(problems) - len(left))
        for begin in range(0, len(left), WAVE):
            wave = left[begin : begin + WAVE]
            drawn = sample_groups(
                sampler,
                policy.renderer,
                wave,
                settings.eval.samples,
                sampling,
                Address(settings.seed, "measure"),
                episode=task.episode,
            )
            yield from map(row_of, score(task, policy.renderer, wave, drawn))
            progress.advance(bar, len(wave))


def row_of(group: Group) -> dict[str, Any]:
    """A problem's own columns (or prompt and truth, where it has none), and what came of the attempts at it."""
    problem, rollouts = group.problem, group.rollouts
    columns = dict(problem.columns) or {"prompt": problem.messages[-1]["content"], "answer": problem.truth}
    num_right = sum(map(solved, rollouts))
    return {"id": problem.id} | columns | {
        "id": problem.id,  # also where the data has an id of its own: by this one the file goes on
        "num_samples": len(rollouts),
        "num_right": num_right,
        "pass_rate": num_right / len(rollouts),
        "mean_reward": sum(r.reward for r in rollouts) / len(rollouts),
        "mean_length": sum(r.num_chosen for r in rollouts) / len(rollouts),
        "cut": sum(r.ended == "length" for r in rollouts) / len(rollouts),
    }  # fmt: skip


def summed_up(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many problems are solved never, sometimes, always; and the mean pass rate."""
    rates = [row["pass_rate"] for row in rows]
    shares = {
        "never": sum(r == 0 for r in rates),
        "sometimes": sum(0 < r < 1 for r in rates),
        "always": sum(r == 1 for r in rates),
    }
    mean = mean_interval(rates)
    return [
        f"{len(rates)} problems, {rows[0]['num_samples']} attempts each: "
        + ", ".join(f"{name} solved {num} ({num / len(rates):.1%})" for name, num in shares.items()),
        f"pass rate {mean.value:.1%} [{mean.low:.1%}, {mean.high:.1%}]",
        'learn where there is something to learn: task.where="0 < pass_rate < 0.8", with this file as --data',
    ]
