"""Log-probabilities in one buffer, against plain log_softmax under autograd."""

import pytest
import torch
from tiny import TOKENIZER, model, policy, random_groups
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
)

from upslope.model import head, scores
from upslope.model.adapter import add_adapter
from upslope.model.distribution import adjusted, chosen, entropy
from upslope.model.head import token_logps
from upslope.model.policy import Policy
from upslope.model.reference import Reference
from upslope.model.scores import token_scores
from upslope.types import Sampling

SAMPLINGS = {
    "plain": Sampling(),
    "cold": Sampling(0.7),
    "hot, no early end": Sampling(1.7, min_tokens=4),
}
ENDS = torch.tensor([2, 5])
POSITION = torch.arange(9) % 6
TARGET = torch.tensor([0, 1, 3, 4, 2, 5, 6, 7, 10])
"""Ends stand at positions 4 and 5 only: under a ban earlier ones cannot be drawn."""


def random_logits(dtype=torch.float64):
    logits_CV = 4 * torch.randn(9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return logits_CV.to(dtype).requires_grad_()


def weighed(logp_C, dtype=torch.float64):
    return (logp_C.to(dtype) * torch.linspace(-1, 2, len(logp_C), dtype=dtype)).sum()


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("block", [1, 3 * 11, 2**19])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_value_and_gradient_are_those_of_log_softmax(name, block, dtype, monkeypatch):
    monkeypatch.setattr(head, "CPU_BLOCK", block)
    logits_CV = random_logits(dtype)
    exact_CV = logits_CV.detach().double().requires_grad_()
    expected_CV = adjusted(exact_CV, POSITION, SAMPLINGS[name], ENDS).log_softmax(dim=1)
    (expected_slope,) = torch.autograd.grad(weighed(chosen(expected_CV, TARGET)), exact_CV)
    logp_C, entropy_C = token_logps(logits_CV * 1, TARGET, POSITION, SAMPLINGS[name], ENDS)
    (slope,) = torch.autograd.grad(weighed(logp_C), logits_CV)
    tolerance = 1e-14 if dtype == torch.float64 else 2e-6  # float32 near 30, which these logits reach, is 2e-6 apart
    torch.testing.assert_close(logp_C.double(), chosen(expected_CV, TARGET), rtol=0, atol=tolerance)
    torch.testing.assert_close(entropy_C.double(), entropy(expected_CV), rtol=0, atol=tolerance)
    torch.testing.assert_close(slope.double(), expected_slope, rtol=0, atol=tolerance)
    assert not entropy_C.requires_grad


def test_by_hand():
    """Two tokens with logits 0 and log 3 have p = 1/4, 3/4; at temperature 1/2 the odds are 9: p = 1/10, 9/10."""
    logits_CV = torch.tensor([[0.0, 3.0]]).log().nan_to_num(neginf=0).double().requires_grad_()
    logp_C, entropy_C = token_logps(logits_CV * 1, torch.tensor([0]), torch.tensor([0]), Sampling(0.5), ENDS)
    assert logp_C.exp().item() == pytest.approx(0.1)
    assert entropy_C.item() == pytest.approx(0.325083, abs=1e-6)  # -0.1 log 0.1 - 0.9 log 0.9
    (slope,) = torch.autograd.grad(logp_C.sum(), logits_CV)
    assert slope[0].tolist() == pytest.approx([2 * 0.9, -2 * 0.9])


def test_a_banned_token_gets_no_gradient_and_makes_no_nan():
    logits_CV = random_logits()
    logp_C, entropy_C = token_logps(logits_CV * 1, TARGET, POSITION, Sampling(min_tokens=4), ENDS)
    (slope,) = torch.autograd.grad(weighed(logp_C), logits_CV)
    assert torch.isfinite(torch.stack([logp_C, entropy_C])).all()
    assert torch.isfinite(slope).all()
    banned_C = POSITION < 4
    assert not slope[banned_C][:, ENDS].any()
    assert slope[~banned_C][:, ENDS].all()


def test_logits_that_are_minus_infinity_already():
    logits_CV = torch.tensor([[0.0, -torch.inf, 0.0]]).requires_grad_()
    logp_C, entropy_C = token_logps(logits_CV * 1, torch.tensor([0]), torch.tensor([0]), Sampling(), ENDS[:0])
    logp_C.sum().backward()
    assert entropy_C.item() == pytest.approx(0.693147, abs=1e-6)  # log 2
    assert logits_CV.grad[0].tolist() == [0.5, 0, -0.5]


def test_bfloat16_in_bfloat16_out_and_the_rest_in_float32():
    """bfloat16 logits are read in float32; how float32 adds up is the compiler's business, and not the same for
    both. So the slopes agree to a rounding of bfloat16, 2^-8, and nearly all of them to the bit."""
    low_CV = random_logits(torch.bfloat16)
    wide_CV = low_CV.detach().float().requires_grad_()
    found, expected = (token_logps(x * 1, TARGET, POSITION, Sampling(0.7), ENDS) for x in (low_CV, wide_CV))
    assert found[0].dtype == found[1].dtype == torch.float32
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=1e-6)
    (slope,) = torch.autograd.grad(weighed(found[0], torch.float32), low_CV)
    (exact,) = torch.autograd.grad(weighed(expected[0], torch.float32), wide_CV)
    assert slope.dtype == torch.bfloat16
    torch.testing.assert_close(slope, exact.bfloat16(), rtol=2**-8, atol=1e-8)
    assert (slope == exact.bfloat16()).double().mean() > 0.95


