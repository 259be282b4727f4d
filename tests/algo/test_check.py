"""Slots that contradict each other are refused before a run, with the mend."""

from dataclasses import replace

import pytest
import torch
from tiny import group

from upslope.algo.advantage import GAE, BatchZScore, ConstantBaseline, GroupZScore, leave_one_out, ones, returns
from upslope.algo.aggregate import ConstantLength, sequence_mean, token_mean
from upslope.algo.check import check, complaints
from upslope.algo.choosing_tokens import CovarianceClip, CovariancePenalty, TopEntropy
from upslope.algo.correction import MaskedWeights, TruncatedWeights
from upslope.algo.critic import OwnCopy, SharedTrunk, no_critic
from upslope.algo.family import DAPO, FAMILY, GRPO, GSPO, IMPORTANCE, PPO, REINFORCE, REINFORCE_BASELINE, RFT, SFT, TRPO
from upslope.algo.learnable import Learnable
from upslope.algo.more_advantages import BatchScale, DecoupledZScore
from upslope.algo.off_policy import SecondMoment
from upslope.algo.regulariser import K1, K2, K3, EntropyBonus, ExactKL, no_penalty
from upslope.algo.reuse import Reuse
from upslope.algo.sample import Attempts, Demonstrations, Documents, mixed, rewarded
from upslope.algo.shape import SoftOverlong
from upslope.algo.slots import KINDS, kind
from upslope.algo.surrogate import ClippedRatio, ImportanceRatio, SequenceRatio
from upslope.algo.update import KLBall
from upslope.errors import UserError
from upslope.learn.prepare import judge, to_batch

ALONE = Attempts(group_size=1)
WHOLE = IMPORTANCE.patch(surrogate=ImportanceRatio("trajectory"))
GIVEN = GRPO.patch(sample=Demonstrations(), regulariser=no_penalty, advantage=ones)


def test_what_says_that_it_compares_the_batch_is_refused_with_weights_too():
    mine = kind("advantage", compares="batch")(lambda batch: batch.mask_NT * 1.0)
    try:
        assert any("scales by all attempts" in said for said in complaints(GRPO.patch(sample=WEIGHTED, advantage=mine)))
    finally:
        del KINDS["advantage"][next(name for name, value in KINDS["advantage"].items() if value is mine)]


@pytest.mark.parametrize("name", FAMILY)
def test_every_recipe_of_the_family_can_run(name):
    check(FAMILY[name].recipe)


WEIGHTED = Learnable(weighted=True)

