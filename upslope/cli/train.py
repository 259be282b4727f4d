"""``upslope train``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from upslope.cli.options import (
    Data,
    EnvironmentSpec,
    EvalData,
    RewardSpecs,
    RewardWeights,
    TaskName,
    TextSources,
    ToolSpecs,
    Trust,
    app,
)
from upslope.errors import Stopped, UserError


@app.command(name="train")
def train_model(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN.toml] [KEY=VALUE]...", help="A run file, and overrides.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="See `upslope recipes`.")] = None,
    task: TaskName = None,
    data: Data = None,
    eval_data: EvalData = None,
    reward: RewardSpecs = None,
    reward_weight: RewardWeights = None,
    text: TextSources = None,
    tools: ToolSpecs = None,
    environment: EnvironmentSpec = None,
    model: Annotated[
        str | None, typer.Option(help="Directory, hub id, run folder, pocket[:STAGE], new:llama or new:DIR.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Turns of the loop.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data, in the place of --steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after this much training time.")] = None,
    seed: Annotated[int | None, typer.Option(help="Every random draw is a function of it.")] = None,
    name: Annotated[str | None, typer.Option(help="The run's folder under --out.")] = None,
    out: Annotated[str | None, typer.Option(help="Where runs go (default: runs).")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this run folder; steps, minutes, learn.lr, save, eval may change.")
    ] = None,
    since: Annotated[
        int | None, typer.Option("--from", help="With --resume: from this step's checkpoint, not the newest.")
    ] = None,
    cluster: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Processes beside this one (docs/cluster.md)."),
    ] = None,
    track: Annotated[
        list[str] | None, typer.Option(help="trackio, tensorboard or wandb; repeat for several (docs/trackers.md).")
    ] = None,
    trust: Trust = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the live view.")] = False,
) -> None:
    """Train. Without arguments: the pocket model on pocket word problems, by reinforcement learning.

    Any setting can be given as KEY=VALUE with a dotted key, such as learn.lr=1e-4 or recipe.sample.group_size=16;
    every setting with its meaning is in docs/settings.md and in a run's run.toml.
    """
    from upslope.cluster.launch import company_of
    from upslope.config import cluster_options, load_settings, read_toml
    from upslope.inspect.report import print_before_after, summary_lines, write_report
    from upslope.inspect.screen import unbreakable
    from upslope.inspect.terminal import TerminalView
    from upslope.record.trust import require_trusted
    from upslope.training.ending import AtOnce
    from upslope.training.memory import keep_freed_memory
    from upslope.training.resuming import require_changeable
    from upslope.training.start import launch
    from upslope.training.tables import dotted, require_filled, task_options

    given = {
        "recipe": {"name": recipe} if recipe is not None else None,
        "model": model,
        "steps": steps,
        "epochs": epochs,
        "minutes": minutes,
        "seed": seed,
        "name": name,
        "out": out,
        "track": track or None,
    }
    require_filled({"--model": model, "--name": name, "--out": out})
    options = task_options(task, data, eval_data, reward, reward_weight, text, tools, environment)
    options |= {k: v for k, v in given.items() if v is not None}
    options |= cluster_options(cluster) if cluster is not None else {}
    files = [a for a in arguments or [] if a.endswith(".toml") and "=" not in a]
    overrides = [a for a in arguments or [] if a not in files]
    if since is not None and resume is None:
        raise UserError("--from says where --resume goes on; give both")
    if resume is not None:
        resume = resume if resume.name else resume.resolve()  # --resume . inside a run folder
        before = dict(dotted(read_toml(resume / "run.toml"))) if cluster is not None else {}
        same = [key for key, value in options.items() if key.startswith("cluster.") and before.get(key) == value]
        require_changeable([*files, *options, *(text.partition("=")[0].strip() for text in overrides)], same)
        require_trusted(resume, read_toml(resume / "run.toml"), trust=trust)
        settings = load_settings(resume / "run.toml", overrides, options)
        settings = replace(settings, out=str(resume.parent), name=resume.name)
    else:
        if len(files) > 1:
            raise UserError(f"one run file at a time, not {' and '.join(files)}")
        settings = load_settings(Path(files[0]) if files else None, overrides, options)
    keep_freed_memory()
    sys.stdout, sys.stderr = unbreakable(sys.stdout), unbreakable(sys.stderr)  # rewards may print as well
    console = Console(file=sys.stdout)
    try:
        with company_of(settings.cluster) as company:
            folder = launch(
                settings,
                lambda: TerminalView(console, plain=plain or None),
                resume=resume is not None,
                since=since,
                company=company,
            )
    except AtOnce as stop:
        raise Stopped(f"at once, within a step; {stop}", stop.signal) from None
    write_report(folder)
    print_before_after(console, folder)
    for line in summary_lines(folder):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
