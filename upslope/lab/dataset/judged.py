"""What a task's reward says of answers that are known to be good or bad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from upslope.tasks.base import Task, scores_of
from upslope.types import Problem

MOST_JUDGED = 32
"""Problems that are looked at: some rewards take seconds."""


@dataclass(frozen=True)
class Judged:
    """The rewards of one kind of answer, problem by problem.

    >>> Judged("nothing", (0.0, 0.0)).mean
    0.0
    """

    kind: str
    rewards: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.rewards) / len(self.rewards) if self.rewards else 0.0


def rewards_known(task: Task, demonstrations: Sequence[Problem]) -> list[Judged]:
    """Rewards of the demonstration, of nothing, of another problem's demonstration, and of the demonstration twice, for
    problems spread evenly over the data; empty without a reward or demonstrations. Raises what the reward raises."""
    shown = [problem for problem in demonstrations if problem.demonstration and problem.messages]
    if not task.has_reward or not shown:
        return []
    step = -(-len(shown) // MOST_JUDGED)
    asked = shown[::step][:MOST_JUDGED]
    answers = [str(problem.demonstration) for problem in asked]
    kinds = {
        "the demonstration": answers,
        "nothing": [""] * len(asked),
        "another problem's": answers[1:] + answers[:1],
        "the demonstration twice": [f"{answer}\n{answer}" for answer in answers],
    }
    if len(asked) == 1:
        del kinds["another problem's"]
    return [Judged(kind, tuple(s.reward for s in scores_of(task, asked, said))) for kind, said in kinds.items()]


def odd_rewards(found: Sequence[Judged]) -> list[str]:
    """What is odd about these rewards, a line each.

    >>> odd_rewards([Judged("the demonstration", (1.0, 0.0)), Judged("nothing", (0.0, 0.0))])
    ['1 of 2 demonstrations earn less than full marks: is the answer read from them as it is from attempts?']
    """
    by_kind = {judgement.kind: judgement for judgement in found}
    lines = []
    good = by_kind.get("the demonstration")
    if good is not None:
        poor = sum(reward < 1 - 1e-6 for reward in good.rewards)
        if poor:
            lines.append(
                f"{poor} of {len(good.rewards)} demonstrations earn less than full marks: is the answer read from them "
                "as it is from attempts?"
            )
    for kind in ("nothing", "another problem's"):
        bad = by_kind.get(kind)
        paid = sum(reward > 0 for reward in bad.rewards) if bad is not None else 0
        if bad is not None and paid > len(bad.rewards) // 4:
            lines.append(
                f"{paid} of {len(bad.rewards)} times {kind} earns something: the reward can be had for nothing"
            )
    return lines