BAD = [
    # Weights undo the chance of a group's own draw, and nothing that depends on who else was drawn.
    (GRPO.patch(sample=WEIGHTED, aggregate=token_mean), "aggregate=token_mean scales by all attempts"),
    (GRPO.patch(sample=replace(WEIGHTED, keep=mixed)), "sample.keep=mixed divides by how many attempts it keeps"),
    (GRPO.patch(sample=WEIGHTED, advantage=BatchZScore()), "scales by all attempts of a step, .*weighted=false"),
    (GRPO.patch(sample=WEIGHTED, advantage=BatchZScore(centre="group")), "scales by all attempts of a step"),
    (GRPO.patch(sample=WEIGHTED, advantage=BatchScale()), "scales by all attempts of a step"),
    (GRPO.patch(sample=WEIGHTED, advantage=DecoupledZScore()), "scales by all attempts of a step"),
    (PPO.patch(sample=WEIGHTED, aggregate=sequence_mean), "scales by all attempts of a step"),
    (GRPO.patch(sample=replace(WEIGHTED, drop_truncated=True)), "sample.drop_truncated=true divides by how many"),
    (GRPO.patch(sample=WEIGHTED, correction=TopEntropy()), "correction=TopEntropy.* chooses among the tokens of all"),
    (GRPO.patch(sample=WEIGHTED, correction=CovarianceClip()), "correction=CovarianceClip.* another correction"),
    (GRPO.patch(sample=WEIGHTED, regulariser=CovariancePenalty()), "regulariser=CovariancePenalty.* another regul"),
    (GRPO.patch(sample=WEIGHTED, surrogate=SecondMoment()), "surrogate=SecondMoment.* another surrogate"),
    (REINFORCE_BASELINE.patch(sample=ALONE), "advantage=group_mean compares .* set it to 2 or more"),
    (
        REINFORCE.patch(sample=ALONE, advantage=leave_one_out),
        "leave_one_out compares .* set it to 2 or more",
    ),
    (GRPO.patch(sample=ALONE), r"advantage=GroupZScore\(.*\) compares .* set it to 2 or more"),
    (DAPO.patch(sample=Attempts(refill=10)), "sample.refill .* set sample.keep=mixed or rewarded"),
    (SFT.patch(correction=TruncatedWeights()), "given text has no sampler .* use recipes that act"),
    (SFT.patch(sample=Documents(), correction=MaskedWeights()), "given text has no sampler"),
    (SFT.patch(surrogate=ImportanceRatio()), "given text has no sampler"),
    (GIVEN.patch(regulariser=K1()), "given text has no reward .* set regulariser=exact_kl"),  # in the loss k1 is none
    (GIVEN.patch(regulariser=K2(place="reward")), "given text has no reward .* set regulariser.place=loss"),
    (GIVEN.patch(sample=Documents(), regulariser=ExactKL(place="reward")), "set regulariser.place=loss"),
    (GRPO.patch(critic=OwnCopy()), r"critic=OwnCopy\(.*\) has no one to tell; set advantage=gae, or critic=no_critic"),
    (REINFORCE.patch(critic=SharedTrunk()), "critic=SharedTrunk.* set advantage=gae, or critic=no_critic"),
    (PPO.patch(critic=no_critic), r"advantage=GAE\(.*\) needs a critic; set critic=own_copy or critic=shared_trunk"),
    (
        TRPO.patch(advantage=GAE(), critic=SharedTrunk()),
        r"update=KLBall\(.*\) moves the policy's weights alone; set critic=own_copy",
    ),
    # Several updates without a ratio: the second one's gradient is not that of what was sampled.
    (REINFORCE.patch(reuse=Reuse(epochs=4)), "likelihood has no ratio .* makes 4 updates .* set surrogate=clipped"),
    (REINFORCE_BASELINE.patch(reuse=Reuse(minibatches=2)), "likelihood has no ratio .* or reuse.epochs=1 and"),
    # One ratio for an attempt of which tokens are told apart, or which is divided by its length twice.
    (WHOLE.patch(aggregate=token_mean), "trajectory.* divides it by lengths once more; set aggregate=sequence_sum"),
    (WHOLE.patch(aggregate=sequence_mean), "trajectory.* or surrogate.level=token"),
    (GSPO.patch(advantage=GAE(), critic=OwnCopy()), "one ratio for all tokens .* set surrogate.level=token"),
    (GSPO.patch(advantage=BatchZScore(), regulariser=K1()), "average away what advantage=BatchZScore"),
    (GSPO.patch(advantage=BatchZScore(), regulariser=ExactKL(place="reward")), "set surrogate.level=token"),
    (WHOLE.patch(advantage=GAE(), critic=OwnCopy()), "trajectory.* set surrogate.level=token"),
    # Penalties that hold nothing.
    (GRPO.patch(regulariser=K1(place="loss")), "no gradient on average .* set regulariser.place=reward, .*k2"),
    (GIVEN.patch(regulariser=K1(place="loss")), "no gradient on average .* set regulariser=exact_kl"),
    (GIVEN.patch(regulariser=K3(weighted=True)), "nobody drew given text; set regulariser=exact_kl"),
    *((GRPO.patch(regulariser=kind(0.0)), "holds nothing; set regulariser=no_penalty") for kind in (K1, K2, K3)),
    (GRPO.patch(regulariser=ExactKL(0.0)), "holds nothing; set regulariser=no_penalty"),
    (REINFORCE.patch(regulariser=EntropyBonus(0.0)), "holds nothing; set regulariser=no_penalty"),
    # Comparisons with nobody, and of equal with equal.
    (REINFORCE.patch(sample=Attempts(group_size=1, keep=mixed)), "keep=mixed compares .* set it to 2 or more"),
    (REINFORCE.patch(advantage=ones), "pushes every attempt alike, .*keep=everything .* set sample.keep=rewarded"),
    (REINFORCE.patch(advantage=ones, sample=Attempts(keep=mixed)), "keep=mixed keeps the wrong ones"),
    (SFT.patch(advantage=BatchZScore()), "every demonstration has reward 1; set advantage=ones"),
    (SFT.patch(advantage=ConstantBaseline()), "every demonstration has reward 1; set advantage=ones"),
    (SFT.patch(advantage=GAE(), critic=OwnCopy()), "every demonstration has reward 1; set .* and critic=no_critic"),
    (SFT.patch(advantage=GAE()), "every demonstration has reward 1; set advantage=ones"),
    (SFT.patch(advantage=BatchZScore(centre="group")), "every demonstration stands alone; set advantage=ones"),
    (SFT.patch(shape=SoftOverlong()), "given text is imitated without one; set shape=identity"),
    (SFT.patch(sample=Documents(), shape=SoftOverlong(), advantage=returns), "set shape=identity"),
    (PPO.patch(critic=SharedTrunk(weight=0.0)), "would never learn; set critic.weight above 0"),
]


@pytest.mark.parametrize(("recipe", "words"), BAD)
def test_a_contradiction_names_its_mend(recipe, words):
    with pytest.raises(UserError, match=f"this recipe cannot run: .*?{words}"):
        check(recipe)
    assert len(list(complaints(recipe))) == 1


