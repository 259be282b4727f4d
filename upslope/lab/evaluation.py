"""``upslope eval``: a model, a task, a table."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from upslope.inspect.terminal import TerminalView
from upslope.inspect.words import visible
from upslope.lab.kept import KeptSampler
from upslope.lab.rows import RowFile, mark_of
from upslope.rollout.base import Sampler
from upslope.tasks.base import Task
from upslope.training.checks import check_evaluation
from upslope.training.evaluate import Evaluation
from upslope.training.named import open_run_task
from upslope.training.settings import RunSettings
from upslope.training.speaking import evaluate_on, speaking
from upslope.training.start import with_limit

SPEAKING = ("new", "task", "sample", "eval", "seed", "device", "threads", "deterministic", "learn.dtype")
"""The settings that a model's attempts depend on."""


def evaluate_command(settings: RunSettings, attempts: Path | None = None, *, as_json: bool) -> None:
    """Evaluate ``settings.model`` and print a table (progress on standard error), or one JSON object. Every attempt
    goes to the file ``attempts``, and what is there is not made again. Raises UserError for one of another evaluation.
    """
    settings, task, evaluation = evaluated(settings, attempts)
    if as_json:
        print(json.dumps({"model": settings.model, "task": task.name} | evaluation.row))
        return
    found = evaluation.row
    print(f"{settings.model} on {task.name}, up to {settings.sample.max_tokens} tokens")
    table = Table("measure", "value", "95 % interval", "problems", box=None, padding=(0, 2, 0, 0))
    for name, m in evaluation.measures.items():
        name = {"greedy": "greedy accuracy", "lenient": "greedy, leniently"}.get(name, name)
        table.add_row(
            Text(visible(name)), f"{m['value']:.1%}", f"{m['low']:.1%} to {m['high']:.1%}", str(m["num_problems"])
        )
    Console().print(table)
    said = f", of the world {found['heard']:.1f}" if "heard" in found else ""
    print(
        f"mean reward {found['reward']:.3f}, length {found['length']:.1f} tokens{said}, cut {found['truncated']:.1%} "
        "(greedy)"
    )


def evaluated(settings: RunSettings, attempts: Path | None = None) -> tuple[RunSettings, Task, Evaluation]:
    """The same without a word on standard output: the settings with nothing left open, the task, and what was found."""
    check_evaluation(settings)
    task = open_run_task(settings.task, settings.seed)
    num_problems = min(settings.eval.problems, len(task.problems("test")))
    aside = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    file = None if attempts is None else RowFile(attempts)
    with (
        contextlib.nullcontext() if file is None else file,
        speaking(settings, lambda: TerminalView(aside)) as policy,
        Progress(*columns, console=aside, transient=True) as progress,
    ):
        bar = progress.add_task("attempts", total=num_problems * (1 + settings.eval.samples))

        def seen(num_tokens: int, num_rows: int) -> None:
            progress.update(bar, completed=num_rows, description=f"{num_tokens} tokens")

        def kept(sampler: Sampler) -> Sampler:
            if file is None:
                return sampler
            return KeptSampler(sampler, file, mark_of(settings, task, policy), policy.renderer.text)

        settings = with_limit(settings, task, policy.max_positions)
        evaluation = evaluate_on(task, settings, policy, seen, kept)
    return settings, task, evaluation
