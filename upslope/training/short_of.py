"""Why dynamic sampling could not fill a step, in words."""

from __future__ import annotations

from collections.abc import Sequence

from upslope.algo.equal import all_alike
from upslope.algo.recipe import show
from upslope.algo.sample import Attempts
from upslope.types import Group


def why_short(
    groups: Sequence[Group], kept: Sequence[Group], wanted: int, sample: Attempts, step: int, num_left: int
) -> str:
    """What was tried, what was kept of it, and what would mend that."""
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
