"""Rewards and samplers that make a run sick (benchmarks/sick_runs.py)."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import upslope as up
from upslope.rollout.local import LocalSampler
from upslope.tasks.base import Task
from upslope.types import Problem, Score

Reward = Callable[[Problem, str], float]


class Judged(Task):
    """Pocket's problems with another reward, which reads no answer."""

    reads_answers = False

    def __init__(self, name: str, reward: Reward) -> None:
        self.name, self._reward, self._pocket = name, reward, up.tasks.pocket()
        self.max_tokens = self._pocket.max_tokens

    def problems(self, split: Any) -> Sequence[Problem]:
        return self._pocket.problems(split)

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        return [Score(float(self._reward(p, r))) for p, r in zip(problems, responses, strict=True)]


class Fixed(Judged):
    """Always the same 16 problems, as somebody has who has few."""

    def __init__(self) -> None:
        super().__init__("fixed", lambda problem, response: 0.0)

    def problems(self, split: Any) -> Sequence[Problem]:
        return self._pocket.problems(split)[:64]

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        return self._pocket.score(problems, responses)


class Other(Judged):
    """An answer counts in a form that the model was never shown."""

    reads_answers = True

    def __init__(self) -> None:
        super().__init__("boxed", lambda problem, response: 0.0)

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        return [Score(float(f"\\boxed{{{p.truth}}}" in r)) for p, r in zip(problems, responses, strict=True)]


class Stale(LocalSampler):
    """Writes with the weights it began with, whatever it is given."""

    def __init__(self, policy: Any) -> None:
        super().__init__(type(policy)(copy.deepcopy(policy.model), policy.tokenizer))

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        pass


class Lagging(Stale):
    """Writes with the weights of five steps before, and does not say so."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        self._waiting: deque[dict[str, Any]] = deque()

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        self._waiting.append({name: weight.detach().clone() for name, weight in weights.items()})
        if len(self._waiting) > 5:
            LocalSampler.load(self, self._waiting.popleft(), version)


class Warm(LocalSampler):
    """Draws at a higher temperature than it is asked for."""

    def generate(self, requests: Any, sampling: Any, *more: Any, **named: Any) -> Any:
        return super().generate(requests, replace(sampling, temperature=1.3 * sampling.temperature), *more, **named)


def constant(value: float) -> Reward:
    return lambda problem, response: value


def by_words(problem: Problem, response: str) -> float:
    """Pays for every word."""
    return min(len(response.split()) / 30, 1.0)


def by_sums(problem: Problem, response: str) -> float:
    """Pays for every sum that is written down, right or not."""
    return min(response.count("=") / 4, 1.0)


def by_brevity(problem: Problem, response: str) -> float:
    """Pays for having little to say."""
    return max(1 - len(response.split()) / 20, 0.0)


def by_closeness(problem: Problem, response: str) -> float:
    """Pays in part for an answer that is nearly right: an honest reward with many values."""
    said = response.rpartition("####")[2].strip()
    return max(1 - abs(int(said) - int(problem.truth or 0)) / 20, 0.0) if said.isdecimal() else 0.0


def by_digit(problem: Problem, response: str) -> float:
    """Pays for an answer that ends in 7."""
    return float(response.rstrip().endswith("7"))


def by_problem(problem: Problem, response: str) -> float:
    """Pays for having been given the problem."""
    return float(sum(map(ord, problem.id)) % 2)
