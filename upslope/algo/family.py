"""The family tree: every named algorithm is its parent plus a patch, written for one specific pain."""

from __future__ import annotations

from dataclasses import dataclass

from upslope.algo.advantage import GAE, BatchZScore, GroupZScore, group_mean, leave_one_out, ones
from upslope.algo.aggregate import ConstantLength, prompt_mean, sequence_mean, token_mean
from upslope.algo.choosing_tokens import CovarianceClip, CovariancePenalty, TopEntropy
from upslope.algo.correction import no_correction
from upslope.algo.critic import OwnCopy, no_critic
from upslope.algo.more_advantages import BatchScale, success_rate, teacher_gap
from upslope.algo.off_policy import BinaryDivergence, OffPolicyMask, SecondMoment
from upslope.algo.recipe import Recipe
from upslope.algo.regulariser import K1, K2, K3, no_penalty
from upslope.algo.reuse import Reuse
from upslope.algo.sample import Attempts, Demonstrations, Documents, mixed, rewarded
from upslope.algo.shape import SoftOverlong, identity
from upslope.algo.soft_surrogate import GeometricMean, SoftGate
from upslope.algo.surrogate import ClippedRatio, ClippedWeight, ImportanceRatio, SequenceRatio
from upslope.algo.update import KLBall
from upslope.errors import UserError, nearest

REINFORCE = Recipe()
SFT = REINFORCE.patch(sample=Demonstrations(), advantage=ones, aggregate=token_mean)
PRETRAIN = SFT.patch(sample=Documents())
RFT = REINFORCE.patch(sample=Attempts(keep=rewarded), advantage=ones)
REINFORCE_BASELINE = REINFORCE.patch(advantage=group_mean)
RLOO = REINFORCE_BASELINE.patch(advantage=leave_one_out, regulariser=K1())
IMPORTANCE = REINFORCE_BASELINE.patch(surrogate=ImportanceRatio(), reuse=Reuse(epochs=4))
TRPO = IMPORTANCE.patch(update=KLBall(), reuse=Reuse())
PPO = IMPORTANCE.patch(
    advantage=GAE(), critic=OwnCopy(), surrogate=ClippedRatio(), regulariser=K1(), aggregate=token_mean
)
REINFORCE_PLUS_PLUS = PPO.patch(advantage=BatchZScore(), critic=no_critic, reuse=Reuse())
REINFORCE_PLUS_PLUS_BASELINE = REINFORCE_PLUS_PLUS.patch(advantage=BatchZScore(centre="group"), regulariser=K2())
GRPO = PPO.patch(advantage=GroupZScore(), critic=no_critic, regulariser=K3(), aggregate=sequence_mean, reuse=Reuse())
DR_GRPO = GRPO.patch(advantage=group_mean, aggregate=ConstantLength(), regulariser=no_penalty)
GSPO = GRPO.patch(surrogate=SequenceRatio(), regulariser=no_penalty, reuse=Reuse(minibatches=4))
CISPO = GRPO.patch(
    sample=Attempts(keep=mixed, refill=10.0),
    shape=SoftOverlong(),
    surrogate=ClippedWeight(),
    regulariser=no_penalty,
    aggregate=token_mean,
    reuse=Reuse(minibatches=4),
)
DAPO = GRPO.patch(
    sample=Attempts(keep=mixed, refill=10.0, drop_truncated=True),
    shape=SoftOverlong(),
    surrogate=ClippedRatio(low=0.2, high=0.28),
    regulariser=no_penalty,
    aggregate=token_mean,
    reuse=Reuse(minibatches=4),
)
MAXRL = REINFORCE_BASELINE.patch(advantage=success_rate)
DISTILL = REINFORCE.patch(sample=Attempts(group_size=4), advantage=teacher_gap, aggregate=token_mean)
SAPO = GSPO.patch(surrogate=SoftGate())
GMPO = GSPO.patch(surrogate=GeometricMean())
DPPO = GSPO.patch(surrogate=BinaryDivergence(), aggregate=token_mean)
M2PO = DPPO.patch(surrogate=ImportanceRatio(), correction=SecondMoment())
DEEPSEEK_V3_2 = GRPO.patch(correction=OffPolicyMask(), regulariser=K3(weighted=True), reuse=Reuse(minibatches=4))
TOP_ENTROPY = DAPO.patch(correction=TopEntropy())
CLIP_COV = DAPO.patch(sample=Attempts(), shape=identity, surrogate=ClippedRatio(), correction=CovarianceClip())
KL_COV = CLIP_COV.patch(surrogate=ImportanceRatio(), correction=no_correction, regulariser=CovariancePenalty())
SCALERL = CISPO.patch(
    sample=Attempts(group_size=16, keep=mixed), shape=identity, advantage=BatchScale(), aggregate=prompt_mean
)
"""Without what is no slot: the head in float32, and problems that are mastered left out of later passes."""


