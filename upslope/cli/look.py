"""``upslope recipes``, ``diff``, ``report``, ``prove`` and ``doctor``: nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from upslope.cli.options import app


@app.command()
def recipes() -> None:
    """The named recipes with their lineage: each is its parent plus a patch."""
    from upslope.algo.family import FAMILY
    from upslope.algo.recipe import diff

    table = Table("recipe", "patch of", "changes", "cures", box=None, padding=(0, 2, 0, 0))
    for name, branch in FAMILY.items():
        parent = FAMILY[branch.parent].recipe if branch.parent else None
        changed = ", ".join(diff(parent, branch.recipe)) if parent else "(the defaults of every slot)"
        table.add_row(name, branch.parent or "-", changed, branch.cures)
    _wide().print(table)


@app.command(name="diff")
def diff_recipes(first: str, second: str) -> None:
    """The slots in which two recipes (names, or FILE.py:NAME) differ, and nothing else."""
    from upslope.algo.recipe import diff
    from upslope.inspect.words import visible
    from upslope.training.named import resolve_recipe

    table = Table("slot", box=None, padding=(0, 2, 0, 0))
    for name in (first, second):
        table.add_column(Text(visible(name)))
    for slot, (old, new) in diff(resolve_recipe({"name": first}), resolve_recipe({"name": second})).items():
        table.add_row(slot, Text(visible(old)), Text(visible(new)))
    _wide().print(table)


def _wide() -> Console:
    """A console that does not fold tables where nobody's screen sets a width."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run's or a pipeline's folder, also while it runs.")]) -> None:
    """Draw report.png from a run folder, write report.html (the page of `upslope look` as one file that can be mailed),
    and print what they show; of a pipeline's folder, a table and a picture of all stages."""
    from upslope.inspect.look.mailed import write_page
    from upslope.inspect.report import print_before_after, summary_lines, write_report
    from upslope.inspect.words import visible
    from upslope.lab.pipeline.report import facts_of, is_pipeline, table_of, write_pipeline_report

    if is_pipeline(run):
        page = write_pipeline_report(run)
        _wide().print(table_of(facts_of(run)))
        print(f"report      {page}")
        return
    write_report(run)
    page = write_page(run)
    console = Console()
    print_before_after(console, run)
    for line in [*summary_lines(run), f"page        {visible(str(page))}"]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@app.command()
def prove(
    only: Annotated[list[str] | None, typer.Option(help="A claim's number or name; repeat for several.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on standard output.")] = False,
) -> None:
    """Check the mathematics by exact enumeration, through the functions that train; exit 1 if a claim fails.

    Tiny policies, every response and every group counted with its exact probability, float64: no sampling error.
    """
    from upslope.prove.command import prove_command

    if not prove_command(only, as_json):
        raise typer.Exit(1)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="One JSON list on standard output.")] = False) -> None:
    """Look whether this machine has what training needs; exit 1 if something will not work.

    Versions against the allowed ranges, processor and precision, kernels, memory, disk, GPU, hub.
    """
    from upslope.doctor import doctor_command

    if not doctor_command(as_json=as_json):
        raise typer.Exit(1)
