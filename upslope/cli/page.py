"""``upslope look``, ``why`` and ``compare``: what runs recorded, shown and judged. No torch is loaded for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from upslope.cli.options import app


@app.command()
def look(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Folders of runs, or folders with runs in them.", show_default="runs")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Look at runs in the browser: curves, what is wrong, every attempt, every token. Live while they train.

    The page is served on this machine alone, under an address that nobody else can guess. Ctrl-C ends it.
    """
    from upslope.inspect.look.serve import serve_page

    def tell(address: str) -> None:
        print(f"{address}  (Ctrl-C ends it)", flush=True)
        if browser:
            import webbrowser

            webbrowser.open(address)

    serve_page(runs or [Path("runs")], port, tell)


@app.command()
def why(
    run: Annotated[Path, typer.Argument(help="A run's folder, also while it runs.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on standard output.")] = False,
) -> None:
    """Why a run does not learn: what looks wrong, the numbers behind it, and what helps. Exit 1 if anything does."""
    from upslope.inspect.why.command import judged_run
    from upslope.inspect.why.diagnosis import diagnose
    from upslope.inspect.why.finding import Diagnoses
    from upslope.inspect.words import visible

    opened = judged_run(run)
    if opened.trouble:
        print(f"not all of it can be read: {visible(opened.trouble)}", file=sys.stderr)
    found = Diagnoses(diagnose(opened))
    if as_json:
        print(json.dumps([finding.told() for finding in found], indent=1))
    else:
        print(visible(repr(found)))
    if found:
        raise typer.Exit(1)


@app.command(name="compare")
def compare_runs(
    first: Annotated[str, typer.Argument(help="A run's folder, RUN@STEP, or a file rollouts/eval-*.parquet.")],
    second: Annotated[str, typer.Argument(help="The same of the other one.")],
    show: Annotated[int, typer.Option(min=0, help="Problems shown side by side, won ones first.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Which of two evaluations is better, on the same problems: accuracies, their difference with its interval, and the
    problems that were won and lost."""
    from upslope.inspect.compare.command import compare_command

    compare_command(first, second, show, as_json=as_json)
