"""``upslope plan``: what a cluster would need and do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upslope.cli.options import Overrides, app


@app.command(name="plan")
def plan_cluster(
    overrides: Overrides = None,
    model: Annotated[
        str, typer.Option(help="Directory, config.json, run folder, hub id, pocket, new:llama or new:DIR.")
    ] = "pocket",
    gpus: Annotated[list[int] | None, typer.Option(min=1, help="Workers; repeat for several clusters.")] = None,
    card: Annotated[str | None, typer.Option(help="a100, h100, h200, l40s, rtx4090 or mi300x: rates, memory.")] = None,
    measured: Annotated[
        list[Path] | None, typer.Option(help="A run folder: its rates in place of a card's; repeat for a better fit.")
    ] = None,
    staleness: Annotated[list[int] | None, typer.Option(min=0, help="cluster.staleness; repeat for several.")] = None,
    samplers: Annotated[int | None, typer.Option(min=0, help="Workers that sample (default: the best split).")] = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Workers that learn.")] = None,
    shard: Annotated[bool | None, typer.Option(help="Share weights, gradients and moments out.")] = None,
    problems: Annotated[int | None, typer.Option(min=1, help="Of a step (the run's own, else 64).")] = None,
    group_size: Annotated[int | None, typer.Option(min=1, help="Attempts a problem (the run's own, else 8).")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(min=1, help="Of a prompt (the run's own, else 128).")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest attempt (the run's own, else 1024).")] = None,
    mean_tokens: Annotated[
        float | None, typer.Option(min=1, help="Of attempts before they are cut (the run's own lengths, else half).")
    ] = None,
    spread: Annotated[float, typer.Option(min=0, help="Standard deviation of ln(length).")] = 0.8,
    rows: Annotated[int, typer.Option(min=1, help="Most attempts that a sampler has in hand.")] = 512,
    rewards: Annotated[int, typer.Option(min=0, help="Processes that score; 0: as many as it takes.")] = 0,
    reward_seconds: Annotated[float, typer.Option(min=0, help="Scoring of one attempt.")] = 0.0,
    hours_between_failures: Annotated[float, typer.Option(min=0, help="Of one worker; 0: none fails.")] = 0.0,
    restart_seconds: Annotated[float, typer.Option(min=0, help="Until a failed worker is back.")] = 120.0,
    save_every: Annotated[int, typer.Option(min=1, help="Updates between checkpoints.")] = 10,
    steps: Annotated[int, typer.Option(min=2, help="Updates that are simulated.")] = 12,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    learn_share: Annotated[float, typer.Option(min=0.001, max=1, help="Of the products' rate, in learning.")] = 0.4,
    sample_share: Annotated[float, typer.Option(min=0.001, max=1, help="Of the products' rate, in sampling.")] = 0.5,
    bandwidth_share: Annotated[float, typer.Option(min=0.001, max=1, help="Of the memory's rate, in sampling.")] = 0.6,
    network: Annotated[float, typer.Option(min=0.001, help="GB/s between machines, a card and direction.")] = 50.0,
    tflops: Annotated[float | None, typer.Option(min=0.001, help="In place of the card's.")] = None,
    memory: Annotated[float | None, typer.Option(min=0.001, help="GB, in place of the card's.")] = None,
    bandwidth: Annotated[float | None, typer.Option(min=0.001, help="GB/s, in place of the card's.")] = None,
    seed: Annotated[int, typer.Option(help="Of lengths and failures.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Plan a cluster: memory by part, and a simulation with lengths, staleness and failures.

    Nothing is loaded or trained. Rates are a card's data sheet times assumed shares, or those that a run measured; the
    output says which. A new model's shape is given as new.KEY=VALUE. docs/plan.md has the formulas.
    """
    from upslope.cli.measure import require_read
    from upslope.cluster.planning.cards import AssumedShares
    from upslope.cluster.planning.request import PlanRequest
    from upslope.config import load_settings
    from upslope.lab.planned import plan_command

    require_read("plan", overrides, ["new"])
    settings = load_settings(None, overrides or (), {"model": model})
    request = PlanRequest(
        model=model,
        new=settings.new,
        gpus=tuple(gpus or (1,)),
        staleness=tuple(staleness or (0,)),
        card=card,
        tflops=tflops,
        memory_gb=memory,
        bandwidth=bandwidth,
        shares=AssumedShares(learn_share, sample_share, bandwidth_share, network),
        dtype=dtype,
        samplers=samplers,
        ranks=ranks,
        shard=shard,
        problems=problems,
        group_size=group_size,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        mean_tokens=mean_tokens,
        spread=spread,
        rows=rows,
        rewards=rewards,
        reward_seconds=reward_seconds,
        steps=steps,
        hours_between_failures=hours_between_failures,
        restart_seconds=restart_seconds,
        save_every=save_every,
        measured=tuple(measured or ()),
        seed=seed,
    )
    plan_command(request, as_json=as_json)
