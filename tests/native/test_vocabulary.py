"""The softmax over the vocabulary: drawing from it, scoring under it, and its gradient."""

import math

import pytest
import torch
from exact import UNIT, each_dtype, gap, on_threads, random

from upslope.errors import NonFinite
from upslope.native import kernels
from upslope.rollout.draw import draw
from upslope.types import Sampling

NEARLY_ONE = 1 - 2**-53
SIZES = [1, 5, 130, 1023, 1024, 1025, 5000, 49152]
"""Sums are made in stripes of 1024."""
NO_END = torch.tensor([], dtype=torch.long)


def uniforms(num):
    generator = torch.Generator().manual_seed(7)
    found = torch.rand(num, dtype=torch.float64, generator=generator)
    found[:2] = torch.tensor([0.0, NEARLY_ONE], dtype=torch.float64)[:num]
    return found


@each_dtype
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_token_drawn_is_the_one_whose_share_of_the_line_holds_u(size, temperature, dtype):
    """To within the rounding of the sums, 1e-6 of the whole line; its log-probability to a few units at 20."""
    logits, uniform = random(40, size, dtype=dtype, scale=3), uniforms(40)
    logits[:, size // 2 + 1 : size // 2 + 4] = -torch.inf
    token, logp = on_threads(lambda: kernels.draw(logits, uniform, temperature))
    truth = (logits.double() / temperature).log_softmax(1)
    upto = truth.exp().cumsum(1)
    own = truth.gather(1, token[:, None])[:, 0]
    high = upto.gather(1, token[:, None])[:, 0]
    assert (uniform < high + 1e-6).all() and (uniform >= high - own.exp() - 1e-6).all()
    assert (own > -torch.inf).all()
    torch.testing.assert_close(logp, own, rtol=0, atol=3e-6)


def test_float32_draws_are_those_of_the_torch_path_in_float64():
    """2000 draws from 3000 tokens: u lies within 1e-7 of one of their boundaries once in 2000 x 3000 x 2e-7 = 1.2
    times, and there the two may differ."""
    logits, uniform = random(2000, 3000, scale=2), uniforms(2000)
    position, sampling = torch.zeros(2000, dtype=torch.long), Sampling(0.8)
    expected = draw(logits.double(), position, uniform, sampling, NO_END)
    got = draw(logits.clone(), position, uniform, sampling, NO_END)
    same = got[0] == expected[0]
    assert (~same).sum() <= 3
    assert (got[1] - expected[1])[same].abs().max() < 3e-6


@each_dtype
def test_a_token_without_probability_is_never_drawn(dtype):
    """Wherever the drawable ones are, first, last, alone, in the middle of stripes that hold nothing else."""
    for places in ([0], [4999], [2048], [2047, 2048], [0, 4999], [1030, 1031, 3000]):
        logits = torch.full((50, 5000), -torch.inf, dtype=dtype)
        logits[:, places] = 0.0
        uniform = uniforms(50)
        token, logp = kernels.draw(logits, uniform, 1.0)
        expected = [places[min(int(u * len(places)), len(places) - 1)] for u in uniform.tolist()]
        assert token.tolist() == expected
        assert logp.tolist() == pytest.approx([-math.log(len(places))] * 50)


@each_dtype
def test_the_ends_of_the_line(dtype):
    """u = 0 draws the first token that can be drawn, u just below 1 the last, even if its probability is e^-80."""
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -80.0, -torch.inf]] * 2).to(dtype)
    token, logp = kernels.draw(logits, torch.tensor([0.0, NEARLY_ONE], dtype=torch.float64), 1.0)
    assert token[0] == 1 and token[1] in (2, 3)  # what is above 1 - 2^-53 of the sum is lost in rounding it
    assert logp[0] == pytest.approx(-math.log(1 + math.e), abs=1e-6)


@each_dtype
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_logit_that_is_not_finite_is_a_loud_error(bad, dtype):
    logits = random(3, 2000, dtype=dtype)
    logits[1, 1500] = bad
    assert (kernels.draw(logits, uniforms(3), 1.0)[0] < 0).tolist() == [False, True, False]
    with pytest.raises(NonFinite, match="not finite"):
        draw(logits, torch.zeros(3, dtype=torch.long), uniforms(3), Sampling(), NO_END)


@each_dtype
def test_nothing_to_draw_is_a_loud_error(dtype):
    with pytest.raises(NonFinite):
        draw(torch.full((1, 40), -torch.inf, dtype=dtype), torch.tensor([0]), uniforms(1), Sampling(), NO_END)


@pytest.mark.parametrize("temperature", [1e-30, 1e-44])
def test_a_temperature_that_is_almost_zero(temperature):
    """exp(0 / T) is 1 and all others are 0; where 1 / T is no float any more, nothing can be drawn."""
    try:
        token, logp = draw(
            torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([0]), uniforms(1), Sampling(temperature), NO_END
        )
        assert (int(token), float(logp)) == (1, 0.0)
    except NonFinite:
        assert temperature < 1e-38


