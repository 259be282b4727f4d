"""``upslope measure``: how often a model solves each training problem, as rows that are a data set again."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from upslope.errors import UserError
from upslope.inspect.counting import counted
from upslope.inspect.screen import console_aside
from upslope.inspect.terminal import TerminalView
from upslope.lab.evaluation import SPEAKING
from upslope.lab.rows import Row, RowFile, is_count, is_number, mark_of
from upslope.model.chat_renderer import reading
from upslope.model.policy import Policy
from upslope.plugins import source
from upslope.rollout.address import Address
from upslope.rollout.groups import sample_groups
from upslope.rollout.local import LocalSampler
from upslope.tasks.at_work import WATCH
from upslope.tasks.base import Task, sides
from upslope.tasks.right import require_right
from upslope.tasks.user import OTHERS
from upslope.training.checks import require_few, require_several
from upslope.training.fitting import fit_training
from upslope.training.named import open_run_task
from upslope.training.prompt_lengths import lengths_told
from upslope.training.prompt_notes import prompt_notes
from upslope.training.scored import score
from upslope.training.settings import RunSettings
from upslope.training.speaking import speaking
from upslope.training.start import with_limited_prompts, with_max_tokens
from upslope.training.statistics import mean_interval
from upslope.training.tally import solved
from upslope.training.task_settings import TaskSettings
from upslope.types import Group, Problem

WAVE = 32
"""Problems tried at once; after each wave its rows are on the disk."""
FOUND = ("num_samples", "num_right", "pass_rate", "mean_reward", "mean_length", "cut", "crc", "measured")
"""What a row says beside the data's own columns."""
TRYING = (*(name for name in SPEAKING if name != "eval"), "eval.samples", "eval.temperature")
"""The settings that a measurement depends on: all training problems are tried, however many an evaluation takes."""
PROMPTS = ("messages", "prompt", *OTHERS["messages"], *OTHERS["prompt"])
"""Columns that hold a prompt, one of which a row needs to be data again."""


def measure_command(settings: RunSettings, path: Path) -> None:
    """Measure all training problems that the file does not have yet, and append a row for each. Progress and a summary
    go to standard error. Raises UserError for a file that was measured otherwise."""
    if settings.eval.samples < 1:
        raise UserError(f"eval.samples = {settings.eval.samples}: a measurement needs at least one attempt a problem")
    require_several(settings)
    require_few(settings)
    if settings.task.data is not None and path.exists() and path.samefile(settings.task.data):
        raise UserError(f"{path} is the data itself; choose another file")
    file = measured_file(path)
    task = open_run_task(settings.task, settings.seed)
    require_right(task, "upslope measure")
    task = with_limited_prompts(task, settings)
    for line in lengths_told(task, ("train",)):
        WATCH.say(line)
    require_unused(task.problems("train"))
    aside = console_aside()
    with file, speaking(settings, lambda: TerminalView(aside)) as policy:
        settings = with_max_tokens(settings, task, policy.max_positions)
        fitted = fit_training(task, settings, policy)
        for line in fitted.lines:
            WATCH.say(line)
        task, problems = fitted.task, list(fitted.task.problems("train"))
        of_right: dict[str, Any] = {} if settings.task.right is None else {"right": settings.task.right}
        wording = [settings.task.template, settings.task.chat_template_kwargs, settings.task.keep_special]
        of_wording = {} if wording == ["auto", {}, False] else {"wording of prompts": wording}
        rewards = [[spec, source(spec)] for spec in settings.task.rewards]
        mark = mark_of(
            settings,
            task,
            policy,
            samples=settings.eval.samples,
            reward=[rewards, settings.task.reward_weights],
            **of_right,
            **of_wording,
            **of_world(settings.task),
        )
        rows = file.read(mark)
        require_same(path, rows, problems)
        known = {row["id"] for row in rows}
        left = [p for p in problems if p.id not in known]
        for row in _measured(task, policy, problems, left, settings, aside):
            file.add(row)
            rows.append(row)
    for line in [*summed_up(rows), *left_unmeasured(task, len(rows))]:
        aside.print(line, highlight=False, markup=False)


def measured_file(path: Path) -> RowFile:
    """A file of such rows. Raises UserError for a path where none can be."""
    return RowFile(path, is_measurement, lambda row: row["id"])


