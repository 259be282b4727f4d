"""``upslope ladder``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upslope.cli.options import Data, EvalData, RewardSpecs, RewardWeights, TaskName, app
from upslope.lab.ladder.options import Ladder


@app.command()
def ladder(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For every run.")] = None,
    task: TaskName = None,
    data: Data = None,
    eval_data: EvalData = None,
    reward: RewardSpecs = None,
    reward_weight: RewardWeights = None,
    model: Annotated[str, typer.Option(help="The start of all: directory, hub id, run folder, pocket.")] = Ladder.model,
    recipes: Annotated[str | None, typer.Option(help="Names, separated by commas (see `upslope recipes`).")] = None,
    seeds: Annotated[int, typer.Option(help="Runs a recipe.")] = Ladder.seeds,
    tokens: Annotated[int, typer.Option(help="Generated (or imitated) tokens a run.")] = Ladder.tokens,
    reuse_tokens: Annotated[
        int, typer.Option(help="The same for batches reused 1, 4, 16 times; 0: none.")
    ] = Ladder.reuse_tokens,
    reuse_seeds: Annotated[int, typer.Option(help="Runs of each of those.")] = Ladder.reuse_seeds,
    noise_batches: Annotated[
        int, typer.Option(help="Batches for the gradient's variance; 0: none.")
    ] = Ladder.noise_batches,
    noise_problems: Annotated[int, typer.Option(help="Problems in each of those.")] = Ladder.noise_problems,
    lr: Annotated[float | None, typer.Option(help="Learning rate of all (default: the settings').")] = Ladder.lr,
    out: Annotated[Path, typer.Option(help="Where runs, pictures and report.md go.")] = Ladder.out,
) -> None:
    """Run the family side by side: the same start, the same budget of tokens, several seeds; write one report.

    Runs one after another and takes the better part of an hour on two cores with the defaults; after Ctrl-C the same
    command goes on where it was.
    """
    from upslope.lab.ladder.command import ladder_command

    asked = Ladder(
        out=out,
        task=task,
        data=data,
        eval_data=eval_data,
        rewards=tuple(reward or ()),
        reward_weights=tuple(reward_weight or ()),
        model=model,
        recipes=tuple(name.strip() for name in recipes.split(",")) if recipes else Ladder.recipes,
        seeds=seeds,
        tokens=tokens,
        reuse_tokens=reuse_tokens,
        reuse_seeds=reuse_seeds,
        noise_batches=noise_batches,
        noise_problems=noise_problems,
        lr=lr,
        overrides=tuple(overrides or ()),
    )
    print(f"report      {ladder_command(asked)}")
