"""The report's pictures. Okabe and Ito's colours, told apart by all common forms of colour blindness."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from upslope.lab.ladder.facts import Facts, RunFacts
from upslope.lab.ladder.plan import EPOCHS, REUSED
from upslope.lab.ladder.variance import Noise

BLUE, ORANGE, GREEN, GREY, PALE = "#0072B2", "#D55E00", "#009E73", "#666666", "#d0d0d0"
STYLES = {"importance": (ORANGE, "o"), "trpo": (BLUE, "s"), "ppo": (GREEN, "^")}
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.3g} %")
THOUSANDS = FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value else "0")

Series = Sequence[tuple[float, float]]
"""(x, y) in order of x."""


def draw_all(facts: Facts, noise: Sequence[Noise], out: Path) -> dict[str, str]:
    """Every picture there is something for; returns file names by what they show."""
    made: dict[str, Figure] = {}
    if facts.main:
        made["tokens"] = panels(
            facts, lambda run: [(p.tokens, p.accuracy) for p in run.curve], "tokens generated (sft: imitated)",
            "held-out accuracy", PERCENT, THOUSANDS,
        )  # fmt: skip
        made["seconds"] = panels(
            facts, lambda run: [(p.seconds, p.accuracy) for p in run.curve], "seconds of sampling and learning",
            "held-out accuracy", PERCENT, None,
        )  # fmt: skip
        if any(run.entropy for runs in facts.main.values() for run in runs):
            made["entropy"] = panels(
                facts,
                lambda run: run.entropy,
                "tokens generated",
                "entropy of attempts (nats a token)",
                None,
                THOUSANDS,
            )
    if noise:
        made["noise"] = bars(noise)
    if any(run.kl for runs in facts.reuse.values() for run in runs):
        made["reuse"] = reuse(facts)
    for name, figure in made.items():
        figure.savefig(out / f"{name}.png", format="png")
    return {name: f"{name}.png" for name in made}


def band(series: Sequence[Series]) -> tuple[list[float], list[float], list[float], list[float]]:
    """(x, mean, least, most) over seeds, at every seed's points as far as all of them reach; between points, straight.

    >>> band([[(0, 0.0), (2, 1.0)], [(0, 0.5), (2, 1.0)]])[1][:1]
    [0.25]
    """
    low, high = max(s[0][0] for s in series), min(s[-1][0] for s in series)
    grid = sorted({x for s in series for x, _ in s if low <= x <= high} | {low, high})
    rows = [[at(s, x) for s in series] for x in grid]
    return grid, [math.fsum(row) / len(row) for row in rows], [min(row) for row in rows], [max(row) for row in rows]


def at(series: Series, x: float) -> float:
    """The value of a piecewise linear curve, constant beyond its ends."""
    for (x0, y0), (x1, y1) in pairwise(series):
        if x <= x1:
            return y0 if x1 == x0 or x < x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return series[-1][1]


def panels(
    facts: Facts,
    series_of: Callable[[RunFacts], Series],
    xlabel: str,
    ylabel: str,
    yformat: FuncFormatter | None,
    xformat: FuncFormatter | None,
) -> Figure:
    """A panel a recipe: its mean over seeds with the range as a band, its predecessor in the ladder dashed, all the
    others pale behind it."""
    curves = {
        name: [s for s in (list(series_of(run)) for run in runs) if len(s) > 1] for name, runs in facts.main.items()
    }
    curves = {name: found for name, found in curves.items() if found}
    num_columns = min(3, max(len(curves), 1))
    num_rows = max(1, math.ceil(len(curves) / num_columns))
    figure = Figure(figsize=(3.7 * num_columns + 0.4, 2.7 * num_rows + 0.5), dpi=130, layout="constrained")
    grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    bands = {name: band(found) for name, found in curves.items()}
    names = list(curves)
    for place, panel in enumerate(grid.flat):
        if place >= len(names):
            panel.set_visible(False)
            continue
        tidy(panel)
        name = names[place]
        for other, (x, mean, _, _) in bands.items():
            if other != name:
                panel.plot(x, mean, color=PALE, linewidth=1)
        if place:
            x, mean, _, _ = bands[names[place - 1]]
            panel.plot(x, mean, color=ORANGE, linewidth=1.4, linestyle="--", label=names[place - 1])
        x, mean, least, most = bands[name]
        if len(curves[name]) > 1:
            panel.fill_between(x, least, most, color=BLUE, alpha=0.2, linewidth=0)
        for found in curves[name]:
            panel.plot(*zip(*found, strict=True), color=BLUE, linestyle="", marker="o", markersize=2.5, alpha=0.6)
        panel.plot(x, mean, color=BLUE, linewidth=2, label=name)
        panel.set_title(name, loc="left", fontsize=11)
        panel.legend(frameon=False, fontsize=8, loc="best")
        panel.tick_params(labelbottom=place + num_columns >= len(names))
        if yformat:
            panel.yaxis.set_major_formatter(yformat)
        if xformat:
            panel.xaxis.set_major_formatter(xformat)
    figure.supxlabel(xlabel, fontsize=10)
    figure.supylabel(ylabel, fontsize=10)
    return figure


def bars(noise: Sequence[Noise]) -> Figure:
    """Noise to signal of one batch's gradient, by advantage, with the two halves of the batches as a line."""
    figure = Figure(figsize=(8.2, 0.5 * len(noise) + 1.3), dpi=130, layout="constrained")
    panel = figure.subplots()
    tidy(panel)
    panel.grid(axis="x", color="#e8e8e8", linewidth=0.8)
    panel.grid(visible=False, axis="y")
    shown = [n for n in noise if math.isfinite(n.ratio)][::-1]
    places = list(range(len(shown)))
    panel.barh(places, [n.ratio for n in shown], color=BLUE, alpha=0.75, height=0.62)
    most = max((n.ratio for n in shown), default=1.0)
    for place, n in zip(places, shown, strict=True):
        halves = [h for h in n.halves if math.isfinite(h)]
        if halves:
            panel.plot([min(halves), max(halves)], [place, place], color="black", linewidth=1.4, marker="|")
            most = max(most, *halves)
        panel.annotate(f"{n.ratio:.2f}", (max(n.ratio, *halves) if halves else n.ratio, place), xytext=(5, 0),
                       textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    panel.set_xlim(0, 1.12 * most)
    panel.set_yticks(places, [n.advantage for n in shown])
    size = noise[0].num_attempts
    panel.set_xlabel(f"noise to signal of the gradient of one batch ({size} attempts); line: two halves of the batches")
    return figure


def reuse(facts: Facts) -> Figure:
    """KL of every step, by passes over a batch; on a logarithmic scale."""
    figure = Figure(figsize=(11.5, 3.6), dpi=130, layout="constrained")
    grid = figure.subplots(1, len(EPOCHS), sharey=True, squeeze=False)
    for panel, epochs in zip(grid.flat, EPOCHS, strict=True):
        tidy(panel)
        for name in REUSED:
            colour, marker = STYLES[name]
            for index, run in enumerate(facts.reuse.get((name, epochs), [])):
                shown = [(i + 1, k) for i, k in enumerate(run.kl) if k > 0]
                if shown:
                    label = name if index == 0 else None
                    panel.plot(*zip(*shown, strict=True), color=colour, marker=marker, markersize=3.5, label=label)
        panel.set_title(f"{epochs} pass{'es' if epochs > 1 else ''} over a batch", loc="left", fontsize=11)
        panel.set_yscale("log")
        panel.set_xlabel("step")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        budgets = [r.kl_budget for (n, _), runs in facts.reuse.items() for r in runs if math.isfinite(r.kl_budget)]
        if budgets:
            panel.axhline(budgets[0], color=GREY, linestyle=":", linewidth=1.2, label="trpo's budget an update")
        if panel.get_legend_handles_labels()[0]:
            panel.legend(frameon=False, fontsize=8)
    grid[0, 0].set_ylabel("KL(before the step || after)\nnats a token")
    return figure


def tidy(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_axisbelow(True)
    panel.grid(axis="y", color="#e8e8e8", linewidth=0.8)


def by_name(noise: Sequence[Noise]) -> Mapping[str, Noise]:
    """The noises by advantage."""
    return {n.advantage: n for n in noise}
