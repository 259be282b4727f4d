"""``upslope eval``: a model, a task, a table."""

from __future__ import annotations

import json
from dataclasses import replace

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from upslope.inspect.terminal import TerminalView
from upslope.model.load import pick_device
from upslope.model.policy import Policy
from upslope.model.precision import pick_dtype
from upslope.rollout.local import LocalSampler
from upslope.training.evaluate import evaluate
from upslope.training.memory import bound_kernel_caches
from upslope.training.settings import RunSettings
from upslope.training.start import open_run_task, resolve_model, with_limit


def evaluate_command(settings: RunSettings, *, as_json: bool) -> None:
    """Evaluate ``settings.model`` and print a table (progress on standard error), or one JSON object."""
    bound_kernel_caches()
    task = open_run_task(settings.task, settings.seed)
    held_out = list(task.problems("test"))[: settings.eval.problems]
    aside = Console(stderr=True)
    model, tokenizer = resolve_model(settings, lambda: TerminalView(aside))
    device = pick_device(settings.device)
    settings = with_limit(settings, task)
    dtype = pick_dtype(settings.learn.dtype, model, device)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(device, dtype)
    policy = Policy(model.to(device), tokenizer)
    sampler = LocalSampler(policy, max_rows=settings.sample.max_rows)
    sampling = replace(settings.sample.sampling(), temperature=settings.eval.temperature)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=aside, transient=True) as progress:
        bar = progress.add_task("attempts", total=len(held_out) * (1 + settings.eval.samples))

        def seen(num_tokens: int, num_rows: int) -> None:
            progress.update(bar, completed=num_rows, description=f"{num_tokens} tokens")

        found = evaluate(
            task,
            sampler,
            policy.renderer,
            held_out,
            sampling,
            samples=settings.eval.samples,
            seed=settings.seed,
            progress=seen,
        ).row
    if as_json:
        print(json.dumps({"model": settings.model, "task": task.name} | found))
        return
    print(f"{settings.model} on {task.name}, up to {sampling.max_tokens} tokens")
    table = Table("measure", "value", "95 % interval", "problems", box=None, padding=(0, 2, 0, 0))
    measures = {"greedy accuracy": found["greedy"]} | {f"pass@{k}": v for k, v in found.get("pass_at", {}).items()}
    for name, m in measures.items():
        table.add_row(name, f"{m['value']:.1%}", f"{m['low']:.1%} to {m['high']:.1%}", str(m["num_problems"]))
    Console().print(table)
    print(
        f"mean reward {found['reward']:.3f}, length {found['length']:.1f} tokens, cut {found['truncated']:.1%} (greedy)"
    )
