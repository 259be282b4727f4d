"""Slots that contradict each other are refused before a run, with the mend."""

import pytest

from upslope.algo.advantage import GAE, BatchZScore, GroupZScore, leave_one_out, ones, returns
from upslope.algo.check import check, complaints, leash_place
from upslope.algo.correction import MaskedWeights, TruncatedWeights
from upslope.algo.critic import OwnCopy, SharedTrunk, no_critic
from upslope.algo.family import DAPO, FAMILY, GRPO, PPO, REINFORCE, REINFORCE_BASELINE, RFT, SFT, TRPO
from upslope.algo.regulariser import K1, K3, EntropyBonus, ExactKL, no_leash
from upslope.algo.sample import Attempts, Demonstrations, Documents, mixed, rewarded
from upslope.algo.surrogate import ImportanceRatio
from upslope.algo.update import KLBall
from upslope.errors import UserError

ALONE = Attempts(group_size=1)
GIVEN = GRPO.patch(sample=Demonstrations(), regulariser=no_leash, advantage=ones)


@pytest.mark.parametrize("name", FAMILY)
def test_every_recipe_of_the_family_can_run(name):
    check(FAMILY[name].recipe)


BAD = [
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
    (GIVEN.patch(regulariser=K1()), "given text has no reward .* set regulariser.place=loss"),
    (GIVEN.patch(sample=Documents(), regulariser=ExactKL(place="reward")), "set regulariser.place=loss"),
    (GRPO.patch(critic=OwnCopy()), r"critic=OwnCopy\(.*\) has no one to tell; set advantage=gae, or critic=no_critic"),
    (REINFORCE.patch(critic=SharedTrunk()), "critic=SharedTrunk.* set advantage=gae, or critic=no_critic"),
    (PPO.patch(critic=no_critic), r"advantage=GAE\(.*\) needs a critic; set critic=own_copy or critic=shared_trunk"),
    (
        TRPO.patch(advantage=GAE(), critic=SharedTrunk()),
        "kl_ball moves the policy's weights alone; set critic=own_copy",
    ),
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
    GIVEN.patch(regulariser=K1(place="loss")),
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


def test_where_the_leash_acts():
    assert leash_place(REINFORCE) is None
    assert leash_place(REINFORCE.patch(regulariser=K1())) == "reward"
    assert leash_place(REINFORCE.patch(regulariser=K3())) == "loss"
    assert leash_place(REINFORCE.patch(regulariser=EntropyBonus())) == "loss"


def test_a_critic_that_is_no_critic_and_a_leash_without_a_cost_are_refused():
    """Functions of one's own in these slots would otherwise fail deep inside the first step."""

    def own(scored, batch):
        return None

    with pytest.raises(UserError, match="derive it from one"):
        check(PPO.patch(critic=own))
    own.place = "reward"
    with pytest.raises(UserError, match=r"has no method cost\(batch\)"):
        check(PPO.patch(regulariser=own))
