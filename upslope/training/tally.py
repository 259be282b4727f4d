"""What is read off attempts: which are right, by which reading, by vote; and how much of them the world wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from upslope.types import Rollout

FULL_MARKS = 1.0


def solved(rollout: Rollout) -> bool:
    """An attempt counts as right if it earned full marks: a reward of at least 1."""
    return rollout.reward >= FULL_MARKS


def solved_leniently(rollout: Rollout) -> bool:
    """Right, or right by the task's lenient reading."""
    return solved(rollout) or (rollout.score.lenient or 0.0) >= FULL_MARKS


def solved_by_vote(rollouts: Sequence[Rollout]) -> bool:
    """Whether the answer that most of the attempts give is right (maj@k, arXiv 2203.11171); of equally frequent ones
    the first. Attempts without an answer do not vote."""
    votes = Counter(r.score.extracted for r in rollouts if r.score.extracted is not None)
    if not votes:
        return False
    winner = max(votes, key=lambda answer: votes[answer])
    return any(solved(r) for r in rollouts if r.score.extracted == winner)


def of_worlds(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """``heard`` tokens of the world an attempt, ``unanswered`` how often an attempt asked it and it had nothing to say;
    nothing where no world spoke or was asked."""
    heard, unanswered = sum(r.num_heard for r in rollouts), sum(r.unanswered for r in rollouts)
    if not heard and not unanswered:
        return {}
    return {"heard": heard / len(rollouts), "unanswered": unanswered / len(rollouts)}


def of_clocks(rollouts: Sequence[Rollout]) -> dict[str, int]:
    """``timed_out``: how many attempts nobody knows the reward of; nothing where all are known."""
    timed_out = sum(r.score.timed_out for r in rollouts)
    return {"timed_out": timed_out} if timed_out else {}
