"""Activations computed again in the backward pass: the same gradient from fewer kept bytes."""

import pytest
import torch
from tiny import gradients, largest_gap, learner, model, policy, random_groups
from transformers import OPTConfig, OPTForCausalLM

from upslope.algo.family import FAMILY
from upslope.algo.objective import Objective
from upslope.errors import UserError
from upslope.learn.prepare import weigh
from upslope.learn.settings import LearnSettings
from upslope.model.hf import recompute_layers
from upslope.model.pocket import build_tokenizer
from upslope.model.policy import Policy
from upslope.prove.models import Letters, Toy
from upslope.record.folder import FolderRecorder
from upslope.train.assemble import assemble
from upslope.train.settings import RunSettings
from upslope.types import Sampling


def gradient(name, of):
    recipe = FAMILY[name].recipe
    subject = learner(recipe, of=of)
    subject.gradient(Objective(recipe), weigh(subject.prepare(random_groups()), recipe))
    return gradients(subject)


def recomputing(of):
    of.checkpoint_activations()
    assert of.checkpointing
    return of


@pytest.mark.parametrize("name", ["reinforce-baseline", "grpo", "ppo"])
def test_the_gradient_is_the_same(name):
    assert not policy().checkpointing
    assert largest_gap(gradient(name, recomputing(policy())), gradient(name, policy())) < 1e-12


def test_products_with_the_fisher_matrix_are_the_same():
    """They differentiate twice, so layers are computed again more than once."""
    recipe = FAMILY["trpo"].recipe

    def product(of):
        subject = learner(recipe, of=of)
        batch = weigh(subject.prepare(random_groups()), recipe)
        subject.gradient(Objective(recipe), batch)
        region = subject.trust_region(Objective(recipe), batch)
        return [region.fisher_product(region.slope()) for _ in range(2)]

    for found, expected in zip(product(recomputing(policy())), product(policy()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def bytes_kept(of):
    kept = []

    def keep(x):
        kept.append(x.numel() * x.element_size())
        return x

    rollouts = [r for g in random_groups() for r in g.rollouts]
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel() * x.element_size()) or x, lambda x: x
    ):
        of.states(rollouts)
    return sum(kept)


def test_fewer_bytes_are_kept():
    """A layer keeps its input, 32 numbers a token, in place of several times that."""
    assert bytes_kept(recomputing(policy())) < bytes_kept(policy()) / 4


def test_dropout_stays_off():
    """transformers' own switch needs training mode, in which this model's layers drop half of everything."""
    config = OPTConfig(
        vocab_size=len(build_tokenizer()), hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        word_embed_proj_dim=32, max_position_embeddings=64, dropout=0.5, eos_token_id=1, pad_token_id=0, bos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    of = Policy(OPTForCausalLM(config).double(), build_tokenizer())
    rollouts = [r for g in random_groups() for r in g.rollouts]
    before = of.states(rollouts).hidden_RD
    after = recomputing(of).states(rollouts).hidden_RD
    assert torch.equal(before, after)


def test_nothing_is_computed_twice_without_gradient():
    of = recomputing(policy())
    calls = []
    for layer in of.model.model.layers:
        layer.input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    rollouts = random_groups(1, 2)[0].rollouts
    with torch.no_grad():
        of.score(rollouts, Sampling(), 9)
    assert len(calls) == 2
    of.score(rollouts, Sampling(), 9)[0].sum().backward()
    assert len(calls) == 2 + 2 + 2


def test_a_model_that_marks_no_layers_is_refused():
    with pytest.raises(UserError, match="checkpoint_activations: Toy has no layers"):
        Policy(Toy(), Letters()).checkpoint_activations()
    recompute_layers(model())


def test_the_setting_reaches_policy_and_critic(tmp_path):
    settings = RunSettings(learn=LearnSettings(lr=1e-3, dtype="float64", checkpoint_activations=True))
    made = assemble(model(), build_tokenizer(), FAMILY["ppo"].recipe, settings, FolderRecorder(tmp_path), None)
    assert made.policy.checkpointing
    for trunk in (made.policy.model.model, made.critic.model.trunk):
        assert all("forward" in vars(layer) for layer in trunk.layers)
