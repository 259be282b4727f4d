"""The inverse-CDF draw and the distribution it draws from."""

import math

import pytest
import torch

from upslope.errors import NonFinite
from upslope.rollout.draw import draw
from upslope.types import Sampling

P = torch.tensor([[0.5, 0.25, 0.0, 0.25]], dtype=torch.float64)
LOGITS = P.log()
NO_END = torch.tensor([], dtype=torch.long)


def drawn(uniform, sampling=None, logits=LOGITS, position=0, end_ids=NO_END):
    token, logp = draw(
        logits, torch.tensor([position]), torch.tensor([uniform]), sampling or Sampling(), torch.as_tensor(end_ids)
    )
    return int(token), float(logp)


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 0), (0.499999, 0), (0.5, 1), (0.749999, 1), (0.75, 3), (1 - 2**-53, 3)]
)
def test_the_least_token_whose_cumulative_probability_exceeds_u(uniform, token):
    assert drawn(uniform) == (token, pytest.approx(math.log(float(P[0, token]))))


def test_a_token_without_probability_is_never_drawn_not_even_at_the_edges():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    for uniform in (0.0, 0.25, 0.5, 0.75, 1 - 2**-53):
        assert drawn(uniform, logits=logits)[0] in (1, 3)


def test_frequencies_are_the_probabilities():
    """At u = (i + 1/2) / n the counts are exact to one: the draw is the quantile function."""
    num = 1000
    uniforms = (torch.arange(num) + 0.5) / num
    tokens, _ = draw(LOGITS.expand(num, -1), torch.zeros(num, dtype=torch.long), uniforms, Sampling(), NO_END)
    assert torch.bincount(tokens, minlength=4).tolist() == [500, 250, 0, 250]


def test_the_logged_log_prob_is_of_the_temperature_sampled_at():
    """Pitfall 9. p^(1/T) normalised: at T = 2, sqrt(.5), sqrt(.25) twice."""
    z = math.sqrt(0.5) + 2 * 0.5
    token, logp = drawn(0.0, Sampling(temperature=2.0))
    assert (token, logp) == (0, pytest.approx(math.log(math.sqrt(0.5) / z)))


def test_top_k_and_top_p_renormalise_what_is_left():
    assert drawn(0.9, Sampling(top_k=1)) == (0, pytest.approx(0.0))
    # The fewest tokens holding at least 0.6 are token 0 and one of the two with 0.25.
    token, logp = drawn(0.0, Sampling(top_p=0.6))
    assert (token, logp) == (0, pytest.approx(math.log(0.5 / 0.75)))
    assert drawn(0.99, Sampling(top_p=0.5)) == (0, pytest.approx(0.0))


def test_the_end_token_is_banned_until_min_tokens_and_its_mass_goes_to_the_others():
    for position, expected in ((0, 1), (1, 1), (2, 0)):
        token, logp = drawn(0.0, Sampling(min_tokens=2), position=position, end_ids=[0])
        assert token == expected
        assert logp == pytest.approx(math.log(0.5))  # 0.25 / 0.5 while banned, 0.5 afterwards


def test_greedy_takes_the_likeliest_with_certainty():
    assert drawn(0.99, Sampling(temperature=0)) == (0, 0.0)


def test_logits_that_are_not_finite_are_a_loud_error():
    for sampling in (Sampling(), Sampling(temperature=0)):
        with pytest.raises(NonFinite, match="not finite"):
            drawn(0.5, sampling, logits=torch.tensor([[0.0, math.nan]]))


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"max_tokens": 0}, {"min_tokens": 9, "max_tokens": 8}]
)
def test_senseless_sampling_is_refused(wrong):
    with pytest.raises(ValueError, match="needs"):
        Sampling(**wrong)
