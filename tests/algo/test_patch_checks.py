"""What the recipes since DAPO refuse to go with, and what they no longer refuse."""

import pytest

from upslope.algo.advantage import GAE
from upslope.algo.check import check, complaints
from upslope.algo.choosing_tokens import CovarianceClip, CovariancePenalty, TopEntropy
from upslope.algo.correction import TruncatedWeights
from upslope.algo.critic import OwnCopy
from upslope.algo.family import DISTILL, DPPO, FAMILY, GMPO, GRPO, IMPORTANCE, M2PO, MAXRL, SCALERL, SFT
from upslope.algo.more_advantages import DecoupledZScore, success_rate, teacher_gap
from upslope.algo.regulariser import K1
from upslope.algo.reuse import Reuse
from upslope.algo.sample import Attempts, mixed
from upslope.algo.shape import SoftOverlong
from upslope.errors import UserError

SINGLE = Attempts(group_size=1)
GDPO = GRPO.patch(advantage=DecoupledZScore())
REFUSED = {
    "maxrl alone": (MAXRL.patch(sample=SINGLE), "success_rate compares .* sample.group_size is 1"),
    "gdpo alone": (GDPO.patch(sample=SINGLE), "DecoupledZScore.* compares .* sample.group_size is 1"),
    "scalerl alone": (SCALERL.patch(sample=SINGLE), "BatchScale.* compares .* sample.group_size is 1"),
    "gmpo by token": (GMPO.patch(advantage=GAE(), critic=OwnCopy()), "one ratio .*; set surrogate=clipped_ratio$"),
    "gmpo of a teacher": (GMPO.patch(advantage=teacher_gap), "one ratio for all tokens .* what advantage=teacher_gap"),
    "dppo twice": (DPPO.patch(correction=TruncatedWeights()), "a correction would count it twice"),
    "gdpo, shaped": (GDPO.patch(shape=SoftOverlong()), "never reads a reward, so shape=SoftOverlong"),
    "gdpo, penalty in the reward": (GDPO.patch(regulariser=K1()), "never reads a reward, so regulariser=K1"),
    "distill, shaped": (DISTILL.patch(shape=SoftOverlong()), "never reads a reward, so shape=SoftOverlong"),
    "distill, without a ratio": (DISTILL.patch(reuse=Reuse(2)), "no ratio for a policy that has"),
    "a teacher of given text": (SFT.patch(advantage=teacher_gap), "judges what the policy itself drew"),
    "maxrl of given text": (SFT.patch(advantage=success_rate), "every demonstration stands alone"),
    "kl-cov of nothing": (GRPO.patch(regulariser=CovariancePenalty(coefficient=0)), "holds nothing"),
}
LET_BY = {
    "gdpo, every attempt": GDPO,
    "dppo on the tokens in doubt": DPPO.patch(correction=TopEntropy()),
    "m2po as it is": M2PO,
    "the bare ratio without a few": IMPORTANCE.patch(correction=CovarianceClip()),
    "distill, alone": DISTILL.patch(sample=SINGLE),
    "distill, what is mixed": DISTILL.patch(sample=Attempts(keep=mixed)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    recipe, told = REFUSED[name]
    with pytest.raises(UserError, match=told):
        check(recipe)


@pytest.mark.parametrize("name", LET_BY)
def test_let_by(name):
    assert list(complaints(LET_BY[name])) == []


def test_every_recipe_goes_together():
    assert {name: list(complaints(branch.recipe)) for name, branch in FAMILY.items()} == {name: [] for name in FAMILY}
