"""What is known of every problem, and whom a step draws by it: the state behind slot ``sample``'s ``Learnable``."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from upslope.algo import learnable
from upslope.algo.learnable import Learnable, learnability, systematic
from upslope.errors import UserError
from upslope.rollout.address import Address
from upslope.training.tally import solved
from upslope.types import Group, Problem

PURPOSE = "learnable"


class KnownProblems:
    """Right and wrong attempts of every problem that was tried, as they count now.

    A problem whose row has ``num_right`` and ``num_samples`` (``upslope measure`` writes them) begins with those.
    """

    def __init__(self, problems: Sequence[Problem], slot: Learnable, seed: int) -> None:
        self._problems, self._slot, self._seed = problems, slot, seed
        self._record: dict[str, tuple[float, float, int]] = {}
        for problem in problems:
            measured = _measured(problem)
            if measured is not None:
                self._record[problem.id] = (*measured, 0)
        self.weight_of: dict[str, float] = {}
        """Of the problems drawn last: what a group of theirs counts for."""

    def require(self, num: int) -> None:
        """Raise UserError if there are not as many problems as a step takes."""
        if num > len(self._problems):
            raise UserError(
                f"a step takes {num} training problems, and the task has {len(self._problems)}; set problems to that "
                "or less"
            )

    def take(self, step: int, num: int) -> list[Problem]:
        """The problems of a step. Raises UserError if there are not that many."""
        self.require(num)
        problems = self.in_order(step)
        chance = self.chances(problems, step, num)
        start = float(Address(self._seed, f"{PURPOSE}/start", step).uniforms([("", 0)], 1)[0, 0])
        drawn = systematic(chance, start)
        self.weight_of = {problems[i].id: self.weight(chance[i], num) for i in drawn}
        return [problems[i] for i in drawn]

    def weight(self, chance: float, num: int) -> float:
        """What a group counts for whose problem was to be among ``num`` with this chance."""
        return num / (len(self._problems) * chance) if self._slot.weighted else 1.0

    def others(self, step: int, taken: Sequence[Problem]) -> list[Problem]:
        """All other problems, the most promising first as often as their estimates say (arXiv cs/0603096's keys,
        u^(1/w), in falling order, by their logarithms): what to turn to when a step wants more."""
        left = [p for p in self.in_order(step) if not any(p is t for t in taken)]
        uniforms = Address(self._seed, f"{PURPOSE}/others", step).uniforms([("", 0)], len(left))[0]
        estimates = [self.estimate(p, step) for p in left]
        weights = learnable.weights(estimates, self._slot.floor)
        keys = [
            math.log(max(float(u), sys.float_info.min)) / weight for u, weight in zip(uniforms, weights, strict=True)
        ]
        return [left[i] for i in sorted(range(len(left)), key=lambda i: -keys[i])]

    def learn(self, step: int, groups: Sequence[Group]) -> None:
        """Take a step's attempts into account; an attempt is right if it earned full marks."""
        for group in groups:
            if group.rollouts:
                right, wrong = self._counts(group.problem, step)
                num = sum(map(solved, group.rollouts))
                self._record[group.problem.id] = (right + num, wrong + len(group.rollouts) - num, step)

    def estimate(self, problem: Problem, step: int) -> float:
        """E[p (1 - p)] of the problem, as its record stands at this step."""
        return learnability(*self._counts(problem, step))

    def row(self, step: int, groups: Sequence[Group]) -> dict[str, float]:
        """``num_known`` problems tried so far, ``learnability`` the mean estimate of this step's problems before it."""
        found = [self.estimate(g.problem, step) for g in groups]
        return {"num_known": len(self._record), "learnability": sum(found) / max(len(found), 1)}

    def state(self) -> dict[str, Any]:
        """Everything that was learnt, for a checkpoint."""
        return {problem: list(record) for problem, record in self._record.items()}

    def load(self, state: Mapping[str, Sequence[float]]) -> None:
        """Go on with a checkpoint's, of the problems that there are; others begin with their rows' own
        counts, as measured before the first step."""
        there = {problem.id for problem in self._problems}
        known = {problem: record for problem, record in state.items() if problem in there}
        self._record |= {problem: (float(r), float(w), int(step)) for problem, (r, w, step) in known.items()}

    def in_order(self, step: int) -> list[Problem]:
        """An order of the step's own, so that it is chance which problems can be drawn together; those never tried
        first, so that as many of them are drawn as were wanted."""
        order = Address(self._seed, f"{PURPOSE}/order", step).permutation(len(self._problems))
        return sorted((self._problems[i] for i in order), key=lambda p: p.id in self._record)

    def _counts(self, problem: Problem, step: int) -> tuple[float, float]:
        right, wrong, last = self._record.get(problem.id, (0.0, 0.0, step))
        fade = self._slot.decay ** (step - last)
        return right * fade, wrong * fade

    def chances(self, problems: Sequence[Problem], step: int, num: int) -> list[float]:
        """The chance of every problem to be among the ``num`` of a step."""
        known = [i for i, p in enumerate(problems) if p.id in self._record or not self._slot.fresh]
        num_new = len(problems) - len(known)
        num_known = min(num - min(self._slot.fresh * num, num_new) if known else 0.0, len(known))
        found = [(num - num_known) / max(num_new, 1)] * len(problems)
        estimates = [self.estimate(problems[i], step) for i in known]
        for i, chance in zip(known, learnable.chances(estimates, num_known, self._slot.floor), strict=True):
            found[i] = chance
        return found


def _measured(problem: Problem) -> tuple[float, float] | None:
    """(right, wrong) attempts that the problem's row tells of. Raises UserError for numbers that cannot be."""
    right, num = (problem.columns.get(name) for name in ("num_right", "num_samples"))
    if right is None or num is None:
        return None
    counts = all(type(n) in (int, float) and float(n).is_integer() for n in (right, num))
    if not (counts and 0 <= right <= num):
        raise UserError(f"{problem.id}: num_right = {right!r} of num_samples = {num!r} is no count of attempts")
    return (float(right), float(num - right)) if num else None
