"""What is read off attempts: which are right, by which reading, by vote; what each reward function gave; and how much
of them the world wrote."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from upslope.marks import FULL_MARKS, comes_to
from upslope.types import Rollout


def solved(rollout: Rollout) -> bool:
    """An attempt counts as right if its task says so: where it says nothing else, from a reward of 1 on."""
    return rollout.score.is_right


def decided(rollouts: Iterable[Rollout]) -> bool:
    """Whether it is known of all attempts if they are right."""
    return all(r.score.decided for r in rollouts)


def solved_leniently(rollout: Rollout) -> bool:
    """Right, or right by the task's lenient reading."""
    return solved(rollout) or comes_to(rollout.score.lenient or 0.0, FULL_MARKS)


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
    of conversations also ``turns`` and ``calls`` of tools an attempt, ``wrong_calls`` among them, ``forks`` in all, and
    ``unfinished``, the share that a limit of turns or seconds ended; nothing where no world spoke or was asked."""
    heard, unanswered = sum(r.num_heard for r in rollouts), sum(r.unanswered for r in rollouts)
    if not heard and not unanswered and not any(r.chat for r in rollouts):
        return {}
    found = {"heard": heard / len(rollouts), "unanswered": unanswered / len(rollouts)}
    if any(r.chat for r in rollouts):
        found["turns"] = sum(r.num_turns for r in rollouts) / len(rollouts)
        found["forks"] = sum(len(r.forks) for r in rollouts)
        found["calls"] = sum(r.calls for r in rollouts) / len(rollouts)
        found["wrong_calls"] = sum(r.wrong_calls for r in rollouts) / len(rollouts)
        found["unfinished"] = sum(r.ended in ("turns", "seconds") for r in rollouts) / len(rollouts)
    return found


def of_clocks(rollouts: Sequence[Rollout]) -> dict[str, int]:
    """``timed_out``: how many attempts nobody knows the reward of; nothing where all are known."""
    timed_out = sum(r.score.timed_out for r in rollouts)
    return {"timed_out": timed_out} if timed_out else {}


def of_rewards(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """``reward_std``, the spread of the rewards; and where there are several functions, ``rewards``: for each of them
    ``mean`` and ``std`` of its own values, before its weight, and ``none``, the share of attempts to which it did not
    apply. Deviations are of the attempts themselves (divided by their number)."""
    if not rollouts:
        return {}
    row: dict[str, Any] = {"reward_std": _std([r.reward for r in rollouts])}
    by_name: dict[str, list[float]] = {name: [] for r in rollouts for name in r.score.parts}
    for r in rollouts:
        for name, value in r.score.parts.items():
            by_name[name] += [] if value is None else [value]
    if by_name:
        row["rewards"] = {name: _spread(values, len(rollouts)) for name, values in by_name.items()}
    return row


def _spread(values: Sequence[float], num: int) -> dict[str, float | None]:
    mean = math.fsum(values) / len(values) if values else None
    return {"mean": mean, "std": _std(values) if values else None, "none": 1 - len(values) / num}


def _std(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
