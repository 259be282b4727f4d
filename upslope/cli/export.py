"""``upslope export``: a run that exists, in a form that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upslope.cli.options import app


@app.command(name="export")
def export_to(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    to: Annotated[list[str], typer.Option(help="trackio, tensorboard or wandb; repeat for several.")],
) -> None:
    """Send a run's journal and sample attempts to trackers: what they do not have of it yet, so twice doubles nothing.

    docs/trackers.md says what is sent. Run files name the same trackers as `track`, to be sent as the run goes.
    """
    from upslope.errors import UserError, nearest
    from upslope.record.trackers.export import export_run
    from upslope.record.trackers.known import TRACKER_NAMES

    for name in to:
        if name not in TRACKER_NAMES:
            raise UserError(f"--to {name} is no tracker{nearest(name, TRACKER_NAMES)}")
    for line in export_run(run, to):
        print(line)
