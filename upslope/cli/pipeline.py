"""``upslope pipeline``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from upslope.cli.options import app
from upslope.errors import Stopped, UserError


@app.command(name="pipeline")
def run_pipeline(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="Shared settings, and a [[stage]] for each stage.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[STAGE.KEY=VALUE]...", help="For one stage; KEY=VALUE: for all.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="This stage alone; repeat for several.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="Set this stage and all after it aside, and do them anew.")
    ] = None,
    redo: Annotated[
        bool, typer.Option("--redo", help="Set stages aside that were made with other settings, and do them anew.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="The pipeline's folder under --out.")] = None,
    out: Annotated[str | None, typer.Option(help="Where it goes (default: runs).")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the live view.")] = False,
) -> None:
    """Do the stages of a file one after another, each a run that begins where the last ended; then a table of all.

    A stage that is done is skipped, and one that was stopped or killed goes on, when the same command is given again.
    """
    from upslope.inspect.report import print_before_after
    from upslope.inspect.screen import unbreakable
    from upslope.inspect.terminal import TerminalView
    from upslope.lab.pipeline.command import how_to_repeat, pipeline
    from upslope.lab.pipeline.report import PICTURE, REPORT, table_of
    from upslope.training.ending import AtOnce
    from upslope.training.memory import keep_freed_memory
    from upslope.training.tables import require_filled

    require_filled({"--name": name, "--out": out, "--from": since})
    if "=" in str(file):
        raise UserError(f"{file} is a setting; the file of the pipeline comes first")
    keep_freed_memory()
    sys.stdout, sys.stderr = unbreakable(sys.stdout), unbreakable(sys.stderr)  # rewards may print as well
    console = Console(file=sys.stdout)

    def say(line: str) -> None:
        console.print(Text(line, "bold"), soft_wrap=True)

    try:
        stages = pipeline(
            file,
            overrides or (),
            name=name,
            out=out,
            only=only or (),
            since=since or "",
            redo=redo,
            progress=lambda: TerminalView(console, plain=plain or None),
            say=say,
            again=f"continue with: {how_to_repeat(str(file), overrides or (), name, out, only or ())}",
        )
    except AtOnce as stop:
        raise Stopped(f"at once, within a step; {stop}", stop.signal) from None
    trained = [stage for stage in stages if stage.steps]
    if trained:
        print_before_after(console, trained[-1].folder)
    table = Console(file=sys.stdout, width=None if console.is_terminal else 200)
    table.print(table_of(stages))
    folder = stages[-1].folder.parent
    for what, left in (("report", REPORT), ("picture", PICTURE)):
        if (folder / left).exists():  # a tokenizer alone has no curve
            console.print(f"{what:11} {folder / left}", highlight=False, markup=False, soft_wrap=True)
