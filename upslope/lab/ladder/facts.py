"""The numbers of a ladder, read from its run folders and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet

from upslope.lab.ladder.execute import FAILED
from upslope.lab.ladder.plan import Arm
from upslope.record.journal import JOURNAL, Journal, JournalRow, number, read_journal

PHASES = ("sample", "prepare", "update")
"""What a step costs. ``measure`` is this report's own doing and is not counted; ``record`` is next to nothing."""
LAST_SHARE = 1 / 3
"""What "late in the run" means: this share of its steps."""


@dataclass(frozen=True)
class Point:
    """A held-out evaluation: after so many tokens and seconds of sampling and learning, this share was right."""

    step: int
    tokens: float
    seconds: float
    accuracy: float


@dataclass(frozen=True)
class RunFacts:
    """One run. NaN where something was not recorded."""

    recipe: str
    seed: int
    epochs: int | None = None
    curve: tuple[Point, ...] = ()
    entropy: tuple[tuple[float, float], ...] = ()
    """(tokens so far, nats a token): minus the mean log-probability of all tokens drawn in a step."""
    num_problems: int = 0
    """Held-out problems an evaluation."""
    pass_at: tuple[dict[int, float], dict[int, float]] = field(default_factory=lambda: ({}, {}))
    """pass@k from sampled attempts, before and after."""
    tokens: float = 0.0
    num_steps: int = 0
    num_updates: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase, over the run."""
    memory_gb: float = math.nan
    """The most the process used (on a GPU: allocated there), loading and evaluation included."""
    right_share: float = math.nan
    """Of all attempts made within the budget: who learns sooner makes more right ones."""
    num_attempts: int = 0
    taught_share: float = math.nan
    """Attempts that had a gradient, of all attempts made."""
    tried: float = math.nan
    """Attempts made for one that was kept to learn from."""
    equal_groups: float = math.nan
    """Late in the run, share of the problems tried whose attempts all earned the same."""
    truncated: tuple[float, float] = (math.nan, math.nan)
    """Share of attempts cut by the length limit: in the first step, late in the run."""
    clipped: float = math.nan
    """Share of tokens whose gradient was cut, mean over the run."""
    kl: tuple[float, ...] = ()
    """By step: KL(before || after) of the whole step, exact, nats a token, mean over the sampled states."""
    kl_update: tuple[float, ...] = ()
    """By step, for an update that keeps a budget: the same of its updates (their mean)."""
    kl_budget: float = math.nan
    effective_share: float = math.nan
    """The least effective sample size of the ratios, as a share of the tokens."""
    ratio_max: float = math.nan
    explained_variance: float = math.nan
    """Of the critic, late in the run."""
    idle_tokens: float = 0.0
    """Tokens generated before the policy first moved."""
    failed: str = ""
    """Why the run stopped before its budget was spent."""

    @property
    def before(self) -> float:
        return self.curve[0].accuracy if self.curve else math.nan

    @property
    def after(self) -> float:
        return self.curve[-1].accuracy if self.curve else math.nan

    @property
    def cost(self) -> float:
        """Seconds of sampling and learning."""
        return sum(self.seconds.values())

    @property
    def update_seconds(self) -> float:
        """Of one update, with its share of what was prepared for it (old and reference log-probabilities, values)."""
        return (self.seconds["prepare"] + self.seconds["update"]) / self.num_updates if self.num_updates else math.nan

    @property
    def last_entropy(self) -> float:
        return self.entropy[-1][1] if self.entropy else math.nan

    @property
    def first_entropy(self) -> float:
        return self.entropy[0][1] if self.entropy else math.nan


def read_run(folder: Path, arm: Arm) -> RunFacts:
    """Everything about one run, from its folder."""
    journal = read_journal(folder)
    steps = journal.steps
    tokens, seconds = _before(steps)
    late = steps[-max(1, round(LAST_SHARE * len(steps))) :]
    moved = [i for i, row in enumerate(steps) if number(row, "lr") > 0 or number(row, "kl_budget") > 0]
    num_attempts = _sum(steps, "num_rollouts")
    kept = _sum(steps, "num_kept")
    num_updates = _sum(steps, "num_updates")
    return RunFacts(
        recipe=arm.recipe,
        seed=arm.seed,
        epochs=arm.epochs,
        curve=tuple(
            Point(row["step"], tokens[row["step"]], seconds[row["step"]], number(row, "greedy", "value"))
            for row in journal.evals
            if row["step"] < len(tokens)
        ),
        entropy=tuple(_entropies(folder, tokens)),
        num_problems=int(max((number(row, "greedy", "num_problems") for row in journal.evals), default=0)),
        pass_at=(_pass_at(journal, 0), _pass_at(journal, -1)),
        tokens=tokens[-1],
        num_steps=len(steps),
        num_updates=int(num_updates),
        seconds={phase: _nansum(number(row, "seconds", phase) for row in steps) for phase in PHASES},
        memory_gb=_most(steps, "memory_gb"),
        right_share=_ratio(
            _nansum(number(r, "accuracy") * number(r, "num_rollouts") for r in steps if "accuracy" in r),
            sum(number(r, "num_rollouts") for r in steps if "accuracy" in r),
        ),
        num_attempts=int(num_attempts),
        taught_share=_ratio(_sum(steps, "num_learned") / arm.passes, num_attempts),
        tried=_ratio(num_attempts, kept),
        equal_groups=_mean(late, "equal_groups"),
        truncated=(_mean(steps[:1], "truncated"), _mean(late, "truncated")),
        clipped=_mean(steps, "clip_low") + _mean(steps, "clip_high"),
        kl=tuple(k for row in steps if math.isfinite(k := _kl_of_step(row))),
        kl_update=tuple(k for row in steps if math.isfinite(k := _kl_of_update(row))),
        kl_budget=_mean(steps, "kl_budget"),
        effective_share=-_most([{"x": -number(row, "effective_share")} for row in steps], "x"),
        ratio_max=_most(steps, "ratio_max"),
        explained_variance=_mean(late, "explained_variance"),
        idle_tokens=tokens[moved[0]] if moved else tokens[-1],
        failed=(folder / FAILED).read_text("utf-8").strip() if (folder / FAILED).exists() else "",
    )


def _before(steps: Sequence[JournalRow]) -> tuple[list[float], list[float]]:
    """Tokens and seconds spent before step 0, 1, ... and after the last one."""
    tokens, seconds = [0.0], [0.0]
    for row in steps:
        tokens.append(tokens[-1] + number(row, "num_tokens"))
        seconds.append(seconds[-1] + _nansum(number(row, "seconds", phase) for phase in PHASES))
    return tokens, seconds


def _kl_of_step(row: JournalRow) -> float:
    """KL of the whole step. Where an update keeps a budget and a step has several, a journal without ``kl_update``
    holds the mean over updates under this name, which is another thing."""
    several = "kl_budget" in row and number(row, "num_updates") > 1 and "kl_update" not in row
    return math.nan if several else number(row, "kl_step")


def _kl_of_update(row: JournalRow) -> float:
    return number(row, "kl_update" if "kl_update" in row else "kl_step") if "kl_budget" in row else math.nan


def _entropies(folder: Path, tokens: Sequence[float]) -> Iterable[tuple[float, float]]:
    """From the files of attempts. The mean of -log p over drawn tokens is an unbiased estimate of the entropy of what
    was drawn from, on the problems as they were tried; the journal's ``entropy`` covers only rows with a gradient,
    which recipes choose differently."""
    for path in sorted(folder.glob("rollouts/step-*.parquet")):
        step = int(path.stem.removeprefix("step-"))
        rows = pyarrow.parquet.read_table(path, columns=["sampler_logp"]).column("sampler_logp").to_pylist()
        drawn = [logp for row in rows if row for logp in row]
        if drawn and step < len(tokens):
            yield tokens[step], -sum(drawn) / len(drawn)


def _pass_at(journal: Journal, place: int) -> dict[int, float]:
    found = journal.evals[place].get("pass_at", {}) if journal.evals else {}
    return {int(k): number(found, k, "value") for k in found}


def _sum(rows: Sequence[JournalRow], key: str) -> float:
    return _nansum(number(row, key) for row in rows)


def _nansum(values: Iterable[float]) -> float:
    return math.fsum(v for v in values if math.isfinite(v))


def _known(rows: Sequence[JournalRow], key: str) -> list[float]:
    return [v for v in (number(row, key) for row in rows) if math.isfinite(v)]


def _mean(rows: Sequence[JournalRow], key: str) -> float:
    known = _known(rows, key)
    return math.fsum(known) / len(known) if known else math.nan


def _most(rows: Sequence[JournalRow], key: str) -> float:
    return max(_known(rows, key), default=math.nan)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan


@dataclass(frozen=True)
class Facts:
    """All runs: ``main`` by recipe, ``reuse`` by (recipe, passes); within each, by seed."""

    main: dict[str, list[RunFacts]]
    reuse: dict[tuple[str, int], list[RunFacts]]


def read_facts(runs: Path, arms: Sequence[Arm]) -> Facts:
    """The facts of all arms whose folder holds a journal."""
    main: dict[str, list[RunFacts]] = {}
    reuse: dict[tuple[str, int], list[RunFacts]] = {}
    for arm in arms:
        if not (runs / arm.name / JOURNAL).exists():
            continue
        found = read_run(runs / arm.name, arm)
        if arm.epochs is None:
            main.setdefault(arm.recipe, []).append(found)
        else:
            reuse.setdefault((arm.recipe, arm.epochs), []).append(found)
    return Facts(main, reuse)
