"""A step over masters: schedule, clipping, low precision, AdamW and Muon, resuming."""

import math

import pytest
import torch
from tiny import gradients, learner, model, policy, random_groups

from upslope.algo.family import REINFORCE, SFT
from upslope.algo.objective import Objective
from upslope.errors import UserError
from upslope.learn import muon
from upslope.learn.optimizer import LocalOptimizer, schedule
from upslope.learn.prepare import passes
from upslope.learn.rules import matrices
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
        ("wsd", [0.5, 1, 1, 1, 1, 0.5]),  # round(0.3 * 6) = 2 updates of decay
    ],
)
def test_schedule_by_hand(decay, expected):
    settings = LearnSettings(warmup=2, decay=decay, **({"decay_share": 0.3} if decay == "wsd" else {}))
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


@pytest.mark.parametrize("share", [0.0, 0.9, 1.0])
def test_the_decay_of_wsd_never_begins_within_the_warm_up(share):
    settings = LearnSettings(warmup=4, decay="wsd", decay_share=share)
    found = [schedule(u, 8, settings) for u in range(9)]
    assert found == [0.25, 0.5, 0.75, 1.0, *([1.0] * 5 if not share else [1.0, 0.75, 0.5, 0.25, 0.0])]


def orthogonalised(gradient):
    """Five steps of Newton-Schulz with Jordan's coefficients, in float64."""
    x = gradient.double() / gradient.double().norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x


def test_muon_moves_matrices_inside_the_layers_and_adamw_the_rest():
    """At the first step AdamW's entries move by lr each (g / |g|), and Muon's matrices by 0.2 lr sqrt(longer side)
    times the orthogonalised gradient, which may be computed in bfloat16."""
    subject = learner(SFT, dtype=torch.float32, clip=0.0, lr=1e-3, optimizer="muon")
    (minibatch,) = passes(subject.prepare(random_groups()), SFT, HERE)
    subject.gradient(Objective(SFT), minibatch)
    gradient = gradients(subject)
    before = {n: m.detach().clone() for n, m in subject.optimizer.masters.items()}
    subject.step()
    state = subject.optimizer.state()
    turned = {key.partition("/")[2] for key in state if key.startswith("momentum_buffer/")}
    assert turned == {n for n in before if ".layers." in n and n.endswith("proj.weight")}
    assert {key.partition("/")[2] for key in state if key.startswith("exp_avg/")} == set(before) - turned
    for name, master in subject.optimizer.masters.items():
        moved = (before[name] - master.detach()).double()
        if name in turned:
            expected = 1e-3 * 0.2 * max(moved.shape) ** 0.5 * orthogonalised(gradient[name])
            assert float((moved - expected).norm() / expected.norm()) < 0.05, name
        else:
            assert moved.abs().max() == pytest.approx(1e-3, rel=1e-2), name


def test_tables_of_embeddings_inside_a_layer_are_no_matrices():
    inside = torch.nn.ModuleList([torch.nn.Linear(2, 3), torch.nn.Embedding(2, 3)])
    outside = torch.nn.Linear(3, 2)
    found = matrices(torch.nn.ModuleDict({"layers": inside, "head": outside}))
    assert found == {"layers.0.weight"}


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_muon_moves_as_the_one_of_torch(monkeypatch, shape):
    """In bfloat16, in which torch's multiplies, to its rounding; in float32, to that of bfloat16."""
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(3)]
    weights = {}
    for name in ("torch", torch.bfloat16, torch.float32):
        weight = torch.nn.Parameter(start.clone())
        if name == "torch":
            subject = torch.optim.Muon([weight], 0.1, 0.01, 0.9, adjust_lr_fn="match_rms_adamw")
        else:
            monkeypatch.setattr(muon, "products_in", lambda device, dtype=name: dtype)
            subject = muon.Muon([weight], 0.1, 0.9, 0.01)
        for gradient in gradients:
            weight.grad = gradient.clone()
            subject.step()
        weights[name] = weight.detach()
    moved = (weights["torch"] - start).norm()
    assert (weights[torch.bfloat16] - weights["torch"]).norm() < 0.01 * moved
    assert (weights[torch.float32] - weights["torch"]).norm() < 0.05 * moved
    assert moved > 0.5


def test_muon_multiplies_in_what_the_processor_is_fast_at(monkeypatch):
    for gains, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(muon, "cpu_gains_by_bf16", lambda gains=gains: gains)
        assert muon.products_in(torch.device("cpu")) == dtype
        assert muon.orthogonalised(torch.ones(2, 3), muon.products_in(torch.device("cpu"))).dtype == dtype
    assert muon.products_in(torch.device("cuda")) == torch.bfloat16


def test_muon_is_not_for_adapters():
    with pytest.raises(ValueError, match="lora_rank = 4 trains factors"):
        LearnSettings(optimizer="muon", lora_rank=4)


@pytest.mark.parametrize(("was", "now"), [("adamw", "muon"), ("muon", "adamw")])
def test_the_state_of_another_optimizer_is_refused_in_one_line(was, now):
    source, other = (learner(SFT, dtype=torch.float32, optimizer=name) for name in (was, now))
    step(source, random_groups(), SFT)
    with pytest.raises(UserError, match=f"state is of learn.optimizer = '{was}', and this run has '{now}'"):
        other.optimizer.load(source.optimizer.state(), 1)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_moments_take_what_the_state_holds(name):
    subject = learner(SFT, dtype=torch.float32, optimizer=name)
    step(subject, random_groups(), SFT)
    held = {key: t for key, t in subject.optimizer.state().items() if not key.startswith("step/")}
    assert subject.optimizer.moment_bytes == sum(t.numel() * t.element_size() for t in held.values())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_resuming_from_the_saved_state_gives_the_same_bits(name):
    straight = learner(SFT, dtype=torch.float32, optimizer=name)
    for seed in range(4):
        step(straight, random_groups(seed=seed), SFT)

    first = learner(SFT, dtype=torch.float32, optimizer=name)
    for seed in range(2):
        step(first, random_groups(seed=seed), SFT)
    second = learner(SFT, of=policy(seed=9, dtype=torch.float32), dtype=torch.float32, optimizer=name)
    with torch.no_grad():
        for key, master in second.optimizer.masters.items():
            master.copy_(first.optimizer.masters[key])
    second.optimizer.load(first.optimizer.state(), first.optimizer.num_done)
    for seed in range(2, 4):
        step(second, random_groups(seed=seed), SFT)
    for key, master in straight.optimizer.masters.items():
        assert torch.equal(master, second.optimizer.masters[key]), key


def test_the_state_of_another_model_is_refused():
    source = learner(SFT, dtype=torch.float32)
    step(source, random_groups(), SFT)
    other = LocalOptimizer(model(num_hidden_layers=1, dtype=torch.float32), LearnSettings(lr=1.0), 1, torch.float32)
    with pytest.raises(UserError, match="of another model"):
        other.load(source.optimizer.state(), 1)
