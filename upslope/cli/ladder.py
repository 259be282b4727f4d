"""``upslope ladder``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upslope.cli.options import Data, EvalData, Rewards, TaskName, Weights, app


@app.command()
def ladder(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For every run.")] = None,
    task: TaskName = None,
    data: Data = None,
    eval_data: EvalData = None,
    reward: Rewards = None,
    reward_weight: Weights = None,
    model: Annotated[str, typer.Option(help="The start of all: directory, hub id, run folder, pocket.")] = "pocket",
    recipes: Annotated[str | None, typer.Option(help="Names, separated by commas (see `upslope recipes`).")] = None,
    seeds: Annotated[int, typer.Option(help="Runs a recipe.")] = 3,
    tokens: Annotated[int, typer.Option(help="Generated (or imitated) tokens a run.")] = 150_000,
    reuse_tokens: Annotated[int, typer.Option(help="The same for batches reused 1, 4, 16 times; 0: none.")] = 60_000,
    reuse_seeds: Annotated[int, typer.Option(help="Runs of each of those.")] = 1,
    noise_batches: Annotated[int, typer.Option(help="Batches for the gradient's variance; 0: none.")] = 32,
    noise_problems: Annotated[int, typer.Option(help="Problems in each of those.")] = 16,
    lr: Annotated[float | None, typer.Option(help="Learning rate of all (default: the settings').")] = None,
    out: Annotated[Path, typer.Option(help="Where runs, pictures and report.md go.")] = Path("runs/ladder"),
) -> None:
    """Run the family side by side: the same start, the same budget of tokens, several seeds; write one report.

    Runs one after another and takes the better part of an hour on two cores with the defaults; after Ctrl-C the same
    command goes on where it was.
    """
    from upslope.lab.ladder.command import ladder_command
    from upslope.lab.ladder.plan import RECIPES

    report_path = ladder_command(
        task,
        data=data,
        eval_data=eval_data,
        rewards=tuple(reward or ()),
        reward_weights=tuple(reward_weight or ()),
        model=model,
        recipes=tuple(name.strip() for name in recipes.split(",")) if recipes else RECIPES,
        seeds=seeds,
        tokens=tokens,
        reuse_tokens=reuse_tokens,
        reuse_seeds=reuse_seeds,
        noise_batches=noise_batches,
        noise_problems=noise_problems,
        lr=lr,
        out=out,
        overrides=tuple(overrides or ()),
    )
    print(f"report      {report_path}")