def is_measurement(row: Row) -> bool:
    """Whether a row says of a problem what a measurement says."""
    num, num_right = row["num_samples"], row["num_right"]
    return (
        isinstance(row["id"], str)
        and is_count(row["crc"])
        and is_count(num)
        and is_count(num_right)
        and num_right <= num
        and num > 0
        and row["pass_rate"] == num_right / num
        and all(is_number(row[name]) for name in ("mean_reward", "mean_length", "cut"))
    )


def of_world(task: TaskSettings) -> dict[str, Any]:
    """What attempts depend on where there are tools or an environment, by name."""
    if not (task.tools or task.environment):
        return {}
    world = [[spec, source(spec)] for spec in (*task.tools, task.environment or "") if spec]
    return {"world": [world, task.max_turns, task.max_seconds, task.tool_seconds]}


def left_unmeasured(task: Task, num: int) -> list[str]:
    """A line where the data has held-out problems too, which were not measured."""
    num_there = {split: len(found) for split, found in sides(task).items()}.get("test", 0)
    return [f"{num} of {num + num_there} problems of the data: {num_there} are held out"] if num_there else []


def require_unused(problems: Sequence[Problem]) -> None:
    """Raise UserError for a column of the data that a row would overwrite (one that was measured before may be)."""
    for problem in problems:
        taken = [] if "measured" in problem.columns else [name for name in FOUND if name in problem.columns]
        if taken:
            raise UserError(f"{problem.id} has a column {taken[0]!r}, which a measurement would overwrite; rename it")


def require_same(path: Path, rows: Sequence[Row], problems: Sequence[Problem]) -> None:
    """Raise UserError if a row is of no problem of these, or of one that has changed since."""
    now = {p.id: problem_crc(p) for p in problems}
    for row in rows:
        if row["id"] not in now:
            raise UserError(f"{path} has rows of other problems, such as {row['id']!r}; choose another file")
        if row["crc"] != now[row["id"]]:
            raise UserError(f"{path}: the problem {row['id']!r} is another now; choose another file")


def _measured(
    task: Task,
    policy: Policy,
    problems: Sequence[Problem],
    left: Sequence[Problem],
    settings: RunSettings,
    aside: Console,
) -> Iterator[Row]:
    """A row for every problem that is left, wave by wave."""
    sampler = LocalSampler(policy, max_rows=settings.sample.max_rows)
    sampling = replace(settings.sample.sampling(), temperature=settings.eval.temperature)
    renderer = reading(policy.renderer, special=task.keep_special)
    for note in prompt_notes(left, renderer):
        WATCH.say(note)
    done = len(problems) - len(left)
    with counted(aside, "problems measured", len(problems), done) as told:
        for begin in range(0, len(left), WAVE):
            wave = left[begin : begin + WAVE]

            def seen(_: int, ended: int, before: int = done) -> None:
                told(before + ended // settings.eval.samples, "")

            drawn = sample_groups(
                sampler,
                renderer,
                wave,
                settings.eval.samples,
                sampling,
                Address(settings.seed, "measure"),
                seen,
                episode=task.episode,
            )
            yield from map(row_of, score(task, renderer, wave, drawn))
            done += len(wave)
            told(done, "")


def row_of(group: Group) -> Row:
    """A problem's own columns, its prompt and truth where they have none, and what came of the attempts at it."""
    problem, rollouts = group.problem, group.rollouts
    columns = dict(problem.columns)
    if not any(name in columns for name in PROMPTS):
        prompt = problem.messages[0]["content"] if len(problem.messages) == 1 else list(map(dict, problem.messages))
        columns = {"prompt": prompt, "answer": problem.truth} | columns
    num_right = sum(map(solved, rollouts))
    return {"id": problem.id} | columns | {
        "id": problem.id,  # also where the data has an id of its own: by this one the file goes on
        "num_samples": len(rollouts),
        "num_right": num_right,
        "pass_rate": num_right / len(rollouts),
        "mean_reward": sum(r.reward for r in rollouts) / len(rollouts),
        "mean_length": sum(r.num_chosen for r in rollouts) / len(rollouts),
        "cut": sum(r.ended == "length" for r in rollouts) / len(rollouts),
        "crc": problem_crc(problem),
    }  # fmt: skip


def problem_crc(problem: Problem) -> int:
    """A checksum of what a problem asks and what is right."""
    told = [[message.get("role"), message.get("content")] for message in problem.messages], problem.truth
    return zlib.crc32(repr(told).encode("utf-8", "replace"))


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
        'learn where there is something to learn: task.where="0 < pass_rate < 0.8", with this file as --data and the '
        "held-out problems as --eval-data",
    ]
