"""``report.md``: verdicts first, then the numbers they rest on, then how everything was measured."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from upslope.algo.family import FAMILY
from upslope.files import write_whole
from upslope.inspect.words import duration, percent
from upslope.lab.ladder import headaches as rules
from upslope.lab.ladder.facts import Facts, RunFacts
from upslope.lab.ladder.headaches import headaches, mean
from upslope.lab.ladder.options import Ladder
from upslope.lab.ladder.pictures import by_name, draw_all
from upslope.lab.ladder.plan import EPOCHS, REUSED
from upslope.lab.ladder.variance import FIT_BATCHES, Noise, best_constant
from upslope.lab.ladder.verdict import Appearance, Headache

WORDS: Mapping[Appearance, str] = {
    "appears": "yes",
    "in part": "in part",
    "does not appear": "**not on this task**",
    "not measured": "not measured",
}


def write_ladder_report(ladder: Ladder, facts: Facts, noise: Sequence[Noise], command: str) -> Path:
    """Pictures and ``report.md`` into the ladder's folder; returns the report's path."""
    pictures = draw_all(facts, noise, ladder.out)
    found = headaches(facts, by_name(noise))
    parts = [
        _opening(ladder, facts, command),
        "## Which headaches are seen here, and does the next branch cure them?\n\n" + _verdicts(found),
        "## Results\n\n" + _results(facts),
        _picture(pictures, "tokens", "Held-out accuracy by tokens", "mean and range over seeds"),
        _picture(pictures, "seconds", "Held-out accuracy by seconds", "the same curves by what they cost in time"),
        "## Headache by headache\n\n" + "\n\n".join(_headache(i, h) for i, h in enumerate(found, start=1)),
        _noise(noise, pictures),
        _reuse(facts, pictures),
        _picture(pictures, "entropy", "Entropy", "minus the mean log-probability of all tokens drawn in a step"),
        "## How it was measured\n\n" + _method(ladder, facts, noise),
    ]
    path = ladder.out / "report.md"
    write_whole(path, ("\n\n".join(part for part in parts if part) + "\n").encode())
    return path


def _opening(ladder: Ladder, facts: Facts, command: str) -> str:
    seeds = max((len(runs) for runs in facts.main.values()), default=0)
    task = ladder.task or ("user" if ladder.data else "pocket")
    return (
        f"# The ladder on {task}\n\n"
        f"Every branch of the family from the same start (`{ladder.model}`), each for {ladder.tokens:,} generated "
        f"tokens, {seeds} seed{'s' if seeds != 1 else ''}. No learning rate was tuned for any recipe: all share "
        f"{'the default one' if ladder.lr is None else f'{ladder.lr:g}'}, and so a recipe may do better than it does "
        f"here.\n\n```\n{command}\n```\n\n{machine()}."
    )


def machine() -> str:
    """What it ran on, in a line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS")
    chip = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    limit = f", OMP_NUM_THREADS={threads}" if threads else ""
    return f"{chip}, {cores} cores{limit}, torch {torch.__version__}, Python {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] != "unknown" else platform.machine()


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(markdown_table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [head, *rows]
    shown = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([shown[0], "|" + "---|" * len(head), *shown[1:]])


def _verdicts(found: Sequence[Headache]) -> str:
    rows = []
    for h in found:
        pain, cure = ((WORDS[h.verdict(side)] + _count(h, side)) for side in ("pain", "cure"))
        rows.append([f"{h.parent} → {h.child}", h.pain, pain, h.cure, cure])
    return markdown_table(["step", "headache", "seen here?", "cure", "works here?"], rows)


def _count(h: Headache, side: str) -> str:
    known = [c.holds for c in h.checks if c.side == side and c.holds is not None]
    return f" ({sum(known)} of {len(known)})" if len(known) > 1 else ""


def _headache(place: int, h: Headache) -> str:
    lines = [f"### {place}. {h.parent} → {h.child}: {h.pain}", f"Cure: {h.cure}."]
    if h.missing:
        return "\n\n".join([*lines, f"Not measured here; it needs runs of {', '.join(h.missing)}."])
    marks = {True: "yes", False: "**no**", None: "not measured"}
    checks = [[c.side, c.expected, c.measured, marks[c.holds]] for c in h.checks]
    lines.append(markdown_table(["", "expected", "measured", "holds?"], checks))
    lines.append(_sentence(h))
    return "\n\n".join(lines)


def _sentence(h: Headache) -> str:
    pain, cure = h.verdict("pain"), h.verdict("cure")
    first = {
        "appears": "The headache is seen on this task",
        "in part": "The headache is seen on this task in part",
        "does not appear": "The expected headache does not appear on this task",
        "not measured": "The headache was not measured",
    }[pain]
    second = {
        "appears": "and the cure does all that is expected of it",
        "in part": "and the cure does part of what is expected of it",
        "does not appear": "and the cure's expected effect does not appear",
        "not measured": "and the cure was not measured",
    }[cure]
    return f"{first}, {second}."


def _results(facts: Facts) -> str:
    rows = []
    for name, runs in facts.main.items():
        seconds = " / ".join(f"{mean(runs, _phase(p)):.0f}" for p in ("sample", "prepare", "update"))
        rows.append(
            [
                name,
                f"{_spread([r.before for r in runs])} → {_spread([r.after for r in runs])}",
                _spread([r.right_share for r in runs]),
                " / ".join(_pass(runs, k) for k in sorted({1, max(runs[0].pass_at[1], default=1)})),
                f"{mean(runs, lambda r: r.tokens):,.0f}",
                f"{mean(runs, lambda r: r.cost):.0f} ({seconds})",
                f"{mean(runs, lambda r: r.memory_gb):.2f}",
                f"{mean(runs, lambda r: r.num_updates):.0f}",
            ]
        )
    k = max((max(r.pass_at[1], default=1) for runs in facts.main.values() for r in runs), default=1)
    head = ["recipe", "held-out accuracy, greedy", "right of all attempts made", f"pass@1 / pass@{k} after", "tokens"]
    head += ["seconds (sample / prepare / update)", "peak memory (GB)", "updates"]
    failed = [f"- {name}, seed {r.seed}: {r.failed}" for name, runs in facts.main.items() for r in runs if r.failed]
    notes = "\n\nRuns that stopped before their budget was spent:\n\n" + "\n".join(failed) if failed else ""
    tree = [n for n in facts.main if n not in {x for h in ORDER for x in h}]
    more = [f"- {n} (from {FAMILY[n].parent}): {FAMILY[n].cures}. No rule judges it here." for n in tree]
    extra = "\n\nBeyond the main line:\n\n" + "\n".join(more) if more else ""
    return markdown_table(head, rows) + "\n\nMean, and in brackets the range over seeds." + notes + extra


ORDER = (("sft", "rft"), ("reinforce", "reinforce-baseline"), ("importance", "trpo"), ("ppo", "grpo"), ("dapo", ""))
"""The recipes that a rule judges."""


def _phase(name: str) -> Callable[[RunFacts], float]:
    return lambda run: run.seconds.get(name, math.nan)


def _pass(runs: Sequence[RunFacts], k: int) -> str:
    return percent(mean(runs, lambda r: r.pass_at[1].get(k, math.nan)))


def _spread(values: Sequence[float]) -> str:
    known = [v for v in values if math.isfinite(v)]
    if not known:
        return "-"
    middle = percent(math.fsum(known) / len(known))
    return middle if len(known) == 1 else f"{middle} ({percent(min(known))} to {percent(max(known))})"


def _picture(pictures: Mapping[str, str], name: str, title: str, text: str) -> str:
    return f"## {title}\n\n![{title}: {text}]({pictures[name]})" if name in pictures else ""


def _noise(noise: Sequence[Noise], pictures: Mapping[str, str]) -> str:
    if not noise:
        return ""
    rows = [
        [n.advantage, f"{n.ratio:.2f}", f"{n.halves[0]:.2f} and {n.halves[1]:.2f}", f"{n.attempts_needed:,.0f}",
         f"{n.cosine:.3f}"]
        for n in noise
    ]  # fmt: skip
    head = ["advantage", "noise to signal", "in the two halves", "attempts for noise = signal", "cosine"]
    critic = next((n.explained_variance for n in noise if n.explained_variance is not None), None)
    knows = (
        f" The critic of `gae` explains {percent(critic)} of the variance of the outcome." if critic is not None else ""
    )
    first, best = noise[0], best_constant(noise)
    constant = f" Of all constant baselines, {best:.2f} would have the least noise." if best is not None else ""
    return (
        "## Gradient noise at the start\n\n"
        f"The same weights, {first.num_batches} batches of {first.num_attempts} attempts, and every advantage on the "
        "same attempts. Noise: the trace of the gradient's covariance over batches. Signal: the squared norm of its "
        "mean, corrected for the noise in it. Their quotient does not change if an advantage is scaled. The cosine is "
        f"that of the mean gradient with leave_one_out's, which is unbiased; it counts what noise is left.{knows}"
        f"{constant}\n\n{markdown_table(head, rows)}\n\n![Noise to signal of the gradient]({pictures['noise']})"
    )


def _reuse(facts: Facts, pictures: Mapping[str, str]) -> str:
    if not facts.reuse:
        return ""
    rows = []
    for name in REUSED:
        for epochs in EPOCHS:
            runs = facts.reuse.get((name, epochs))
            if not runs:
                continue
            kls = [k for r in runs for k in r.kl]
            rows.append(
                [
                    name,
                    str(epochs),
                    f"{math.fsum(kls) / len(kls):.2g} / {max(kls):.2g}" if kls else "not recorded",
                    percent(mean(runs, lambda r: r.effective_share)),
                    f"{max(r.ratio_max for r in runs):.3g}",
                    percent(mean(runs, lambda r: r.clipped)),
                    f"{_spread([r.before for r in runs])} → {_spread([r.after for r in runs])}",
                    f"{mean(runs, lambda r: r.first_entropy):.3f} → {mean(runs, lambda r: r.last_entropy):.3f}",
                    f"{mean(runs, lambda r: r.cost):.0f}",
                    "; ".join(r.failed for r in runs if r.failed) or "-",
                ]
            )
    head = ["recipe", "passes", "KL of a step, mean / most", "least effective share", "largest ratio", "clipped"]
    head += ["accuracy", "entropy (nats a token)", "seconds", "stopped early"]
    picture = f"\n\n![KL of every step]({pictures['reuse']})" if "reuse" in pictures else ""
    return "## A batch used 1, 4 and 16 times\n\n" + markdown_table(head, rows) + picture


def _method(ladder: Ladder, facts: Facts, noise: Sequence[Noise]) -> str:
    seeds = len(next(iter(facts.reuse.values()))) if facts.reuse else 0
    lines = [
        "- Every arm is an ordinary `upslope train` in a process of its own, one after the other; its journal is in "
        "`runs/`, and every number here was read from there.",
        "- A seed's arms all load the same checkpoint, `runs/start-SEED`. For imitation the budget counts imitated "
        "tokens. An arm ends with the step in which its budget is spent.",
        "- Seconds are those of sampling, preparing (values, old and reference log-probabilities) and updating; "
        "measuring for this report and evaluation are left out. Peak memory is the process's own (on a GPU: what was "
        "allocated there), with the library, loading, measuring and evaluation in it.",
        "- Right of all attempts made: the share, over the whole run, of training attempts with full marks; whoever "
        "learns sooner has more. It counts what dynamic sampling threw away too.",
        "- The spread that a difference has to exceed is its range over seeds (a seed's arms have one start), or twice "
        "the standard error of counting that many attempts, whichever is more. Three seeds settle large effects only.",
        f"- Rules: noise is lower at a quotient of {rules.LESS_NOISE:g} that is above 1 in both halves; a step runs "
        f"away at {rules.RUNS_AWAY:g} times the KL; dearer means {rules.DEARER:g} times the seconds, or "
        f"{rules.MORE_MEMORY:g} times the memory; a critic knows something from {rules.KNOWS_SOMETHING:g} explained "
        f"variance; entropy has fallen below {percent(rules.FALLEN)} of itself; equal groups matter from "
        f"{percent(rules.WASTED)}, cut attempts from {percent(rules.CUT)}. Late in a run: its last third.",
    ]
    if noise:
        lines.append(
            f"- The critic of `gae` was fitted alone on {FIT_BATCHES} other batches of a step's own size, with ppo's "
            "passes over each, as in ppo's warm-up. All gradients are those of the log-likelihood surrogate, summed "
            "over an attempt."
        )
    if facts.reuse:
        lines.append(
            f"- The reuse test ran for {ladder.reuse_tokens:,} tokens an arm, {seeds} seed{'s' if seeds != 1 else ''}, "
            "without warm-up of the learning rate or of ppo's critic, which would last as long as the shortest arms. "
            "KL of a step: exact, over the vocabulary, from before its first update to after its last, mean over the "
            "sampled states. trpo's budget is one for every update, measured from where that update begins: 16 passes "
            "have it 16 times."
        )
    total = sum(r.cost for runs in (*facts.main.values(), *facts.reuse.values()) for r in runs)
    lines.append(f"- Sampling and learning took {duration(total)} in all, over all arms.")
    return "\n".join(lines)
