"""The critic's loss, by hand."""

from dataclasses import replace

import pytest
import torch

from upslope.algo.aggregate import sequence_sum
from upslope.algo.critic import OwnCopy, SharedTrunk, no_critic, value_error
from upslope.algo.family import PPO
from upslope.algo.objective import Objective
from upslope.algo.outcome import Losses, Scored
from upslope.algo.regulariser import no_penalty
from upslope.learn.prepare import weigh
from upslope.types import Batch


def loss_and_slope(value, old, target, clip):
    value, old, target = (torch.tensor(x, dtype=torch.float64) for x in (value, old, target))
    value.requires_grad_()
    loss = value_error(value, old, target, clip)
    return loss.item(), torch.autograd.grad(loss, value)[0].item()


@pytest.mark.parametrize(
    ("value", "loss", "slope"),
    [
        (0.5, 0.125, -0.5),  # not moved: (1/2)^2 / 2, slope V - G
        (0.6, 0.08, -0.4),  # moved by 0.1, within 0.2
        (0.9, 0.045, 0.0),  # moved by 0.4 towards the target: stays at (0.7 - 1)^2 / 2, flat
        (0.1, 0.405, -0.9),  # moved by 0.4 away from it: the plain error is the larger one, pulled back
        (1.6, 0.18, 0.6),  # beyond the target by more than the clipped value is short of it: pulled back
        (1.2, 0.045, 0.0),  # beyond it by less: flat
    ],
)
def test_a_value_that_moved_far_enough_is_left_alone(value, loss, slope):
    """V_old = 1/2, target 1, clip 1/5."""
    assert loss_and_slope(value, 0.5, 1.0, 0.2) == pytest.approx((loss, slope))


@pytest.mark.parametrize(
    ("value", "loss", "slope"),
    [
        (-0.9, 0.045, 0.0),  # moved by 0.4 down towards a target of -1: stays at (-0.7 + 1)^2 / 2, flat
        (-0.6, 0.08, 0.4),  # moved by 0.1, within 0.2
        (-0.1, 0.405, 0.9),  # moved up, away from it: pulled back
    ],
)
def test_the_clip_holds_downwards_too(value, loss, slope):
    """V_old = -1/2, target -1, clip 1/5."""
    assert loss_and_slope(value, -0.5, -1.0, 0.2) == pytest.approx((loss, slope))


def test_without_clip_it_is_half_the_square():
    assert loss_and_slope(0.9, 0.5, 1.0, 0.0) == pytest.approx((0.005, -0.1))
    assert loss_and_slope(0.9, 0.5, 1.0, 10.0) == pytest.approx((0.005, -0.1))


def batch():
    mask_NT = torch.tensor([[1, 1], [1, 0]], dtype=torch.bool)
    zeros_NT = torch.zeros(2, 2, dtype=torch.float64)
    return Batch(
        rollouts=(None, None),
        mask_NT=mask_NT,
        reward_N=torch.zeros(2, dtype=torch.float64),
        group_N=torch.zeros(2, dtype=torch.long),
        truncated_N=torch.zeros(2, dtype=torch.bool),
        advantage_NT=zeros_NT,
        old_logp_NT=zeros_NT,
        value_NT=zeros_NT,
        return_NT=torch.where(mask_NT, 1.0, 0.0).double(),
    )


def losses_of(critic, value_NT):
    recipe = PPO.patch(critic=critic, regulariser=no_penalty, aggregate=sequence_sum)
    zeros_NT = torch.zeros(2, 2, dtype=torch.float64)
    return Objective(recipe)(Scored(zeros_NT, zeros_NT, value_NT=value_NT), weigh(batch(), recipe))[0]


def test_the_critics_loss_is_a_mean_over_chosen_tokens_whatever_the_policys_aggregate():
    """Values 1/2, 1 and 0 against targets of 1: (1/8 + 0 + 1/2) / 3 = 5/24. Junk in padding counts nothing."""
    for junk in (0.0, 1e9, torch.nan):
        value_NT = torch.tensor([[0.5, 1.0], [0.0, junk]], dtype=torch.float64, requires_grad=True)
        losses = losses_of(OwnCopy(clip=0.0), value_NT)
        assert losses.value.item() == pytest.approx(5 / 24)
        assert losses.policy.item() == 0
        (slope_NT,) = torch.autograd.grad(losses.total, value_NT)
        expected = torch.tensor([[-0.5, 0], [-1, 0]], dtype=torch.float64) / 3
        torch.testing.assert_close(slope_NT, expected)


def test_the_critics_own_clip_is_the_one_that_counts():
    """From 0 to 0.4 with a clip of 0.2 and targets of 1: (0.2 - 1)^2 / 2 at every token, not (0.4 - 1)^2 / 2."""
    value_NT = torch.full((2, 2), 0.4, dtype=torch.float64)
    assert losses_of(OwnCopy(clip=0.2), value_NT).value.item() == pytest.approx(0.32)
    assert losses_of(OwnCopy(clip=0.0), value_NT).value.item() == pytest.approx(0.18)


def test_a_shared_trunk_counts_its_weight():
    value_NT = torch.tensor([[0.5, 1.0], [0.0, 0.0]], dtype=torch.float64)
    assert losses_of(SharedTrunk(clip=0.0, weight=0.25), value_NT).value.item() == pytest.approx(5 / 96)
    assert SharedTrunk().share == 0.1
    assert OwnCopy().share == 1


def test_the_total_is_the_sum():
    assert Losses(torch.tensor(2.0), torch.tensor(3.0)).total == 5
    assert Losses(torch.tensor(2.0)).total == 2


def test_nobody_predicts_without_a_critic():
    assert no_critic(Scored(torch.zeros(2, 2), torch.zeros(2, 2)), batch()) is None


def test_what_prepare_did_not_fill_is_a_loud_error():
    scored = Scored(torch.zeros(2, 2), torch.zeros(2, 2), value_NT=torch.zeros(2, 2))
    with pytest.raises(RuntimeError, match="return_NT"):
        OwnCopy()(scored, replace(batch(), return_NT=None))
    with pytest.raises(RuntimeError, match="value_NT"):
        OwnCopy()(replace(scored, value_NT=None), batch())


@pytest.mark.parametrize("fields", [{"clip": -0.1}, {"warmup": -1}, {"rate": 0.0}, {"lam": 1.1}])
@pytest.mark.parametrize("kind", [OwnCopy, SharedTrunk])
def test_senseless_fields_are_refused(kind, fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        kind(**fields)
