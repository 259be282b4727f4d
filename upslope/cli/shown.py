"""``upslope shown``: what a model reads and what it imitates of a demonstration, token by token."""

from __future__ import annotations

import itertools
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from upslope.cli.options import Data, EnvironmentSpec, ModelName, Overrides, TaskName, ToolSpecs, app


@app.command(name="shown")
def show_demonstration(
    model: ModelName,
    overrides: Overrides = None,
    task: TaskName = None,
    data: Data = None,
    tools: ToolSpecs = None,
    environment: EnvironmentSpec = None,
    row: Annotated[int, typer.Option(min=1, help="Which of the demonstrations, from 1.")] = 1,
) -> None:
    """A demonstration as the model's chat template writes it, what is imitated coloured (or, in a file, in «»).

    Several blocks: the template writes earlier turns otherwise than they were written, so each block is learnt by
    itself. Any setting of the task can be given as KEY=VALUE, such as task.columns.messages=chat.
    """
    from upslope.config import load_settings
    from upslope.errors import UserError
    from upslope.inspect.words import visible
    from upslope.model.chat_renderer import ChatRenderer
    from upslope.training.named import open_run_task
    from upslope.training.prompt_lengths import with_prompt_lengths
    from upslope.training.room import addressed
    from upslope.training.shown import shown_rows
    from upslope.training.start import resolve_words
    from upslope.training.tables import task_options

    options = task_options(task, data, None, None, None, None, tools, environment) | {"model": model}
    settings = load_settings(None, overrides or (), options)
    renderer = ChatRenderer.of(*resolve_words(settings))
    opened = with_prompt_lengths(open_run_task(settings.task, settings.seed), settings.task, renderer)
    found = opened.demonstrations()
    if row > len(found):
        there = f"give a number up to {len(found)}" if found else "give data with something to imitate"
        raise UserError(f"--row {row}: there are {len(found)} demonstrations to learn from; {there}")
    console, problem = Console(), found[row - 1]
    for place, shown in enumerate(addressed(problem, opened.place, lambda: shown_rows(renderer, problem))):
        tokens = [*((i, False) for i in shown.prompt), *zip(shown.response, shown.mask, strict=True)]
        text, parts = Text(), 0
        for counted, run in itertools.groupby(tokens, key=lambda pair: pair[1]):
            said = visible(renderer.spelled([token for token, _ in run]))
            parts += counted
            text.append(said if console.is_terminal or not counted else f"«{said}»", "bold green" if counted else "dim")
        if place:
            console.print()
        console.print(
            f"{visible(opened.place(problem))}: {len(tokens)} tokens, {sum(shown.mask)} of them imitated, in {parts} "
            f"part{'s' * (parts != 1)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        console.print(text, soft_wrap=True)
