"""The family tree: every named algorithm is its parent plus a patch, written for one specific pain."""

from __future__ import annotations

from dataclasses import dataclass

from upslope.algo.advantage import GroupZScore, group_mean, ones
from upslope.algo.aggregate import sequence_mean, token_mean
from upslope.algo.recipe import Recipe
from upslope.algo.sample import Attempts, Demonstrations, Documents, rewarded
from upslope.algo.surrogate import ClippedRatio
from upslope.errors import UserError, nearest

REINFORCE = Recipe()
SFT = REINFORCE.patch(sample=Demonstrations(), advantage=ones, aggregate=token_mean)
PRETRAIN = SFT.patch(sample=Documents())
RFT = REINFORCE.patch(sample=Attempts(keep=rewarded), advantage=ones)
REINFORCE_BASELINE = REINFORCE.patch(advantage=group_mean)
GRPO = REINFORCE_BASELINE.patch(advantage=GroupZScore(), surrogate=ClippedRatio(), aggregate=sequence_mean)


@dataclass(frozen=True)
class Branch:
    """A named recipe, the one it patches, and what the patch is for."""

    recipe: Recipe
    parent: str | None
    cures: str


FAMILY: dict[str, Branch] = {
    "reinforce": Branch(REINFORCE, None, "learn from attempts: log-probability times reward"),
    "sft": Branch(SFT, "reinforce", "no attempt is ever right yet: imitate demonstrations, each with reward 1"),
    "pretrain": Branch(PRETRAIN, "sft", "no language yet: every token of plain text is a demonstration"),
    "rft": Branch(RFT, "reinforce", "keep the imitation machinery: the correct attempts become the demonstrations"),
    "reinforce-baseline": Branch(
        REINFORCE_BASELINE, "reinforce", "the gradient is noisy: compare an attempt with its siblings"
    ),
    "grpo": Branch(
        GRPO, "reinforce-baseline", "one update a batch is wasteful and scales differ: ratio, clip, per-group units"
    ),
}


def find(name: str) -> Branch:
    """The branch of that name. Raises UserError naming the nearest known one."""
    if name not in FAMILY:
        raise UserError(f"recipe {name!r} is not known{nearest(name, FAMILY)}")
    return FAMILY[name]
