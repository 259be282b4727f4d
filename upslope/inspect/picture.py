"""A run's journal as one picture of four panels over a common axis: the number of updates."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from upslope.inspect.reward_words import reward_names
from upslope.inspect.words import percent, visible
from upslope.record.journal import Journal, number, only_imitates

# From the palette of Okabe and Ito, told apart by all common forms of colour blindness.
_BLUE, _RED, _GREY = "#0072B2", "#D55E00", "#666666"
_PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.3g} %")
_NUM_SMOOTHED = 20
"""With fewer points than this, each is marked and none is smoothed."""

MOST_FUNCTIONS = 6
"""Reward functions of which each has a line; more are told by the journal and the page."""

Centre = Callable[[Sequence[float]], float]


def draw_journal(journal: Journal, title: str) -> Figure:
    """Reward and held-out accuracy, or bits per byte of held-out text; length; gradient norm; entropy, or the loss
    where there is nothing but imitation, with the held-out loss.

    The Figure is made by hand, not by pyplot: no global state, no display, nothing to close.
    """
    figure = Figure(figsize=(11, 7), dpi=130, layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#e8e8e8", linewidth=0.8)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("updates")
    at = [number(row, "step") for row in (*journal.steps, *journal.evals)] or [0.0]
    last = max(max(at), min(at) + 1)  # a single step still gets an axis
    panels[0, 0].set_xlim(min(at) - 0.03 * (last - min(at)), last + 0.03 * (last - min(at)))
    if only_reads(journal):
        panels[0, 0].set_title("Held-out text", loc="left")
        _draw_predicted(panels[0, 0], journal, "bits_per_byte", "bits per byte")
    else:
        _draw_success(panels[0, 0], journal)
    panels[0, 1].set_title("Response length", loc="left")
    _draw_line(panels[0, 1], journal, "length", "tokens")
    _draw_share(panels[0, 1], journal, "truncated", "cut off at the limit")
    panels[1, 0].set_title("Gradient norm", loc="left")
    # A median, since one spike in a mean looks like a plateau.
    _draw_line(panels[1, 0], journal, "grad_norm", "L2 norm", statistics.median)
    _widen(panels[1, 0], journal)
    if only_imitates(journal.steps):
        panels[1, 1].set_title("Loss", loc="left")
        _draw_line(panels[1, 1], journal, "loss", "loss")
        _draw_predicted(panels[1, 1], journal, "held_out_loss")
    else:
        panels[1, 1].set_title("Exploration", loc="left")
        _draw_line(panels[1, 1], journal, "entropy", "entropy (nats a token)")
        _draw_share(panels[1, 1], journal, "equal_groups", "groups of equal reward")
    if len(journal.steps) >= _NUM_SMOOTHED:
        note = f"thin: every step; thick: mean (of the gradient norm: median) of {_window(len(journal.steps))} steps"
        figure.supxlabel(note, x=0.99, ha="right", fontsize=9, color=_GREY)
    # Names may hold "$": they are words, not formulas.
    figure.suptitle(visible(title), parse_math=False, x=0.01, ha="left", fontsize=14, weight="bold")
    return figure


def _draw_success(panel: Axes, journal: Journal) -> None:
    """Reward, and on top of it held-out accuracy with its 95 % band. Both are shares in most tasks: one scale."""
    steps, rewards = journal.column("reward")
    shows_reward = bool(rewards) and not only_imitates(journal.steps)
    if shows_reward:
        _lines(panel, steps, rewards, _BLUE, "reward")
        panel.set_ylabel("reward", color=_BLUE)
        _draw_functions(panel, journal)
    at = [number(row, "step") for row in journal.evals]
    value, low, high = ([number(row, "greedy", key) for row in journal.evals] for key in ("value", "low", "high"))
    known = [v for v in value if math.isfinite(v)]
    panel.set_title("Reward and accuracy" if shows_reward else "Held-out accuracy", loc="left")
    if not known and any("reward" in row for row in journal.evals):
        panel.set_title("Reward", loc="left")
        _draw_predicted(panel, journal, "reward", "" if shows_reward else "held-out mean reward")
        panel.legend(frameon=False, fontsize=9, loc="best") if shows_reward else None
        return
    if not known:
        panel.set_title("no evaluation recorded", loc="right", fontsize=9, color=_GREY)
        return
    change = percent(known[0]) + (f" → {percent(known[-1])}" if len(known) > 1 else "")
    panel.set_title(f"held-out {change}", loc="right", fontsize=10, color=_RED)
    own_scale = shows_reward and not all(0 <= reward <= 1 for reward in rewards if math.isfinite(reward))
    scale = _right_axis(panel) if own_scale else panel
    if own_scale or not shows_reward:
        scale.yaxis.set_major_formatter(_PERCENT)
        scale.set_ylabel("held-out accuracy", color=_RED)
    scale.plot(at, value, color=_RED, marker="o", markersize=4, linewidth=2, label="held-out accuracy, 95 % interval")
    if len(at) >= 5:
        scale.fill_between(at, low, high, color=_RED, alpha=0.15, linewidth=0)
    else:  # a band between a few points would claim to know what lies between them
        scale.vlines(at, low, high, color=_RED, linewidth=1.5)
    if shows_reward:
        handles, labels = panel.get_legend_handles_labels()
        if own_scale:
            more = scale.get_legend_handles_labels()
            handles, labels = handles + more[0], labels + more[1]
        scale.legend(handles, labels, frameon=False, fontsize=9, loc="best")


def _draw_functions(panel: Axes, journal: Journal) -> None:
    """The mean of every reward function beside their sum, where there are several and not too many."""
    names = reward_names(journal.steps)
    if len(names) > MOST_FUNCTIONS:
        return
    at = [number(row, "step") for row in journal.steps]
    for name, style in zip(names, itertools.cycle(("--", "-.", ":")), strict=False):
        means = [number(row, "rewards", name, "mean") for row in journal.steps]
        label = visible(name).replace("$", r"\$").lstrip("_") or "reward function"
        panel.plot(at, smooth(means, _window(len(means))), style, color=_GREY, linewidth=1, label=label)


def only_reads(journal: Journal) -> bool:
    """Whether held-out text was predicted, and no problem attempted."""
    return any("bits_per_byte" in row for row in journal.evals) and not any("greedy" in row for row in journal.evals)


def _draw_predicted(panel: Axes, journal: Journal, key: str, label: str = "") -> None:
    """A held-out loss at every evaluation that has it, with its ends in the title on the right."""
    rows = [row for row in journal.evals if key in row]
    values = [number(row, key) for row in rows]
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return
    panel.plot([number(row, "step") for row in rows], values, color=_RED, marker="o", markersize=4, linewidth=2)
    change = f"{known[0]:.3f}" + (f" → {known[-1]:.3f}" if len(known) > 1 else "")
    panel.set_title(f"held-out {change}", loc="right", fontsize=10, color=_RED)
    if label:
        panel.set_ylabel(label, color=_RED)


def _draw_line(panel: Axes, journal: Journal, key: str, label: str, centre: Centre = statistics.fmean) -> None:
    steps, values = journal.column(key)
    if not any(math.isfinite(value) for value in values):
        panel.text(0.5, 0.5, "not recorded", transform=panel.transAxes, ha="center", color=_GREY)
        panel.set_yticks([])
        return
    _lines(panel, steps, values, _BLUE, key, centre)
    panel.set_ylabel(label, color=_BLUE)


def _draw_share(panel: Axes, journal: Journal, key: str, label: str) -> None:
    """A share in percent on the right, from zero up: its size is the message, not its wiggles."""
    steps, values = journal.column(key)
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return
    right = _right_axis(panel)
    _lines(right, steps, values, _RED, key)
    right.set_ylim(0, min(1.02, max(0.05, 1.15 * max(known))))
    right.yaxis.set_major_formatter(_PERCENT)
    right.set_ylabel(label, color=_RED)


def _right_axis(panel: Axes) -> Axes:
    right = panel.twinx()
    right.spines[["top", "left"]].set_visible(False)
    return right


def _lines(
    panel: Axes,
    steps: Sequence[float],
    values: Sequence[float],
    colour: str,
    label: str,
    centre: Centre = statistics.fmean,
) -> None:
    if len(values) < _NUM_SMOOTHED:
        panel.plot(steps, values, color=colour, marker="o", markersize=4, linewidth=1.5, label=label)
        return
    panel.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
    panel.plot(steps, smooth(values, _window(len(values)), centre), color=colour, linewidth=2, label=label)


def _widen(panel: Axes, journal: Journal) -> None:
    """A logarithmic scale where single spikes would press everything else flat."""
    known = [value for value in journal.column("grad_norm")[1] if math.isfinite(value)]
    if known and min(known) > 0 and max(known) > 20 * statistics.median(known):
        panel.set_yscale("log")


def _window(num: int) -> int:
    return 2 * max(1, num // 40) + 1


def smooth(values: Sequence[float], window: int, centre: Centre = statistics.fmean) -> list[float]:
    """The ``centre`` of the ``window`` (odd) values around each, fewer at the ends. NaN is left out and stays a gap.

    >>> smooth([1.0, 3.0, 8.0], window=3)
    [2.0, 4.0, 5.5]
    """
    half = window // 2
    near = [[v for v in values[max(0, i - half) : i + half + 1] if math.isfinite(v)] for i in range(len(values))]
    return [centre(part) if math.isfinite(here) else math.nan for here, part in zip(values, near, strict=True)]


_HELD_OUT = (
    (("greedy", "value"), "held-out accuracy"),
    (("bits_per_byte",), "held-out bits per byte"),
    (("held_out_loss",), "held-out loss"),
)
"""What an evaluation may have measured, the most telling first."""


def draw_stages(stages: Sequence[tuple[str, Journal]], title: str) -> Figure:
    """The stages of a pipeline (name and journal of each) side by side: what each learns from, and below it what the
    evaluations found. Accuracies have one scale over all stages."""
    figure = Figure(figsize=(max(6.0, 3.6 * len(stages)), 6.5), dpi=130, layout="constrained")
    panels = figure.subplots(2, len(stages), squeeze=False, sharex="col")
    for (name, journal), (above, below) in zip(stages, panels.T, strict=True):
        for panel in (above, below):
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(axis="y", color="#e8e8e8", linewidth=0.8)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        above.set_title(visible(name), loc="left", parse_math=False)
        _draw_line(above, journal, *(("loss", "loss") if only_imitates(journal.steps) else ("reward", "reward")))
        _draw_held_out(below, journal)
        below.set_xlabel("updates")
    accuracies = [panel for panel in panels[1] if panel.get_ylabel() == _HELD_OUT[0][1]]
    top = max((panel.get_ylim()[1] for panel in accuracies), default=1.0)
    for panel in accuracies:
        panel.set_ylim(0, min(1.02, 1.05 * top))
        panel.yaxis.set_major_formatter(_PERCENT)
    figure.suptitle(visible(title), parse_math=False, x=0.01, ha="left", fontsize=14, weight="bold")
    return figure


def _draw_held_out(panel: Axes, journal: Journal) -> None:
    """One measure of the evaluations, with its values before and after in words."""
    for keys, label in _HELD_OUT:
        found = [(number(row, "step"), value) for row in journal.evals if math.isfinite(value := number(row, *keys))]
        if found:
            panel.plot(*zip(*found, strict=True), color=_RED, marker="o", markersize=4, linewidth=2)
            panel.set_ylabel(label, color=_RED)
            spell = percent if keys == _HELD_OUT[0][0] else "{:.4g}".format
            words = [spell(value) for _, value in (found[0], *found[1:][-1:])]
            panel.set_title(" → ".join(words), loc="right", fontsize=10, color=_RED)
            return
    panel.text(0.5, 0.5, "no evaluation recorded", transform=panel.transAxes, ha="center", color=_GREY)
    panel.set_yticks([])
