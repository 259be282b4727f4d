"""First line of the loop: whoever acts acts, the task scores it, and the recipe keeps what it wants."""

from __future__ import annotations

import bisect
import functools
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from upslope.algo.equal import all_alike
from upslope.algo.recipe import show
from upslope.algo.sample import Attempts, Demonstrations, Documents, Sample
from upslope.errors import Exhausted, UserError
from upslope.model.renderer import Renderer
from upslope.rollout.address import Address
from upslope.rollout.base import Progress, Sampler
from upslope.rollout.groups import sample_groups
from upslope.tasks.base import Task, scores_of
from upslope.training.beside import Outlet, beside
from upslope.training.source import Shuffled
from upslope.types import Group, Problem, Rollout, Sampling, Score

LEAST_SHARE = 1 / 8
"""Assumed of the problems still untried, however few groups were kept so far."""


WORTH_A_THREAD = 0.1
"""Share of the time that scoring must take before it is done beside the sampling. Two threads that both use torch cost
a small model a third of its speed."""


@dataclass(frozen=True)
class Collected:
    """All attempts of a step, and the groups that are left to learn from."""

    attempted: list[Group]
    kept: list[Group]


class Collector:
    """Everything ``collect`` needs besides the step: the task's problems in the run's order, and who acts."""

    def __init__(
        self,
        task: Task,
        sampler: Sampler,
        renderer: Renderer,
        sampling: Sampling,
        seed: int,
        per_step: int,
        *,
        max_positions: int = sys.maxsize,
    ) -> None:
        """``max_positions``: how long a prompt and the text to imitate may be together."""
        self._task, self._sampler, self._renderer, self._sampling = task, sampler, renderer, sampling
        self._seed, self._per_step, self._max_positions = seed, per_step, max_positions
        self._pools: dict[str, Shuffled[Any]] = {}
        self._scoring = 0.0
        self.overlaps = False
        """Whether attempts are scored beside the sampling, from what scoring took the last time."""

    def __call__(self, sample: Sample, step: int, progress: Progress | None = None) -> Collected:
        """The groups of a step, scored and filtered. Raises UserError for a reward that is not a number, Exhausted if
        dynamic sampling cannot fill the step within its budget."""
        if not isinstance(sample, Attempts):
            given = self._imitate(sample, step)
            return Collected(given, given)
        problems = self._take("training problems", step, self._per_step)
        groups = self._attempt(problems, sample, step, progress)
        kept = self._kept(groups, sample)
        if sample.refill and len(kept) < self._per_step:
            return self._refilled(groups, sample, step, progress)
        return Collected(groups, kept)

    def _attempt(
        self, problems: Sequence[Problem], sample: Attempts, step: int, progress: Progress | None
    ) -> list[Group]:
        """Attempts at every problem, scored: beside the sampling where scoring takes long enough, else after it."""
        start, self._scoring = time.perf_counter(), 0.0
        generate = functools.partial(
            sample_groups,
            self._sampler,
            self._renderer,
            problems,
            sample.group_size,
            self._sampling,
            Address(self._seed, "sample", step),
        )
        if self.overlaps:
            groups = self._scored_beside(problems, generate, progress)
        else:
            groups = self._scored(problems, generate(progress))
        self.overlaps = self._scoring > WORTH_A_THREAD * (time.perf_counter() - start)
        return groups

    def _scored(self, problems: Sequence[Problem], attempts: Sequence[Sequence[Rollout]]) -> list[Group]:
        start = time.perf_counter()
        groups = score(self._task, self._renderer, problems, attempts)
        self._scoring += time.perf_counter() - start
        return groups

    def _scored_beside(
        self, problems: Sequence[Problem], generate: Callable[..., object], progress: Progress | None
    ) -> list[Group]:
        """Sample in another thread while this one scores the groups that are complete: a user's code may need the main
        thread (signal.alarm does), and the sampler does not."""
        groups: dict[int, Group] = {}
        so_far = (0, 0)

        def sampled(outlet: Outlet[tuple[int, list[Rollout]]]) -> None:
            def watch(num_tokens: int, num_rows: int) -> None:
                nonlocal so_far
                outlet.check()
                so_far = (num_tokens, num_rows)

            generate(watch, lambda index, rollouts: outlet.put((index, rollouts)))

        with closing(beside(sampled)) as waiting:
            for complete in waiting:
                if progress is not None:
                    progress(*so_far)
                if complete:
                    scored = self._scored([problems[index] for index, _ in complete], [r for _, r in complete])
                    groups.update(zip((index for index, _ in complete), scored, strict=True))
        return [groups[index] for index in range(len(problems))]

    def _kept(self, groups: Sequence[Group], sample: Attempts) -> list[Group]:
        return [kept for kept in map(sample.keep, groups) if kept is not None]

    def _refilled(self, groups: list[Group], sample: Attempts, step: int, progress: Progress | None) -> Collected:
        """Try further problems until as many groups are kept as problems were asked for. Raises Exhausted."""
        others = self._pools["training problems"].others(step, [g.problem for g in groups])
        budget = min(int(sample.refill * self._per_step), len(groups) + len(others))
        kept = self._kept(groups, sample)
        while (missing := self._per_step - len(kept)) > 0:
            share = max(len(kept) / len(groups), LEAST_SHARE)
            num = min(math.ceil(missing / share), self._per_step, budget - len(groups))
            if num <= 0:
                raise Exhausted(_why_short(groups, kept, self._per_step, sample, step, len(others)))
            more = self._attempt(others[:num], sample, step, progress)
            others = others[num:]
            groups, kept = groups + more, kept + self._kept(more, sample)
        return Collected(groups, kept[: self._per_step])

    def _imitate(self, sample: Demonstrations | Documents, step: int) -> list[Group]:
        if isinstance(sample, Documents):
            return [
                self._document(text, step, i) for i, text in enumerate(self._take("documents", step, self._per_step))
            ]
        num_replayed = round(sample.replay * self._per_step)
        problems = self._take("demonstrations", step, self._per_step - num_replayed)
        texts = self._take("documents", step, num_replayed) if num_replayed else []
        shown = [self._demonstration(p) for p in problems]
        return shown + [self._document(text, step, i) for i, text in enumerate(texts)]

    def _take(self, kind: str, step: int, num: int) -> list[Any]:
        """A step's share of the task's problems, demonstrations or documents, each kind in an order of its own."""
        if kind not in self._pools:
            find = {
                "training problems": lambda: self._task.problems("train"),
                "demonstrations": self._task.demonstrations,
                "documents": self._task.documents,
            }
            found: Sequence[Any] = find[kind]()
            if not found:
                raise UserError(f"task {self._task.name} has no {kind}; this recipe needs some")
            self._pools[kind] = Shuffled(found, self._seed, kind)
        return self._pools[kind].take(step, num)

    def _demonstration(self, problem: Problem) -> Group:
        text = problem.demonstration or ""
        return self._shown(problem, self._renderer.prompt_ids(problem.messages), text)

    def _document(self, text: str, step: int, index: int) -> Group:
        return self._shown(Problem(f"document/{step}/{index}", ()), self._renderer.start_ids, text)

    def _shown(self, problem: Problem, prompt: tuple[int, ...], text: str) -> Group:
        response = self._renderer.response_ids(text)
        if len(prompt) + len(response) > self._max_positions:
            raise UserError(
                f"{problem.id}: {len(prompt)} prompt tokens and {len(response)} to imitate do not fit the model's "
                f"{self._max_positions} positions; shorten the text {text[:40]!r}"
            )
        return Group(problem, (_given(problem.id, prompt, response, text),))


