"""Processes that score attempts, on any machine of the cluster."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from upslope.cluster.crew import MOST_DEATHS, Crew, Member, fate
from upslope.cluster.life import Life, SignOfLife
from upslope.cluster.machines import own_machine
from upslope.errors import Unavailable, UserError
from upslope.tasks.around import AroundTask
from upslope.tasks.at_work import WATCH
from upslope.tasks.base import Task, scores_of
from upslope.tasks.registry import open_task
from upslope.types import Problem, Score

QUIET = 30.0
"""Seconds after which it is said who scores; how long a reward may take is ``task.reward_timeout``'s business."""


class RewardWorker:
    """The process: it opens the task once more, and scores what it is given."""

    def __init__(self, spec: Mapping[str, Any], folder: str) -> None:
        """``folder``: where paths in ``spec`` begin."""
        os.chdir(folder)
        self._life = Life(machine=own_machine())
        self._task = open_task(**spec)

    @ray.method(concurrency_group="watch")
    def sign(self) -> SignOfLife:
        return self._life.sign()

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        return scores_of(self._task, problems, responses)


class JudgedElsewhere(AroundTask):
    """A task whose attempts are scored by a crew of such processes. All but ``score`` stays here."""

    def __init__(self, task: Task, crew: Crew) -> None:
        super().__init__(task)
        self._crew = crew

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """Raises UserError as the task does, and for attempts over which one process after another dies."""
        if not responses:
            return super().score(problems, responses)
        num = len(self._crew.members)
        cuts = [len(responses) * number // num for number in range(num + 1)]
        shares = [slice(a, b) for a, b in itertools.pairwise(cuts) if a < b]
        members = self._crew.members
        asked = [(member, member.actor, share) for member, share in zip(members, shares, strict=False)]
        calls = [actor.score.remote(problems[share], responses[share]) for _, actor, share in asked]
        found: list[Score] = []
        for (member, actor, share), call in zip(asked, calls, strict=True):
            for deaths in range(1, MOST_DEATHS + 1):
                try:
                    found += self._waited_for(call, member, len(problems[share]))
                    break
                except RayTaskError as error:
                    if isinstance(error.cause, (UserError, Unavailable)):
                        raise error.cause from None
                    raise
                except RayError as error:
                    why = member.ended or fate(member, error)
                    if deaths == MOST_DEATHS:
                        told = f"{member.where} {why}; so did {deaths - 1} before, over the same work"
                        raise UserError(told) from None
                    self._crew.replace(member, actor, why)
                    actor = member.actor
                    call = actor.score.remote(problems[share], responses[share])
        return found

    def _waited_for(self, call: Any, member: Member, num: int) -> list[Score]:
        """The scores, once they are there; while they are not, who is waited for is said."""
        begun = time.monotonic()
        while not ray.wait([call], timeout=QUIET)[0]:
            WATCH.say(f"{member.where} has been scoring {num} attempts for {time.monotonic() - begun:.0f} s")
        scores: list[Score] = ray.get(call)
        return scores