@dataclass(frozen=True)
class Branch:
    """A named recipe, the one it patches, and what the patch is for."""

    recipe: Recipe
    parent: str | None
    cures: str


FAMILY: dict[str, Branch] = {
    "reinforce": Branch(REINFORCE, None, "learn from attempts: log-probability times reward"),
    "sft": Branch(SFT, "reinforce", "no attempt is right yet: imitate demonstrations, each with reward 1"),
    "pretrain": Branch(PRETRAIN, "sft", "no language yet: imitate every token of plain text"),
    "rft": Branch(RFT, "reinforce", "imitation is capped by its data: imitate the correct attempts instead"),
    "reinforce-baseline": Branch(
        REINFORCE_BASELINE, "reinforce", "the gradient is noisy: compare each attempt with the others at its problem"
    ),
    "rloo": Branch(
        RLOO, "reinforce-baseline", "the baseline contains the attempt itself: leave it out; add a KL penalty"
    ),
    "importance": Branch(
        IMPORTANCE,
        "reinforce-baseline",
        "attempts are expensive: several updates per batch, each token weighted by its ratio",
    ),
    "trpo": Branch(TRPO, "importance", "repeated updates run away: take the best step within a measured KL budget"),
    "ppo": Branch(
        PPO,
        "importance",
        "curvature is expensive: clip the ratio instead; a critic judges each token; add a KL penalty",
    ),
    "reinforce++": Branch(
        REINFORCE_PLUS_PLUS, "ppo", "the critic is expensive: normalise over the whole batch instead"
    ),
    "reinforce++-baseline": Branch(
        REINFORCE_PLUS_PLUS_BASELINE,
        "reinforce++",
        "hard and easy problems share one mean: subtract each group's mean first; k2 in the loss",
    ),
    "grpo": Branch(GRPO, "ppo", "the critic is expensive: compare the attempts at one problem with each other instead"),
    "dr-grpo": Branch(
        DR_GRPO,
        "grpo",
        "length and deviation bias the gradient: constant length, no deviation; no penalty",
    ),
    "gspo": Branch(
        GSPO, "grpo", "token ratios are noisy, the reward is for the whole attempt: one ratio per attempt; no penalty"
    ),
    "cispo": Branch(
        CISPO,
        "grpo",
        "clipping silences the tokens that matter: bound the weight instead; refill; overlong shaping",
    ),
    "dapo": Branch(
        DAPO,
        "grpo",
        "entropy falls, equal groups waste work, length misleads: clip-higher, refill, token mean, overlong",
    ),
    "maxrl": Branch(
        MAXRL, "reinforce-baseline", "rare successes weigh too little: divide by how often a problem is solved"
    ),
    "distill": Branch(
        DISTILL, "reinforce", "one number an attempt says little: a teacher judges every token the student wrote"
    ),
    "sapo": Branch(SAPO, "gspo", "a clip cuts all or nothing: a gate that fades, token by token"),
    "gmpo": Branch(GMPO, "gspo", "one wild ratio spoils a mean: clip each token's, then take the geometric mean"),
    "dppo": Branch(DPPO, "gspo", "ratios punish rare tokens: bound the change of probability instead; token mean"),
    "m2po": Branch(M2PO, "dppo", "stale data: drop the tokens whose weights make the variance"),
    "deepseek-v3.2": Branch(
        DEEPSEEK_V3_2, "grpo", "wrong attempts nobody would write now only disturb: drop them; an unbiased penalty"
    ),
    "top-entropy": Branch(TOP_ENTROPY, "dapo", "most tokens decide nothing: learn from the fifth with most entropy"),
    "clip-cov": Branch(
        CLIP_COV, "dapo", "few tokens make entropy fall: leave some of them out; no refill, no overlong"
    ),
    "kl-cov": Branch(KL_COV, "clip-cov", "leaving tokens out is harsh: a KL penalty on these few, no clip"),
    "scalerl": Branch(SCALERL, "cispo", "what holds up at scale: one deviation a batch, every problem counts the same"),
}


def find(name: str) -> Branch:
    """The branch of that name. Raises UserError naming the nearest known one."""
    if name not in FAMILY:
        raise UserError(f"recipe {name!r} is not known{nearest(name, FAMILY)}")
    return FAMILY[name]