def scored(logits, target, temperature):
    exact = logits.double().requires_grad_()
    logp_CV = (exact / temperature).log_softmax(1)
    logp = logp_CV.gather(1, target[:, None])[:, 0]
    entropy = -(logp_CV.exp() * logp_CV.masked_fill(logp_CV == -torch.inf, 0)).sum(1)
    return exact, logp, entropy


@each_dtype
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.7])
def test_logps_and_their_gradient(size, temperature, dtype):
    """Values are float32 whatever the logits are, with an error of a few units at 30 (2e-6), which logits reach. The
    gradient is rounded once; a probability has an error of 3e-7 from the exponential and 1e-6 from its scaled logit."""
    logits, target = random(30, size, dtype=dtype, scale=4), (torch.arange(30) * 7919) % size
    dlogp = random(30, seed=1)
    banned = torch.arange(size) % 5 == 3
    banned = banned[None].repeat(30, 1).scatter(1, target[:, None], False)
    logits[banned] = -torch.inf
    exact, logp, entropy = scored(logits, target, temperature)
    (truth,) = torch.autograd.grad(logp, exact, dlogp.double())
    found, spread, peak = on_threads(lambda: kernels.logps(logits, target, temperature))
    assert found.dtype == spread.dtype == torch.float32
    torch.testing.assert_close(found.double(), logp.detach(), rtol=0, atol=4e-6)
    torch.testing.assert_close(spread.double(), entropy.detach(), rtol=0, atol=4e-6)

    def backward():
        slope = logits.clone()
        kernels.logps_backward_(slope, target, temperature, peak, dlogp)
        return slope

    slope = on_threads(backward)
    assert not slope[banned].any()
    if size > 1:
        assert gap(slope, truth) <= UNIT[dtype] + 2e-6
    else:
        assert slope.abs().max() <= 1e-6  # 1 - 1, less rounding


@each_dtype
def test_a_target_that_is_banned(dtype):
    logits = torch.tensor([[0.0, -torch.inf, 1.0]]).to(dtype)
    logp, entropy, _ = kernels.logps(logits, torch.tensor([1]), 1.0)
    assert logp.item() == -torch.inf and math.isfinite(entropy.item())


@each_dtype
@pytest.mark.parametrize("row", [[0.0, torch.nan, 1.0], [torch.inf, 0.0, 1.0], [-torch.inf] * 3])
def test_logps_of_logits_that_are_not_finite_are_nan(row, dtype):
    """As log_softmax has it."""
    logp, _, _ = kernels.logps(torch.tensor([row]).to(dtype), torch.tensor([2]), 1.0)
    assert not math.isfinite(logp.item())


LOGITS, TARGET, PEAK = torch.zeros(3, 8), torch.tensor([0, 7, 3]), torch.ones(3, 2)
WRONG = {
    "columns of something wider": lambda: kernels.draw(torch.zeros(3, 16)[:, :8], uniforms(3), 1.0),
    "fewer numbers than rows": lambda: kernels.draw(LOGITS, uniforms(2), 1.0),
    "numbers in float32": lambda: kernels.draw(LOGITS, uniforms(3).float(), 1.0),
    "float64": lambda: kernels.draw(LOGITS.double(), uniforms(3), 1.0),
    "a token beyond the vocabulary": lambda: kernels.logps(LOGITS, TARGET + 1, 1.0),
    "a negative token": lambda: kernels.logps(LOGITS, TARGET - 1, 1.0),
    "fewer targets than rows": lambda: kernels.logps(LOGITS, TARGET[:2], 1.0),
    "targets in int32": lambda: kernels.logps(LOGITS, TARGET.int(), 1.0),
    "a gradient of a token beyond": lambda: kernels.logps_backward_(LOGITS, TARGET + 1, 1.0, PEAK, torch.ones(3)),
    "a gradient of fewer rows": lambda: kernels.logps_backward_(LOGITS, TARGET, 1.0, PEAK, torch.ones(2)),
    "peaks of fewer rows": lambda: kernels.logps_backward_(LOGITS, TARGET, 1.0, PEAK[:2], torch.ones(3)),
    "a gradient in float64": lambda: kernels.logps_backward_(LOGITS, TARGET, 1.0, PEAK, torch.ones(3).double()),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_would_write_elsewhere_is_refused(name):
    with pytest.raises((ValueError, KeyError, IndexError)):
        WRONG[name]()


def test_no_rows_are_no_error():
    nothing, none = torch.empty(0, 8), torch.empty(0, dtype=torch.long)
    assert len(kernels.draw(nothing, torch.empty(0, dtype=torch.float64), 1.0)[0]) == 0
    assert len(kernels.logps(nothing, none, 1.0)[0]) == 0
    kernels.logps_backward_(nothing, none, 1.0, torch.empty(0, 2), torch.empty(0))
