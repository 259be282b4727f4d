"""Scoring: packed and shared against the obvious way, one sequence at a time through plain transformers."""

from dataclasses import replace

import pytest
import torch
from tiny import TOKENIZER, group, model, policy, random_groups
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from upslope.model.attention import planned
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.layout import lay_out
from upslope.model.policy import Policy
from upslope.types import Sampling


def naive(model, rollout, temperature=1.0):
    """Log-probabilities of one rollout's tokens: one sequence, no padding, no sharing, transformers' own attention."""
    ids = torch.tensor([rollout.prompt + rollout.response])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(rollout.prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(rollout.response)[:, None])[:, 0]


def rows(groups):
    return [r for g in groups for r in g.rollouts]


@pytest.fixture(scope="module")
def reference():
    return model()  # the same weights as policy(), with transformers' own attention


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_packed_scores_equal_one_sequence_at_a_time(reference, temperature):
    """Pitfalls 6, 8, 23: no leak between neighbours, positions start anew, the temperature is applied."""
    rollouts = rows(random_groups())
    logp_NT, _ = policy().score(rollouts, Sampling(temperature), 9)
    for row, rollout in enumerate(rollouts):
        expected = naive(reference, rollout, temperature)
        torch.testing.assert_close(logp_NT[row, : len(expected)], expected, rtol=0, atol=1e-12)
        assert not logp_NT[row, len(expected) :].any()


