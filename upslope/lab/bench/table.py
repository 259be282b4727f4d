"""The figures for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_figures(found: Mapping[str, Any], console: Console) -> None:
    """The object that ``--json`` prints, as tables."""
    shape, machine, step = found["shape"], found["machine"], found["step"]
    say = Console(width=200).print if not console.is_terminal else console.print
    say(
        f"{found['model']} ({found['recipe']}, {found['task']}): {shape['problems']} problems x {shape['samples']} "
        f"samples x {shape['tokens']} tokens, {machine['dtype']}, {found['flop_per_token'] / 1e9:.3g} GFLOP a token "
        f"forward\n{machine['cpu']}, {machine['device']}, {machine['threads']} threads, torch {machine['torch']}; the "
        f"best of {found['repeat']}; kernels: {machine['kernels']}\n",
        highlight=False,
        markup=False,
    )
    for table in (ceilings(found["ceiling"]), rates(found), phases(step)):
        say(table, "")
    say(f"a step: {step['tokens_per_s']:,.1f} tokens/s, at most {step['peak_gb']:.2f} GB", highlight=False)


def ceilings(found: Mapping[str, float]) -> Table:
    table = bare("ceiling", "rate")
    for name, rate in found.items():
        kind = name.rpartition("_")[2]
        if name.startswith("gflops"):
            table.add_row(f"products, {kind}", f"{rate:,.0f} GFLOP/s")
    table.add_row("memory, read", f"{found['memory_gb_per_s']:.1f} GB/s")
    return table


def rates(found: Mapping[str, Any]) -> Table:
    table = bare("work", "tokens/s", "share of the products' rate", "seconds", "tokens")
    for name, title in (("rollout", "rollouts"), ("learn", "learning (each prompt once, and all responses)")):
        row = found[name]
        cells = f"{row['tokens_per_s']:,.1f}", f"{row['share_of_ceiling']:.1%}", f"{row['seconds']:.3f}"
        table.add_row(title, *cells, f"{row['tokens']:,}")
    table.add_row("learning, responses alone", f"{found['learn']['response_tokens_per_s']:,.1f}", "", "", "")
    return table


def phases(step: Mapping[str, Any]) -> Table:
    table = bare("phase of a step", "seconds", "share of the step")
    for name, seconds in step["seconds_by_phase"].items():
        table.add_row(name, f"{seconds:.3f}", f"{seconds / step['seconds']:.1%}")
    table.add_row("all", f"{step['seconds']:.3f}", "", style="bold")
    return table


def bare(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left")
    return table
