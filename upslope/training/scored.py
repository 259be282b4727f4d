"""Attempts with the task's scores, and rewards on the way at the tokens that reached them."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from upslope.errors import UserError
from upslope.model.renderer import Renderer
from upslope.tasks.base import Task, scores_of
from upslope.tasks.response import NO_RUN, Response, Standing
from upslope.types import Group, Problem, Rollout, Score


def score(
    task: Task,
    renderer: Renderer,
    problems: Sequence[Problem],
    attempts: Sequence[Sequence[Rollout]],
    standing: Standing = NO_RUN,
) -> list[Group]:
    """Every attempt with the task's score, problem by problem; rewards are told the run's ``standing``. Raises
    UserError for a NaN or infinite reward."""
    asked = [p for p, rollouts in zip(problems, attempts, strict=True) for _ in rollouts]
    flat = [r for rollouts in attempts for r in rollouts]
    left = [place for place, r in enumerate(flat) if r.earned is None]
    responses = [Response(flat[i].answer, flat[i].response, standing) for i in left]
    given = scores_of(task, [asked[i] for i in left], responses, of="attempts") if left else []
    score_of = {place: r.earned for place, r in enumerate(flat)} | dict(zip(left, given, strict=True))
    scored = iter([_scored(renderer, rollout, score_of[place] or Score(0.0)) for place, rollout in enumerate(flat)])
    return [
        Group(problem, tuple(next(scored) for _ in rollouts))
        for problem, rollouts in zip(problems, attempts, strict=True)
    ]


def metrics_told(groups: Sequence[Group]) -> dict[str, float]:
    """The mean of what reward functions told of the batches that these attempts were scored in, as a journal has it."""
    scores = [rollout.score for group in groups for rollout in group.rollouts]
    names = dict.fromkeys(name for each in scores for name in each.told)
    found = {name: [each.told[name] for each in scores if name in each.told] for name in names}
    return {f"logged/{name}": math.fsum(values) / len(values) for name, values in found.items()}


def standing_at(step: int, steps: int, per_step: int, num_problems: int) -> Standing:
    """A run's standing before number ``step`` of its ``steps`` turns."""
    return Standing(step, steps, step * per_step / max(num_problems, 1))


def _scored(renderer: Renderer, rollout: Rollout, score: Score) -> Rollout:
    where = f"the reward of sample {rollout.sample} of problem {rollout.problem_id}"
    if not math.isfinite(score.reward):
        raise UserError(f"{where} is {score.reward}")
    if score.steps:
        score = replace(score, by_token=tokens_of_steps(renderer, rollout, score.steps, where))
    if score.by_turn:
        score = replace(score, by_token=tokens_of_turns(rollout, score, where))
    if score.by_token is not None and len(score.by_token) != len(rollout.response):
        raise UserError(f"{where} has {len(score.by_token)} values by token, and the response {len(rollout.response)}")
    return replace(rollout, score=score, earned=None)


def tokens_of_turns(rollout: Rollout, score: Score, where: str) -> tuple[float, ...]:
    """The rewards by token that the score has so far, and those by turn, each at the turn's last token that the policy
    chose. Raises UserError, beginning with ``where``, for one that is no number, and for more of them than turns."""
    if len(score.by_turn) > rollout.num_turns or not all(map(math.isfinite, score.by_turn)):
        raise UserError(
            f"{where} has the rewards {list(score.by_turn)} by turn; give finite numbers, at most one for each of the "
            f"{rollout.num_turns} turns"
        )
    found = list(score.by_token or (0.0,) * len(rollout.response))
    begins = [0, *rollout.turns, len(rollout.response)]
    for (begin, end), reward in zip(itertools.pairwise(begins), score.by_turn, strict=False):
        found[max(place for place in range(begin, end) if rollout.mask[place])] += reward
    return tuple(found)


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