def test_a_score_does_not_depend_on_its_neighbours():
    rollouts = rows(random_groups())
    subject = policy()
    together, _ = subject.score(rollouts, Sampling(), 9)
    alone = torch.cat([subject.score([r], Sampling(), 9)[0] for r in rollouts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_a_leak_between_neighbours_would_be_seen():
    """The planted defect of pitfall 23: let every query of a branch see its neighbour's tokens."""
    rollouts = rows(random_groups(1))
    subject = policy()
    layout = lay_out(rollouts, subject.device)
    stems, branches = layout.segments
    leaky = replace(branches, key_BS=branches.key_BS.roll(1, dims=0))
    arguments = {"position_ids": layout.position_K[None], "logits_to_keep": layout.predictor_R, "use_cache": False}
    planted = replace(layout)
    planted.__dict__["segments"] = (stems, leaky)  # in place of what would be worked out from the spans
    with planned(layout):
        exact = subject.model(input_ids=layout.id_K[None], **arguments).logits
    with planned(planted):
        wrong = subject.model(input_ids=layout.id_K[None], **arguments).logits
    assert (exact - wrong).abs().max() > 0.01


def test_sharing_the_prompt_changes_nothing_in_value_or_gradient(reference):
    rollouts = rows(random_groups(2, size=4))
    weight_T = torch.arange(1, 10, dtype=torch.float64)  # so that every token matters differently
    subject = policy()
    shared = (subject.score(rollouts, Sampling(), 9)[0] * weight_T).sum()
    plain = torch.stack([(naive(reference, r) * weight_T[: len(r.response)]).sum() for r in rollouts]).sum()
    assert shared.item() == pytest.approx(plain.item(), abs=1e-10)
    shared_gradient = torch.autograd.grad(shared, list(subject.model.parameters()))
    plain_gradient = torch.autograd.grad(plain, list(reference.parameters()))
    for a, b in zip(shared_gradient, plain_gradient, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_shared_prompt_is_laid_out_once():
    prompt = [3, 4, 5, 6]
    rollouts = rows([group("p", prompt, [[7, 8], [9, 10, 11], [12]], [0, 0, 0])])
    cpu = torch.device("cpu")
    assert lay_out(rollouts, cpu).num_tokens == 4 + 1 + 2 + 0  # the last token of a response predicts nothing
    assert lay_out(rollouts, cpu, share_prompts=False).num_tokens == 5 + 6 + 4


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="empty prompt"):
        lay_out(rows([group("p", [], [[7]], [0])]), torch.device("cpu"))


def test_tokens_the_policy_did_not_choose_are_not_scored_but_are_seen(reference):
    (rollout,) = rows([group("p", [3, 4], [[7, 8, 9]], [0])])
    partly = replace(rollout, mask=(True, False, True))
    logp_NT, entropy_NT = policy().score([partly], Sampling(), 3)
    expected = naive(reference, rollout)
    torch.testing.assert_close(logp_NT[0], expected * torch.tensor([1.0, 0.0, 1.0]), rtol=0, atol=1e-12)
    assert entropy_NT[0, 1] == 0


def test_the_end_token_is_scored_although_it_is_also_the_padding(reference):
    """Pitfall 7: a mask made by comparing with the pad token would lose the last token."""
    end = ChatRenderer.of(TOKENIZER).end_ids[0]
    (rollout,) = rows([group("p", [3, 4], [[7, end, 8, end]], [0])])
    same_token = policy()
    same_token.tokenizer = type("Padded", (), {"pad_token_id": end, "eos_token_id": end, "chat_template": "x"})()
    same_token.renderer = ChatRenderer.of(same_token.tokenizer)
    logp_NT, _ = same_token.score([rollout], Sampling(), 4)
    torch.testing.assert_close(logp_NT[0], naive(reference, rollout), rtol=0, atol=1e-12)
    assert (logp_NT[0] < 0).all()


def test_the_sampled_token_is_scored_not_the_likeliest(reference):
    """Pitfall 10."""
    ids = torch.tensor([[3, 4]])
    unlikely = int(reference(input_ids=ids).logits[0, -1].argmin())
    (rollout,) = rows([group("p", [3, 4], [[unlikely]], [0])])
    logp_NT, _ = policy().score([rollout], Sampling(), 1)
    likeliest = float(reference(input_ids=ids).logits[0, -1].detach().log_softmax(-1).max())
    assert logp_NT.item() == pytest.approx(naive(reference, rollout).item())
    assert logp_NT.item() < likeliest - 1


def test_the_ban_on_early_ends_is_part_of_the_distribution(reference):
    end = ChatRenderer.of(TOKENIZER).end_ids[0]
    (rollout,) = rows([group("p", [3, 4], [[7, 8, end]], [0])])
    logp_NT, _ = policy().score([rollout], Sampling(min_tokens=2), 3)
    logits = reference(input_ids=torch.tensor([[3, 4, 7, 8]])).logits[0, 1:]
    logits[:2, end] = -torch.inf
    expected = logits.log_softmax(-1).gather(1, torch.tensor([[7], [8], [end]]))[:, 0]
    torch.testing.assert_close(logp_NT[0], expected, rtol=0, atol=1e-12)


def test_entropy_is_the_entropy_of_the_scored_distribution(reference):
    """Pitfall 29: the quantity its name says, at the sampling temperature, in nats, not divided twice."""
    (rollout,) = rows([group("p", [3, 4], [[7, 8]], [0])])
    _, entropy_NT = policy().score([rollout], Sampling(1.3), 2)
    logp = (reference(input_ids=torch.tensor([[3, 4, 7]])).logits[0, 1:] / 1.3).log_softmax(-1)
    torch.testing.assert_close(entropy_NT[0], -(logp.exp() * logp).sum(-1).detach(), rtol=0, atol=1e-12)


def test_token_ids_are_scored_as_given_not_their_text_tokenised_again(reference):
    """Pitfall 12: special tokens vanish from the text, so scoring the text again would score other tokens."""
    (rollout,) = rows([group("p", [3, 4], [[7, TOKENIZER.pad_token_id, 8, TOKENIZER.unk_token_id]], [0])])
    again = TOKENIZER(policy().renderer.text(rollout.response), add_special_tokens=False).input_ids
    assert tuple(again) != rollout.response
    logp_NT, _ = policy().score([rollout], Sampling(), 4)
    torch.testing.assert_close(logp_NT[0], naive(reference, rollout), rtol=0, atol=1e-12)


OTHERS = {
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"num_key_value_heads": 2, "head_dim": 16, "bos_token_id": None}, True),
    "windowed mistral": (MistralForCausalLM, MistralConfig, {"num_key_value_heads": 2, "sliding_window": 3}, False),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, None),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_are_scored_exactly_packed_or_not(name):
    """A model whose attention cannot be replaced exactly is found out and takes the ordinary way."""
    kind, configuration, changes, packs = OTHERS[name]
    common = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape = {} if name == "gpt2" else common
    config = configuration(vocab_size=len(TOKENIZER), eos_token_id=1, pad_token_id=0, **shape, **changes)
    torch.manual_seed(0)
    plain = kind(config).double().eval()
    rollouts = rows(random_groups(3, size=2))
    expected = [naive(plain, r).detach() for r in rollouts]
    subject = Policy(plain, TOKENIZER)
    assert packs is None or subject.packs is packs
    logp_NT, _ = subject.score(rollouts, Sampling(), 9)
    for row, values in enumerate(expected):
        torch.testing.assert_close(logp_NT[row, : len(values)].detach(), values, rtol=0, atol=1e-10)
