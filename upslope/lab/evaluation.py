"""``upslope eval``: a model, a task, a table."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from upslope.inspect.counting import counted
from upslope.inspect.data_stream import data_stream
from upslope.inspect.reward_words import reward_lines
from upslope.inspect.screen import console_aside
from upslope.inspect.terminal import TerminalView
from upslope.inspect.words import visible
from upslope.lab.kept import KeptSampler, attempts_file
from upslope.lab.rows import mark_of
from upslope.model.chat_renderer import reading
from upslope.record.journal import told_problems
from upslope.rollout.base import Sampler
from upslope.tasks.at_work import WATCH
from upslope.tasks.base import Task
from upslope.tasks.right import NO_ACCURACY
from upslope.training.checks import check_evaluation, require_told
from upslope.training.evaluate import Evaluation
from upslope.training.named import open_run_task
from upslope.training.prompt_lengths import lengths_told
from upslope.training.settings import RunSettings
from upslope.training.speaking import evaluate_on, speaking
from upslope.training.start import with_limited_prompts, with_max_tokens

SPEAKING = ("new", "task", "sample", "eval", "seed", "device", "threads", "deterministic", "learn.dtype")
"""The settings that a model's attempts depend on."""


def evaluate_command(
    settings: RunSettings, attempts: Path | None = None, *, whole: bool = False, as_json: bool
) -> None:
    """Evaluate ``settings.model`` and print a table (progress on standard error), or one JSON object. Every attempt
    goes to the file ``attempts``, and what is there is not made again. ``whole``: the data was named to be evaluated,
    so a file that is not divided is held out as a whole. Raises UserError for attempts of another evaluation.
    """
    settings, task, evaluation = evaluated(settings, attempts, whole=whole)
    if as_json:
        print(json.dumps({"model": settings.model, "task": task.name} | evaluation.row), file=data_stream())
        return
    found = evaluation.row
    print(f"{settings.model} on {task.name}, up to {settings.sample.max_tokens} tokens")
    table = Table("measure", "value", "95 % interval", "problems", box=None, padding=(0, 2, 0, 0))
    there = found["num_held_out"]
    for name, m in evaluation.measures.items():
        whole_set = m["num_problems"] == found["num_problems"] < there
        num = f"{m['num_problems']} of {there}" if whole_set else str(m["num_problems"])
        name = {"greedy": "greedy accuracy", "lenient": "greedy, leniently"}.get(name, name)
        table.add_row(Text(visible(name)), f"{m['value']:.1%}", f"{m['low']:.1%} to {m['high']:.1%}", num)
    if evaluation.measures:
        Console().print(table)
    else:
        print(f"{told_problems(found)} problems; {NO_ACCURACY}")
    said = f", of the world {found['heard']:.1f}" if "heard" in found else ""
    print(
        f"mean reward {found['reward']:.3f}, spread {found['reward_std']:.3f}, length {found['length']:.1f} "
        f"tokens{said}, cut {found['truncated']:.1%} (greedy)"
    )
    for line in reward_lines([found]):
        print(line)


def evaluated(
    settings: RunSettings, attempts: Path | None = None, *, whole: bool = False
) -> tuple[RunSettings, Task, Evaluation]:
    """The same without a word on standard output: the settings with nothing left open, the task, and what was found."""
    check_evaluation(settings)
    task = open_run_task(settings.task, settings.seed, whole=whole)
    require_told(settings, task)
    task = with_limited_prompts(task, settings)
    for line in lengths_told(task, ("test",)):
        WATCH.say(line)
    num_problems = min(settings.eval.problems, len(task.problems("test")))
    aside = console_aside()
    file = None if attempts is None else attempts_file(attempts)
    with (
        contextlib.nullcontext() if file is None else file,
        speaking(settings, lambda: TerminalView(aside)) as policy,
        counted(aside, "attempts", num_problems * (1 + settings.eval.samples)) as told,
    ):

        def seen(num_tokens: int, num_rows: int) -> None:
            told(num_rows, f"{num_tokens} tokens")

        def kept(sampler: Sampler) -> Sampler:
            if file is None:
                return sampler
            renderer = reading(policy.renderer, special=task.keep_special)
            return KeptSampler(sampler, file, mark_of(settings, task, policy), renderer)

        settings = with_max_tokens(settings, task, policy.max_positions)
        evaluation = evaluate_on(task, settings, policy, seen, kept)
    return settings, task, evaluation
