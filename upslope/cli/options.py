"""The command line itself, and the options that several commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from upslope.errors import UserError
from upslope.tasks.builtin import tasks_help

ORDER = (
    *("tokenizer", "train", "pipeline", "eval", "measure", "score", "data", "shown"),
    *("look", "why", "compare", "report", "export", "serve", "recipes", "diff", "prove", "doctor", "bench", "plan"),
    "ladder",
)


UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""A word that is no command, no option, or no value of one."""


class InOrder(TyperGroup):
    """Commands as a user comes to need them, wherever they are defined."""

    def make_context(self, *given: Any, **more: Any) -> Any:
        with one_line():
            return super().make_context(*given, **more)

    def invoke(self, ctx: Any) -> Any:
        with one_line():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in ORDER if name in self.commands]


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """A wrong word as every other mistake is told: typer's own lines are several, and quote it as it is. Without any
    word there is the help."""
    try:
        yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        of: Any = error
        where = of.ctx.command_path if of.ctx is not None else "upslope"
        raise UserError(f"{of.format_message()} ({where} --help says what there is)") from error


app = typer.Typer(
    cls=InOrder,
    help="Train language models by reinforcement learning with rewards that can be checked.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

ModelName = Annotated[str, typer.Argument(help="Directory, hub id, run folder, pocket[:STAGE], new:llama or new:DIR.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float64.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, as task.options.calculator=true.")
]
MaxTokens = Annotated[
    int | None, typer.Option(help="Longest attempt (a run on its own task: the run's; else the task's).")
]
Seed = Annotated[
    int | None, typer.Option(help="Of draws and pocket's problems (a run on its own task: the run's; else 0).")
]
TaskName = Annotated[str | None, typer.Option("--task", help=tasks_help())]
Data = Annotated[str | None, typer.Option(help="Folder with train.* and test.*, or one file: JSONL, CSV, Parquet ...")]
TextSources = Annotated[
    list[str] | None,
    typer.Option("--text", help="Plain text: file (txt, md, jsonl, parquet), folder, pattern or hub id; repeatable."),
]
EvalData = Annotated[str | None, typer.Option(help="File of held-out problems.")]
Trust = Annotated[bool, typer.Option("--trust", help="Run the code that a run made elsewhere names.")]
RewardSpecs = Annotated[list[str] | None, typer.Option("--reward", help="FILE.py:FUNCTION; repeat for several.")]
ToolSpecs = Annotated[
    list[str] | None, typer.Option("--tools", help="FILE.py:NAME,NAME: functions that attempts may call; repeatable.")
]
EnvironmentSpec = Annotated[
    str | None, typer.Option("--environment", help="FILE.py:CLASS whose methods attempts may call.")
]
RewardWeights = Annotated[list[float] | None, typer.Option("--reward-weight", help="One for each --reward.")]
