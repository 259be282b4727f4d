"""Held-out accuracy: greedy, and pass@k from several samples, each with a 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from upslope.errors import UserError, nearest
from upslope.model.chat_renderer import reading
from upslope.model.renderer import Renderer
from upslope.record.journal import told_problems
from upslope.rollout.address import Address
from upslope.rollout.base import Progress, Sampler
from upslope.rollout.groups import sample_groups
from upslope.tasks.base import Task
from upslope.tasks.response import NO_RUN, Standing
from upslope.training.scored import metrics_told, score
from upslope.training.statistics import mean_interval, pass_at_k, wilson
from upslope.training.tally import (
    decided,
    of_clocks,
    of_rewards,
    of_worlds,
    solved,
    solved_by_vote,
    solved_leniently,
)
from upslope.types import Group, Problem, Rollout, Sampling

MOST_KINDS = 100
"""Values of the column that ``by`` names: with more of them it is hardly meant."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found; ``row`` is its part of a journal line, ``greedy`` the greedy attempts themselves."""

    row: dict[str, Any]
    greedy: list[Group]

    @property
    def measures(self) -> dict[str, dict[str, Any]]:
        """Every share with its interval, by the name people know it by."""
        found = {"greedy": self.row["greedy"]} if "greedy" in self.row else {}
        if "lenient" in self.row:
            found["lenient"] = self.row["lenient"] | {"num_problems": self.row["greedy"]["num_problems"]}
        for name in ("pass", "maj"):
            found |= {f"{name}@{k}": value for k, value in self.row.get(f"{name}_at", {}).items()}
        return found | {f"greedy, {kind}": value for kind, value in self.row.get("by", {}).items()}

    def __str__(self) -> str:
        """``greedy 93.8 % [85.0 %, 97.5 %], pass@1 ... of 64 of 1319 problems``"""
        parts = [f"{name} {m['value']:.1%} [{m['low']:.1%}, {m['high']:.1%}]" for name, m in self.measures.items()]
        mean = f"mean reward {self.row['reward']:.3f}"
        return f"{', '.join(parts) or mean} of {told_problems(self.row)} problems"


def after(progress: Progress, attempts: Sequence[Rollout]) -> Progress:
    """The same, of what is done after these attempts: its numbers go on from theirs."""
    num_tokens = sum(len(r.response) for r in attempts)
    return lambda tokens, rows: progress(num_tokens + tokens, len(attempts) + rows)


def column_of(problems: Sequence[Problem], by: str) -> list[str]:
    """The value of the column ``by`` of every problem, as text. Raises UserError for a problem that has none, and for a
    column that tells nearly every problem from the others.

    >>> column_of([Problem("toy/0", (), columns={"level": 2})], "level")
    ['2']
    """
    for problem in problems:
        if problem.columns.get(by) is None:
            hint = nearest(by, problem.columns) if problem.columns else "; it has no columns"
            raise UserError(f"eval.by: problem {problem.id} has nothing in a column {by!r}{hint}")
    found = [str(problem.columns[by]) for problem in problems]
    if len({*found}) > MOST_KINDS:
        raise UserError(f"eval.by: the column {by!r} has {len({*found})} values; name one with at most {MOST_KINDS}")
    return found


def evaluate(
    task: Task,
    sampler: Sampler,
    renderer: Renderer,
    problems: Sequence[Problem],
    sampling: Sampling,
    *,
    samples: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
    by: str = "",
    num_there: int | None = None,
    standing: Standing = NO_RUN,
) -> Evaluation:
    """Attempt every problem greedily and, if ``samples`` > 0, that many times from ``sampling``.

    pass@k is reported for k = 1, 2, 4, ... up to ``samples``; maj@k, where answers can be read, for the first k of
    them; lenient accuracy, greedy, where the task has such a reading. The draws' address does not hold the step, so
    evaluations of one run differ by the weights alone. ``max_tokens``, ``min_tokens`` and ``stop`` hold for both. Where
    nothing says what is right (``Score.decided``) there is a mean reward and none of the shares. ``num_there``: how
    many problems there are, of which these were chosen; None: these.

    ``by`` names a column of the problems: greedy accuracy is also reported for each of its values. ``standing`` is what
    rewards are told of the run. Raises UserError as ``column_of`` does.
    """
    kind = column_of(problems, by) if by else []
    renderer = reading(renderer, special=task.keep_special)
    address = Address(seed, "eval")
    surest = replace(sampling, temperature=0.0)
    world: dict[str, Any] = {"episode": task.episode, "standing": standing}
    surely = sample_groups(sampler, renderer, problems, 1, surest, address, progress, **world)
    greedy = score(task, renderer, problems, surely, standing)
    attempts = [g.rollouts[0] for g in greedy]
    says = decided(attempts)
    row: dict[str, Any] = {}
    if says:
        row["greedy"] = asdict(wilson(sum(map(solved, attempts)), len(attempts))) | {"num_problems": len(attempts)}
    row |= {
        "num_problems": len(problems),
        "num_held_out": len(problems) if num_there is None else num_there,
        "reward": sum(r.reward for r in attempts) / len(attempts),
        "length": sum(r.num_chosen for r in attempts) / len(attempts),
        "truncated": sum(r.ended == "length" for r in attempts) / len(attempts),
    } | of_worlds(attempts)
    row |= of_rewards(attempts) | of_clocks(attempts) | metrics_told(greedy)
    if by and says:
        right = {k: [solved(r) for r, its in zip(attempts, kind, strict=True) if its == k] for k in dict.fromkeys(kind)}
        row["by"] = {k: asdict(wilson(sum(of), len(of))) | {"num_problems": len(of)} for k, of in right.items()}
    if says and any(r.score.lenient is not None for r in attempts):
        row["lenient"] = asdict(wilson(sum(map(solved_leniently, attempts)), len(attempts)))
    if samples and says:
        further = None if progress is None else after(progress, attempts)
        drawn = sample_groups(sampler, renderer, problems, samples, sampling, address, further, **world)
        sampled = score(task, renderer, problems, drawn, standing)
        num_right = [sum(map(solved, g.rollouts)) for g in sampled]
        ks = sorted({min(2**i, samples) for i in range(samples.bit_length() + 1)})
        row["pass_at"] = {
            str(k): asdict(mean_interval([pass_at_k(samples, right, k) for right in num_right]))
            | {"num_problems": len(problems), "num_samples": samples}
            for k in ks
        }
        if any(r.score.extracted is not None for g in sampled for r in g.rollouts):
            row["maj_at"] = {
                str(k): asdict(wilson(sum(solved_by_vote(g.rollouts[:k]) for g in sampled), len(sampled)))
                | {"num_problems": len(problems), "num_samples": k}
                for k in ks
                if k > 1
            }
    return Evaluation(row, greedy)
