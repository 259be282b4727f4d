"""``upslope plan``: a cluster that is not there, in numbers, for people and for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from upslope.cluster.planning.outcome import SimulatedRun
from upslope.cluster.planning.plan import Planner
from upslope.cluster.planning.request import PlanRequest
from upslope.inspect.words import visible
from upslope.lab.bench.table import bare

WIDE = 160
"""Columns where nobody's screen sets a width."""


def plan_command(request: PlanRequest, *, as_json: bool) -> None:
    """Plan, and print tables or one JSON object. Raises UserError."""
    planner = Planner(request)
    runs = list(planner.simulated())
    memory = [planner.memory(run.workers, run.staleness) for run in runs]
    if as_json:
        print(json.dumps(plan_object(planner, memory, runs), allow_nan=False))
        return
    console = Console()
    console = console if console.is_terminal else Console(width=WIDE)
    work = planner.work
    console.print(
        f"{visible(request.model)}: {planner.sizes.weights:,} weights, {request.dtype}. A step: {planner.problems} "
        f"problems x {work.group} attempts, prompts of {work.prompt} tokens, attempts of {planner.mean:,.0f} on "
        f"average and {work.most:,} at most\n",
        highlight=False,
        markup=False,
        emoji=False,  # of new:llama:
    )
    for table in (numbers_table(planner), memory_table(memory), runs_table(runs)):
        console.print(table)
        console.print()
    for line in remarks(memory, runs):
        console.print(line, highlight=False, markup=False)


def plan_object(planner: Planner, memory: Sequence[Mapping[str, Any]], runs: Sequence[SimulatedRun]) -> dict[str, Any]:
    """The same numbers as the tables, and more of them."""
    return {
        "model": planner.request.model,
        "numbers": [dict(zip(("name", "value", "unit", "from"), row, strict=True)) for row in planner.numbers()],
        "work": {
            "problems": planner.problems,
            "group_size": planner.work.group,
            "prompt_tokens": planner.work.prompt,
            "max_tokens": planner.work.most,
            "mean_tokens": planner.mean,
        },
        "clusters": [{"memory": m, "run": run.as_object()} for m, run in zip(memory, runs, strict=True)],
    }


def numbers_table(planner: Planner) -> Table:
    """What the times are made of, and where each number is from."""
    table = Table("number", box=None, padding=(0, 2, 0, 0))
    table.add_column("value", justify="right")
    table.add_column("")
    table.add_column("from")
    for name, value, unit, source in planner.numbers():
        table.add_row(name, f"{value:,.4g}" if value < 1e5 else f"{value:,.0f}", unit, visible(source))
    return table


def memory_table(memory: Sequence[Mapping[str, Any]]) -> Table:
    """GB by part of a rank and of a sampler, for every different split."""
    table = bare("GB", *(_named(m) for m in _different(memory)))
    for role in ("learner", "sampler"):
        for part in memory[0][role]:
            cells = [_gb(m[role][part]) for m in _different(memory)]
            table.add_row(f"{role}: {part}", *cells, style="bold" if part == "all" else "")
    rooms = ["unknown" if m["room"] is None else _gb(m["room"]) for m in _different(memory)]
    table.add_row("room of a worker", *rooms)
    table.add_row("fits", *({None: "unknown", True: "yes", False: "NO"}[m["fits"]] for m in _different(memory)))
    return table


def runs_table(runs: Sequence[SimulatedRun]) -> Table:
    """What every cluster does."""
    table = bare(
        *("workers", "sample + learn", "staleness", "s a step", "tokens/s", "learner busy", "samplers busy", "loading"),
        *("rows", "age: mean, most", "failures", "made again", "what limits"),
    )
    for run in runs:
        table.add_row(
            f"{run.workers:,}",
            f"{run.samplers} + {run.ranks}" if run.samplers else "one does both",
            f"{run.staleness}",
            f"{run.seconds_a_step:,.4g}",
            f"{run.tokens_per_s:,.0f}",
            f"{run.learner['updating']:.0%}",
            f"{run.sampler['writing'] + run.sampler['prompts']:.0%}",
            f"{run.sampler['loading']:.1%}",
            f"{run.rows:,.0f}",
            f"{run.mean_age:.2f}, {max(run.ages)}",
            f"{run.sampler_failures} + {run.learner_failures}",
            f"{run.steps_lost}",
            run.limit,
        )
    return table


def remarks(memory: Sequence[Mapping[str, Any]], runs: Sequence[SimulatedRun]) -> list[str]:
    """What does not fit, and how the simulation is to be read."""
    found = [
        f"{_named(m)} does not fit: a rank needs {_gb(m['learner']['all'])} GB, a sampler "
        f"{_gb(m['sampler']['all'])} GB, and a worker has room for {_gb(m['room'])}"
        for m in _different(memory)
        if m["fits"] is False
    ]
    steps = runs[0].steps
    return [*found, f"simulated: {steps} updates after the first, with the run's own rule for places; docs/plan.md"]


def _different(memory: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list({_named(m): m for m in memory}.values())


def _named(memory: Mapping[str, Any]) -> str:
    if not memory["samplers"]:
        return "1 worker"
    return f"{memory['samplers']} + {memory['ranks']}" + (" sharded" if memory["shard"] else "")


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.3g}"