def _why_short(
    groups: Sequence[Group], kept: Sequence[Group], wanted: int, sample: Attempts, step: int, num_left: int
) -> str:
    rewards = [[r.reward for r in g.rollouts] for g in groups]
    equal = [min(r) for r in rewards if r and all_alike(r)]
    high = sum(value > 0 for value in equal)
    more = f"recipe.sample.refill (now {sample.refill:g}) or " if num_left else ""
    mend = f"raise {more}recipe.sample.group_size, or lower problems"
    if not num_left:
        mend = f"these are all the problems there are: {mend}"
    return (
        f"step {step}: of {len(groups)} problems tried, {len(kept)} gave a group that {show(sample.keep)} keeps, and "
        f"{wanted} were wanted ({high} problems had all attempts rewarded alike above 0, {len(equal) - high} at 0 or "
        f"below); {mend}"
    )


def _given(problem: str, prompt: tuple[int, ...], response: tuple[int, ...], text: str) -> Rollout:
    """Somebody else's words as an attempt with reward 1."""
    return Rollout(problem, 0, prompt, response, (True,) * len(response), None, 0, "stop", text, Score(1.0))


def score(
    task: Task, renderer: Renderer, problems: Sequence[Problem], attempts: Sequence[Sequence[Rollout]]
) -> list[Group]:
    """Every attempt with the task's score, problem by problem. Raises UserError for a NaN or infinite reward."""
    asked = [p for p, rollouts in zip(problems, attempts, strict=True) for _ in rollouts]
    flat = [r for rollouts in attempts for r in rollouts]
    scores = scores_of(task, asked, [r.text for r in flat], of="attempts")
    scored = iter([_scored(renderer, rollout, given) for rollout, given in zip(flat, scores, strict=True)])
    return [
        Group(problem, tuple(next(scored) for _ in rollouts))
        for problem, rollouts in zip(problems, attempts, strict=True)
    ]


def _scored(renderer: Renderer, rollout: Rollout, score: Score) -> Rollout:
    where = f"the reward of sample {rollout.sample} of problem {rollout.problem_id}"
    if not math.isfinite(score.reward):
        raise UserError(f"{where} is {score.reward}")
    if score.steps:
        score = replace(score, by_token=tokens_of_steps(renderer, rollout, score.steps, where))
    if score.by_token is not None and len(score.by_token) != len(rollout.response):
        raise UserError(f"{where} has {len(score.by_token)} values by token, and the response {len(rollout.response)}")
    return replace(rollout, score=score)


def tokens_of_steps(
    renderer: Renderer, rollout: Rollout, steps: Sequence[tuple[int, float]], where: str
) -> tuple[float, ...]:
    """Rewards on the way, told by characters of the text, at the tokens with which the text reached them; what lies
    beyond its end, at the last. Raises UserError, beginning with ``where``, for a step that is none."""
    found = [0.0] * len(rollout.response)
    for place, reward in steps:
        if place < 0 or not math.isfinite(reward):
            raise UserError(f"{where} has a step ({place}, {reward}); a step is a number of characters and a reward")
        reached = bisect.bisect_left(
            range(1, len(rollout.response)), place, key=lambda num: len(renderer.text(rollout.response[:num]))
        )
        found[reached] += reward
    return tuple(found)
