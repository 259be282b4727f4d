"""Penalties: their values, and which distance their gradient really is of. Expectations are taken by enumeration."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import scored

from upslope.algo.family import REINFORCE
from upslope.algo.objective import Objective
from upslope.algo.outcome import Scored
from upslope.algo.regulariser import K1, K2, K3, EntropyBonus, ExactKL, no_penalty
from upslope.learn.prepare import judge
from upslope.model.distribution import divergence, entropy
from upslope.types import Batch


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def close(got, expected, atol=1e-12):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=atol)


def batch(mask_NT, **fields):
    num = len(mask_NT)
    none = torch.zeros(num, dtype=torch.float64)
    return Batch((None,) * num, mask_NT, none, torch.arange(num), mask_NT[:, 0] & False, **fields)


# -- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("penalty", "value", "slope"),
    [
        (K1(0.5, place="loss"), 0.5 * math.log(2), 0.5),  # d; slope 1
        (K2(0.5), 0.25 * math.log(2) ** 2, 0.5 * math.log(2)),  # d^2 / 2; slope d
        (K3(0.5), 0.5 * (0.5 - 1 + math.log(2)), 0.5 * (1 - 0.5)),  # e^-d - 1 + d; slope 1 - e^-d
    ],
)
def test_estimates_at_a_token_twice_as_likely_as_under_the_reference(penalty, value, slope):
    """d = log 2; coefficient one half."""
    logp_NT = numbers([math.log(0.6)]).requires_grad_()
    b = batch(torch.ones(1, 1, dtype=torch.bool), reference_logp_NT=numbers([math.log(0.3)]))
    cost_NT = penalty(scored(logp_NT), b)
    assert cost_NT.item() == pytest.approx(value)
    assert torch.autograd.grad(cost_NT.sum(), logp_NT)[0].item() == pytest.approx(slope)


def test_weighted_multiplies_by_the_ratio_with_its_gradient():
    """k3 = e^-d - 1 + d at d = log 2 is log 2 - 1/2; the ratio to old is 3. Slope: 3 k3 + 3 (1 - 1/2)."""
    k3 = math.log(2) - 0.5
    logp_NT = numbers([math.log(0.6)]).requires_grad_()
    here = torch.ones(1, 1, dtype=torch.bool)
    b = batch(here, reference_logp_NT=numbers([math.log(0.3)]), old_logp_NT=numbers([math.log(0.2)]))
    cost_NT = K3(1.0, weighted=True)(scored(logp_NT), b)
    assert cost_NT.item() == pytest.approx(3 * k3)
    assert torch.autograd.grad(cost_NT.sum(), logp_NT)[0].item() == pytest.approx(3 * k3 + 1.5)


def test_k3_keeps_its_digits_near_zero():
    """d = 1e-9: k3 = d^2 / 2 = 5e-19, of which e^-d - 1 + d, computed as it is written, leaves nothing."""
    logp_NT = numbers([-1.0])
    b = batch(torch.ones(1, 1, dtype=torch.bool), reference_logp_NT=logp_NT - 1e-4)
    got = K3(1.0)(Scored(logp_NT, logp_NT), b).item()
    assert got == pytest.approx(1e-8 / 2 - 1e-12 / 6, rel=1e-7)
    single = replace(b, reference_logp_NT=(logp_NT - 1e-4).float())
    assert K3(1.0)(Scored(logp_NT.float(), logp_NT), single).item() > 0


@pytest.mark.parametrize("penalty", [K1(1.0), K2(1.0, place="reward"), K3(1.0, place="reward"), ExactKL(1.0, "reward")])
def test_in_the_reward_a_penalty_is_a_number_and_leaves_the_loss_alone(penalty):
    mask = torch.tensor([[True, True, False]])
    reference_NT, acted_NT = numbers([-1.5, -0.5, 7.0]), numbers([-1.0, -1.0, 9.0])
    b = batch(mask, reference_logp_NT=reference_NT, old_logp_NT=acted_NT, reference_kl_NT=numbers([0.25, 0.75, 0]))
    assert penalty(Scored(acted_NT, acted_NT), b) is None
    d = numbers([0.5, -0.5])
    expected = {K1: d, K2: d**2 / 2, K3: torch.exp(-d) - 1 + d, ExactKL: numbers(0.25, 0.75)}[type(penalty)]
    close(penalty.cost(b), [[*expected.flatten().tolist(), 0.0]])


def test_the_cost_is_that_of_the_policy_that_acted_as_the_learner_scores_it():
    """Old log-probabilities are the policy that acted in the learner's own arithmetic, like the reference's; the
    sampler's are another program's, and do not stand in for them."""
    here = torch.ones(1, 1, dtype=torch.bool)
    b = batch(here, reference_logp_NT=numbers([-2.0]), sampler_logp_NT=numbers([-1.0]))
    assert K1(1.0).cost(replace(b, old_logp_NT=numbers([-1.25]))).item() == 0.75
    with pytest.raises(RuntimeError, match="old_logp_NT"):
        K1(1.0).cost(b)


def test_junk_outside_the_mask_costs_nothing_and_has_no_gradient():
    mask = torch.tensor([[True, False]])
    b = batch(mask, reference_logp_NT=numbers([-1.5, torch.nan]), old_logp_NT=numbers([-1.0, torch.inf]))
    b = replace(b, weight_NT=numbers([1.0, 0.0]), advantage_NT=numbers([0.0, 0.0]))
    for penalty in (K1(1.0, place="loss"), K2(1.0), K3(1.0)):
        logp_NT = numbers([-1.0, torch.inf]).requires_grad_()
        losses, _ = Objective(REINFORCE.patch(regulariser=penalty))(scored(logp_NT), b)
        (slope,) = torch.autograd.grad(losses.policy, logp_NT)
        assert math.isfinite(losses.policy.item())
        assert slope[0, 0] > 0
        assert slope[0, 1] == 0


@pytest.mark.parametrize("kind", [K1, K2, K3, ExactKL, EntropyBonus])
def test_a_negative_coefficient_is_refused(kind):
    with pytest.raises(ValueError, match="coefficient"):
        kind(-0.1)


def test_weighted_in_the_reward_is_refused():
    with pytest.raises(ValueError, match="weighted"):
        K3(place="reward", weighted=True)


@pytest.mark.parametrize(
    ("penalty", "needs"),
    [
        (K1(), {"reference_logp", "old_logp_before"}),
        (K3(), {"reference_logp"}),
        (K3(weighted=True), {"reference_logp", "old_logp"}),
        (ExactKL(), {"reference_kl", "reference_logp"}),
        (ExactKL(place="reward"), {"reference_kl_before", "reference_logp"}),
        (EntropyBonus(), {"entropy_gradient"}),
    ],
)
def test_what_each_asks_for(penalty, needs):
    assert penalty.needs == needs


# -- expectations over one state: three tokens, all of them enumerated ----------------------------------------------

LOGITS, OLD, REFERENCE = numbers(0.3, -0.8, 0.5), numbers(-1.0, 1.4, 0.1), numbers(1.0, 0.2, -0.5)


def expected_penalty(penalty, logits, *, drawn_from):
    """The expected cost in the loss of one token drawn from a distribution: every token is a row of a batch, and
    weighs what it is likely. The loss without penalty would be zero."""
    logp_V, ref_V, drawn_V = logits.log_softmax(0), REFERENCE.log_softmax(0), drawn_from.log_softmax(0)
    b = batch(
        torch.ones(3, 1, dtype=torch.bool),
        reference_logp_NT=ref_V[:, None],
        old_logp_NT=drawn_V[:, None].detach(),
        advantage_NT=torch.zeros(3, 1, dtype=torch.float64),
        weight_NT=drawn_V[:, None].exp().detach(),
    )
    kl = divergence(logp_V[None], ref_V[None]).expand(3)[:, None]
    scored = Scored(logp_V[:, None], entropy(logp_V[None]).expand(3)[:, None], kl)
    return Objective(REINFORCE.patch(regulariser=penalty))(scored, b)[0].policy


def value_and_slope(function):
    logits = LOGITS.clone().requires_grad_()
    value = function(logits)
    return value.item(), torch.autograd.grad(value, logits)[0]


def kl(logits):
    return divergence(logits.log_softmax(0)[None], REFERENCE.log_softmax(0)[None]).sum()


def reverse_kl(logits):
    return divergence(REFERENCE.log_softmax(0)[None], logits.log_softmax(0)[None]).sum()


def on_policy(penalty):
    return value_and_slope(lambda logits: expected_penalty(penalty, logits, drawn_from=logits.detach()))


def off_policy(penalty):
    return value_and_slope(lambda logits: expected_penalty(penalty, logits, drawn_from=OLD))


@pytest.mark.parametrize("penalty", [K1(1.0, place="loss"), K3(1.0), K3(1.0, weighted=True), ExactKL(1.0)])
def test_on_policy_k1_and_k3_are_the_kl_in_value(penalty):
    assert on_policy(penalty)[0] == pytest.approx(value_and_slope(kl)[0], abs=1e-12)


def test_k2_is_not_the_kl_in_value():
    assert abs(on_policy(K2(1.0))[0] - value_and_slope(kl)[0]) > 0.01


def test_plain_k3_in_the_loss_has_the_gradient_of_the_reverse_kl_and_not_of_the_kl():
    """Pitfall 11: E_pi[(1 - ref/pi) grad log pi] = -sum_v ref grad log pi = grad KL(ref || pi)."""
    slope = on_policy(K3(1.0))[1]
    close(slope, value_and_slope(reverse_kl)[1])
    assert (slope - value_and_slope(kl)[1]).abs().max() > 0.05


def test_plain_k1_in_the_loss_holds_nothing():
    """E_pi[grad log pi] = 0."""
    close(on_policy(K1(1.0, place="loss"))[1], [0, 0, 0])


def test_plain_k2_in_the_loss_has_the_gradient_of_the_kl():
    """E_pi[d grad log pi]."""
    close(on_policy(K2(1.0))[1], value_and_slope(kl)[1])


@pytest.mark.parametrize("penalty", [K1(1.0, place="loss", weighted=True), K3(1.0, weighted=True)])
def test_weighted_they_are_the_kl_in_value_and_gradient_on_policy_and_off_it(penalty):
    """E_old[pi/old k] = E_pi[k] = KL as a function of the weights."""
    for found in (on_policy(penalty), off_policy(penalty)):
        assert found[0] == pytest.approx(value_and_slope(kl)[0], abs=1e-12)
        close(found[1], value_and_slope(kl)[1])


def test_weighted_k2_has_another_gradient():
    assert (on_policy(K2(1.0, weighted=True))[1] - value_and_slope(kl)[1]).abs().max() > 0.05


def test_plain_k3_off_policy_is_neither_the_kl_nor_its_gradient():
    value, slope = off_policy(K3(1.0))
    assert abs(value - value_and_slope(kl)[0]) > 0.01
    assert (slope - value_and_slope(kl)[1]).abs().max() > 0.05


def test_the_exact_kl_is_exact_whatever_was_drawn():
    for found in (on_policy(ExactKL(1.0)), off_policy(ExactKL(1.0))):
        assert found[0] == pytest.approx(value_and_slope(kl)[0], abs=1e-12)
        close(found[1], value_and_slope(kl)[1])


def test_the_entropy_bonus_is_minus_the_entropy():
    value, slope = value_and_slope(lambda logits: -0.5 * entropy(logits.log_softmax(0)[None]).sum())
    for found in (on_policy(EntropyBonus(0.5)), off_policy(EntropyBonus(0.5))):
        assert found[0] == pytest.approx(value)
        close(found[1], slope)


def test_no_penalty_is_none_so_that_zero_gradient_rows_can_be_skipped():
    assert no_penalty(Scored(LOGITS, LOGITS), batch(torch.ones(1, 1, dtype=torch.bool))) is None
    assert not REINFORCE.penalised
    assert REINFORCE.patch(regulariser=K3()).penalised
    assert not REINFORCE.patch(regulariser=K1()).penalised  # it is paid in the reward
    assert REINFORCE.patch(regulariser=EntropyBonus()).penalised


# -- whole responses: two tokens of a vocabulary of two, all four responses enumerated -------------------------------

TABLE = numbers([0.4, -0.3], [0.9, 0.1], [-0.6, 0.7])
"""Logits of a policy: of the first token, of the second after token 0, and after token 1."""
REFERENCE_TABLE = numbers([-0.2, 0.5], [0.3, 0.8], [0.6, -0.4])
RESPONSES = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])


def by_token(table):
    """log pi of both tokens of each of the four responses."""
    logp = table.log_softmax(1)
    return torch.stack([logp[0, RESPONSES[:, 0]], logp[1 + RESPONSES[:, 0], RESPONSES[:, 1]]], dim=1)


def by_state(table):
    """KL(pi || ref) at both states of each of the four responses."""
    at = divergence(table.log_softmax(1), REFERENCE_TABLE.log_softmax(1))
    return torch.stack([at[0].expand(4), at[1 + RESPONSES[:, 0]]], dim=1)


def slope_of_responses(penalty):
    """The expected gradient of a penalty alone: all rewards are zero before what it costs in them."""
    table = TABLE.clone().requires_grad_()
    logp_NT = by_token(table)
    here = logp_NT.detach()
    b = batch(
        torch.ones(4, 2, dtype=torch.bool),
        reference_logp_NT=by_token(REFERENCE_TABLE),
        reward_NT=torch.zeros_like(here),
        sampler_logp_NT=here,
        old_logp_NT=here,
        reference_kl_NT=by_state(table).detach(),
        weight_NT=here.sum(1, keepdim=True).exp().expand(4, 2),
    )
    recipe = REINFORCE.patch(regulariser=penalty)
    losses, _ = Objective(recipe)(Scored(logp_NT, torch.zeros_like(here), by_state(table)), judge(b, recipe))
    return torch.autograd.grad(losses.policy, table)[0]


def slope_of_the_kl_of_responses():
    table = TABLE.clone().requires_grad_()
    logp_N = by_token(table).sum(1)
    kl_of_all = (logp_N.exp() * (logp_N - by_token(REFERENCE_TABLE).sum(1))).sum()
    return torch.autograd.grad(kl_of_all, table)[0]


@pytest.mark.parametrize("penalty", [K1(1.0), ExactKL(1.0, place="reward"), K3(1.0, place="reward")])
def test_paid_in_the_reward_the_penalty_is_the_kl_of_whole_responses_for_k1_alone(penalty):
    """k1: E[(sum_t d_t) grad log pi(y)] = grad KL. The other two have the same expectation at every state they are
    paid for, but not the same covariance with the score of the very token that pays: the exact KL of a state has none,
    so it only steers towards states of less KL; k3 has that of k1 less the gradient of KL(ref || pi)."""
    gap = float((slope_of_responses(penalty) - slope_of_the_kl_of_responses()).abs().max())
    assert gap < 1e-12 if isinstance(penalty, K1) else gap > 0.01


@pytest.mark.parametrize("penalty", [K2(1.0), ExactKL(1.0), K3(1.0, weighted=True)])
def test_in_the_loss_no_estimator_sees_that_states_change(penalty):
    """Right at the last token, whose future is empty; wrong at the first, by what it does to the second's KL."""
    gap = (slope_of_responses(penalty) - slope_of_the_kl_of_responses()).abs()
    assert gap[1:].max() < 1e-12
    assert gap[0].max() > 0.01