def test_no_tokens_are_no_error():
    logits_CV = torch.zeros(0, 7, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    logp_C, _ = token_logps(logits_CV * 1, none, none, Sampling(), ENDS)
    logp_C.sum().backward()
    assert logits_CV.grad.shape == (0, 7)


def test_the_gradient_is_written_over_the_logits():
    logits_CV, places = random_logits() * 1, []
    logits_CV.register_hook(lambda slope_CV: places.append(slope_CV.data_ptr()))
    logp_C, _ = token_logps(logits_CV, TARGET, POSITION, Sampling(), ENDS)
    logp_C.sum().backward()
    assert places == [logits_CV.data_ptr()]


# -- whole models ---------------------------------------------------------------------------------------------------

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
MODELS = {
    "llama": (lambda: model(), True),
    "gpt2": (lambda: GPT2LMHeadModel(config(GPT2Config, **GPT)), True),
    "gemma2": (lambda: Gemma2ForCausalLM(config(Gemma2Config, **SMALL, head_dim=8, num_key_value_heads=2)), False),
    "granite": (lambda: GraniteForCausalLM(config(GraniteConfig, **SMALL, logits_scaling=3.0)), False),
    "cohere": (lambda: CohereForCausalLM(config(CohereConfig, **SMALL, logit_scale=0.3)), False),
}


def config(kind, **changes):
    return kind(vocab_size=len(TOKENIZER), eos_token_id=1, bos_token_id=1, pad_token_id=0, **changes)


def made(name):
    torch.manual_seed(0)
    return Policy(MODELS[name][0]().double(), TOKENIZER)


def rows():
    return [r for g in random_groups(3, size=2) for r in g.rollouts]


def gradients(subject, logp_R):
    weights = [p for p in subject.model.parameters() if p.requires_grad]
    return torch.autograd.grad(weighed(logp_R), weights)


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_and_head_say_what_the_model_says(name):
    """A head that is not the whole way from hidden states to logits is found out, and the model's own logits taken."""
    subject, sampling = made(name), Sampling(1.3, min_tokens=2)
    assert subject.apart is MODELS[name][1]
    expected = subject.distributions(rows(), sampling)
    states = subject.states(rows())
    found = token_scores(subject, states, sampling)
    assert states.hidden_RD.shape == (len(expected.logp_R), 32)
    torch.testing.assert_close(found.logp_R, expected.logp_R, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.entropy_R, entropy(expected.logp_RV), rtol=0, atol=1e-10)
    finite = torch.isfinite(expected.logp_R)  # random rows hold banned tokens
    for a, b in zip(*(gradients(subject, x.logp_R[finite]) for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_a_tiny_cap_on_logits_is_seen():
    """Weights so small that capping at 30 changes logits in their last digits only."""
    torch.manual_seed(0)
    gemma = MODELS["gemma2"][0]()
    with torch.no_grad():
        for weight in gemma.parameters():
            weight *= 0.05
    assert not Policy(gemma, TOKENIZER).apart


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_tokens_in_pieces_are_the_same(entropy_gradient, monkeypatch):
    """Both ways: scores of the chosen tokens alone, and whole distributions."""
    subject = policy()

    def one():
        scored = token_scores(subject, subject.states(rows()), Sampling(0.7), entropy_gradient=entropy_gradient)
        loss_R = scored.logp_R + (scored.entropy_R if entropy_gradient else 0)
        return [*scored[:2], *gradients(subject, loss_R)]

    whole = one()
    monkeypatch.setattr(scores, "HEAD_BUDGET", 3 * len(TOKENIZER))
    for a, b in zip(one(), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_head_under_an_adapter_is_applied_as_the_module_it_is():
    subject = Policy(add_adapter(model(), rank=2, alpha=8.0, targets="lm_head,q_proj", seed=0), TOKENIZER)
    reference = Reference(subject, None)
    start = token_scores(reference, reference.states(rows()), Sampling()).logp_R
    with torch.no_grad():
        for name, weight in subject.model.named_parameters():
            if "lora" in name:
                weight += 0.1
    assert subject.apart
    expected = subject.distributions(rows(), Sampling())
    found = token_scores(subject, subject.states(rows()), Sampling())
    torch.testing.assert_close(found.logp_R, expected.logp_R, rtol=0, atol=1e-12)
    assert (found.logp_R - start).abs().max() > 0.1
    for a, b in zip(*(gradients(subject, x.logp_R) for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    again = token_scores(reference, reference.states(rows()), Sampling())
    torch.testing.assert_close(again.logp_R, start, rtol=0, atol=1e-12)
    assert not again.logp_R.requires_grad
