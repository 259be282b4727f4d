"""``upslope data``: a data set before a run."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from upslope.cli.options import Data, EvalData, ModelName, Overrides, RewardSpecs, TaskName, app


@app.command(name="data")
def look_at_data(
    model: ModelName,
    overrides: Overrides = None,
    task: TaskName = None,
    data: Data = None,
    eval_data: EvalData = None,
    reward: RewardSpecs = None,
    row: Annotated[int, typer.Option(min=1, help="Which training problem is shown, from 1.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """What a run would find: rows, lengths in the model's tokens, what does not fit, held-out problems that are in the
    training data, what the reward says of good and bad answers, and a prompt as the model reads it. No weights are
    loaded."""
    from upslope.config import load_settings
    from upslope.inspect.data_stream import prints_aside
    from upslope.lab.dataset.command import data_command
    from upslope.training.tables import task_options

    given = task_options(task, data, eval_data, reward, None) | {"model": model}
    with prints_aside() if as_json else contextlib.nullcontext():
        data_command(load_settings(None, overrides or (), given), row, as_json=as_json)