MENDED = [
    REINFORCE_BASELINE.patch(sample=Attempts(group_size=2)),
    REINFORCE.patch(sample=ALONE, advantage=returns),
    REINFORCE.patch(sample=ALONE, advantage=BatchZScore()),
    GRPO.patch(sample=Attempts(group_size=2), advantage=GroupZScore()),
    DAPO.patch(sample=Attempts(keep=mixed, refill=10)),
    RFT.patch(sample=Attempts(keep=rewarded, refill=2)),
    GIVEN,
    GIVEN.patch(regulariser=K2()),
    GIVEN.patch(regulariser=ExactKL()),
    SFT.patch(reuse=Reuse(epochs=4)),  # imitation has no sampler to be off from
    RFT.patch(reuse=Reuse(minibatches=4)),
    REINFORCE.patch(surrogate=ClippedRatio(), reuse=Reuse(epochs=4)),
    WHOLE,
    WHOLE.patch(aggregate=ConstantLength()),
    IMPORTANCE.patch(aggregate=token_mean),
    GSPO.patch(advantage=BatchZScore()),
    GSPO.patch(advantage=BatchZScore(), regulariser=K3()),
    GSPO.patch(advantage=GAE(), critic=OwnCopy(), surrogate=SequenceRatio(level="token")),
    GSPO.patch(correction=TruncatedWeights(level="trajectory")),
    GRPO.patch(regulariser=K1(place="loss", weighted=True)),
    GRPO.patch(regulariser=K2()),
    REINFORCE.patch(advantage=ones, sample=Attempts(keep=rewarded)),
    GIVEN.patch(regulariser=EntropyBonus()),
    GRPO.patch(correction=TruncatedWeights()),
    GRPO.patch(regulariser=K3(place="reward")),
    GRPO.patch(advantage=GAE(), critic=OwnCopy()),
    PPO.patch(critic=SharedTrunk()),
    TRPO.patch(advantage=GAE(), critic=OwnCopy()),
    PPO.patch(update=KLBall()),
]


@pytest.mark.parametrize("recipe", MENDED)
def test_what_the_mends_lead_to_can_run(recipe):
    assert list(complaints(recipe)) == []
    check(recipe)


def test_several_contradictions_are_all_found_and_the_first_is_told():
    recipe = SFT.patch(correction=TruncatedWeights(), regulariser=K1(), critic=OwnCopy())
    found = list(complaints(recipe))
    assert len(found) == 3
    with pytest.raises(UserError) as error:
        check(recipe)
    assert found[0] in str(error.value)


def test_where_the_penalty_acts():
    assert REINFORCE.penalty_place is None
    assert REINFORCE.patch(regulariser=K1()).penalty_place == "reward"
    assert REINFORCE.patch(regulariser=K3()).penalty_place == "loss"
    assert REINFORCE.patch(regulariser=EntropyBonus()).penalty_place == "loss"


def test_a_critic_that_is_no_critic_and_a_penalty_without_a_cost_are_refused():
    """Functions of one's own in these slots would otherwise fail deep inside the first step."""

    def own(scored, batch):
        return None

    with pytest.raises(UserError, match="derive it from one"):
        check(PPO.patch(critic=own))
    own.place = "reward"
    with pytest.raises(UserError, match=r"has no method cost\(batch\)"):
        check(PPO.patch(regulariser=own))


# -- what only a batch can tell -------------------------------------------------------------------------------------


def by_place(batch):
    """An advantage of one's own that tells tokens apart."""
    return torch.where(batch.mask_NT, torch.arange(batch.mask_NT.shape[1]).double() - 1, 0)


def by_attempt(batch):
    """An advantage of one's own that does not, but for the last place."""
    noise_NT = 1 + 2.0**-52 * (torch.arange(batch.mask_NT.shape[1]) % 2)
    return torch.where(batch.mask_NT, batch.reward_N[:, None] * noise_NT, 0)


@pytest.mark.parametrize("surrogate", [SequenceRatio(), ImportanceRatio("trajectory")])
def test_an_advantage_of_ones_own_that_tells_tokens_apart_is_refused_with_its_batch(surrogate):
    b = to_batch([group("p", [1], [[5], [5, 6, 7]], [1.0, 0.5])], torch.device("cpu"), torch.float64)
    recipe = GSPO.patch(surrogate=surrogate, advantage=by_place)
    words = (
        "advantage=by_place gives the tokens of sample 1 of problem p values from -1 to 1, .*set surrogate.level=token"
    )
    with pytest.raises(UserError, match=words):
        judge(b, recipe)
    judge(b, recipe.patch(advantage=by_attempt))
    judge(b, recipe.patch(surrogate=replace(surrogate, level="token")))
    judge(b.take([]), recipe)
    judge(to_batch([group("p", [1], [[], []], [1.0, 0.5])], torch.device("cpu"), torch.float64), recipe)
