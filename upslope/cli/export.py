"""``upslope export``: a run that exists, in a form that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upslope.cli.options import app


@app.command(name="export")
def export_to(
    run: Annotated[str, typer.Argument(help="A run's folder; RUN@best: its best checkpoint.")],
    to: Annotated[list[str] | None, typer.Option(help="trackio, tensorboard or wandb; repeat for several.")] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="All weights: an adapter's are added to its base's.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Where the model goes; RUN/model without.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; as learnt without.")] = None,
) -> None:
    """Write a run's model as a directory that other programs open, with a card; or (--to) send the run to trackers.

    The model: weights, tokenizer, chat template, generation config, and README.md with recipe, data and figures. An
    adapter stays one unless --merged. docs/run-folder.md says who opens it.

    Trackers are sent the journal and sample attempts: what they do not have of it yet, so twice doubles nothing.
    docs/trackers.md says what is sent. Run files name the same trackers as `track`, to be sent as the run goes.
    """
    from upslope.errors import UserError, nearest
    from upslope.model.names import folder_and_best
    from upslope.record.trackers.known import TRACKER_NAMES

    names, folder = to or [], folder_and_best(run)[0]
    for name in names:
        if name not in TRACKER_NAMES:
            raise UserError(f"--to {name} is no tracker{nearest(name, TRACKER_NAMES)}")
    if not names or merged or out or dtype:
        print(_write_model(run, folder, out or folder / "model", merged=merged, dtype=dtype))
    if names:
        from upslope.record.trackers.export import export_run

        for line in export_run(folder, names):
            print(line)


def _write_model(run: str, folder: Path, out: Path, *, merged: bool, dtype: str | None) -> str:
    import torch

    from upslope.errors import UserError, nearest
    from upslope.inspect.card import model_card
    from upslope.record.exported import export_model

    known = ("float32", "bfloat16", "float16")
    if dtype is not None and dtype not in known:
        raise UserError(f"--dtype {dtype}{nearest(dtype, known)}")
    kind = getattr(torch, dtype) if dtype else None
    made = export_model(
        run, out, lambda step, adapter: model_card(folder, step, adapter=adapter), merged=merged, dtype=kind
    )
    return f"{made}: the model, its tokenizer and a card"
