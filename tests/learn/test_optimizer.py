"""AdamW over masters: schedule, clipping, low precision, resuming."""

import math

import pytest
import torch
from tiny import gradients, learner, model, policy, random_groups

from upslope.algo.family import REINFORCE, SFT
from upslope.algo.objective import Objective
from upslope.errors import UserError
from upslope.learn.optimizer import AdamW, schedule
from upslope.learn.prepare import passes
from upslope.learn.settings import LearnSettings
from upslope.rollout.address import Address

HERE = Address(0, "reuse")


def step(subject, groups, recipe=REINFORCE):
    (minibatch,) = passes(subject.prepare(groups), recipe, HERE)
    return recipe.update(subject, Objective(recipe), minibatch)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(3 * math.pi / 4)) / 2]),
    ],
)
def test_schedule_by_hand(decay, expected):
    settings = LearnSettings(warmup=2, decay=decay)
    assert [schedule(u, 6, settings) for u in range(6)] == pytest.approx(expected)


def test_the_first_step_is_adamw_by_hand():
    """m/(1-b1) = g and v/(1-b2) = g*g at the first step, so every entry moves by lr * g / (|g| + eps)."""
    subject = learner(REINFORCE, clip=0.0, lr=1e-3)
    (minibatch,) = passes(subject.prepare(random_groups()), REINFORCE, HERE)
    subject.gradient(Objective(REINFORCE), minibatch)
    gradient = gradients(subject)
    before = {n: m.detach().clone() for n, m in subject.optimizer.masters.items()}
    subject.step()
    for name, master in subject.optimizer.masters.items():
        moved = before[name] - master.detach()
        g = gradient[name]
        torch.testing.assert_close(moved, 1e-3 * g / (g.abs() + 1e-8), rtol=1e-6, atol=1e-12)


def test_clipping_reports_the_norm_before_and_steps_with_the_norm_allowed():
    free, clipped = (learner(REINFORCE, clip=c) for c in (0.0, 0.01))
    norms = [step(s, random_groups()).stats["grad_norm"] for s in (free, clipped)]
    assert norms[0] == pytest.approx(norms[1])
    assert norms[0] > 0.01
    total = torch.stack([m.grad.norm() for m in clipped.optimizer.masters.values()]).norm()
    assert float(total) == pytest.approx(0.01, rel=1e-4)


def test_low_precision_keeps_float32_masters_and_accumulates_in_float32():
    """A step of 1e-5 on a weight near 1 is lost in bfloat16 (spacing 2^-7) and kept in its master."""
    subject = learner(REINFORCE, of=policy(dtype=torch.float32), dtype=torch.bfloat16, lr=1e-5, micro_batch=1)
    name = "model.norm.weight"
    assert subject.policy.weights()[name].dtype == torch.bfloat16
    before = subject.optimizer.masters[name].detach().clone()
    step(subject, random_groups())
    master = subject.optimizer.masters[name].detach()
    assert master.dtype == torch.float32
    assert not torch.equal(master, before)
    assert torch.equal(subject.policy.weights()[name], master.bfloat16())
    assert all(p.grad is None for p in subject.policy.model.parameters()), "low-precision gradients are freed"


def test_rotary_tables_stay_in_float32():
    subject = learner(REINFORCE, of=policy(dtype=torch.float32), dtype=torch.bfloat16)
    assert subject.policy.model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_tied_weights_stay_tied_in_low_precision():
    tied = policy(dtype=torch.float32, tie_word_embeddings=True)
    subject = learner(REINFORCE, of=tied, dtype=torch.bfloat16)
    step(subject, random_groups())
    assert tied.model.lm_head.weight is tied.model.model.embed_tokens.weight
    assert "lm_head.weight" not in subject.optimizer.masters


def test_resuming_from_the_saved_state_gives_the_same_bits():
    straight = learner(SFT, dtype=torch.float32)
    for seed in range(4):
        step(straight, random_groups(seed=seed), SFT)

    first = learner(SFT, dtype=torch.float32)
    for seed in range(2):
        step(first, random_groups(seed=seed), SFT)
    second = learner(SFT, of=policy(seed=9, dtype=torch.float32), dtype=torch.float32)
    with torch.no_grad():
        for name, master in second.optimizer.masters.items():
            master.copy_(first.optimizer.masters[name])
    second.optimizer.load(first.optimizer.state(), first.optimizer.num_done)
    for seed in range(2, 4):
        step(second, random_groups(seed=seed), SFT)
    for name, master in straight.optimizer.masters.items():
        assert torch.equal(master, second.optimizer.masters[name]), name


def test_the_state_of_another_model_is_refused():
    source = learner(SFT, dtype=torch.float32)
    step(source, random_groups(), SFT)
    other = AdamW(model(num_hidden_layers=1, dtype=torch.float32), LearnSettings(lr=1.0), 1, torch.float32)
    with pytest.raises(UserError, match="of another model"):
        other.load(source.optimizer.state(), 1)
