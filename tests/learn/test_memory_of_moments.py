"""Masters and moments kept elsewhere or in less: in the host's memory, and in eight bits."""

import sys

import pytest
import torch
from tiny import learner, policy, random_groups

from upslope.algo.family import GRPO, SFT
from upslope.algo.objective import Objective
from upslope.errors import UserError
from upslope.learn import optimizer
from upslope.learn.prepare import passes
from upslope.learn.settings import LearnSettings
from upslope.rollout.address import Address

HOST = torch.device("cpu")


def step(subject, seed, recipe=SFT):
    (minibatch,) = passes(subject.prepare(random_groups(seed=seed)), recipe, Address(0, "reuse"))
    return recipe.update(subject, Objective(recipe), minibatch)


# -- in the host's memory -------------------------------------------------------------------------------------------


def test_only_a_device_has_a_host():
    settings = LearnSettings(offload=True)
    assert optimizer.kept_apart(torch.device("cuda"), settings) == HOST
    assert optimizer.kept_apart(HOST, settings) is None
    assert optimizer.kept_apart(torch.device("cuda"), LearnSettings()) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("recipe", [SFT, GRPO])
def test_masters_that_are_kept_apart_learn_the_same(monkeypatch, dtype, recipe):
    """A CPU stands in for the device, too: the masters are copies, as they would be on another one."""
    together = learner(recipe, of=policy(dtype=torch.float32), dtype=dtype, micro_batch=2)
    monkeypatch.setattr(optimizer, "kept_apart", lambda device, settings: HOST)
    apart = learner(recipe, of=policy(dtype=torch.float32), dtype=dtype, micro_batch=2, offload=True)
    computing = apart.policy.weights()
    assert all(m.data_ptr() != computing[name].data_ptr() for name, m in apart.optimizer.masters.items())
    for seed in range(3):
        step(together, seed, recipe), step(apart, seed, recipe)
    for name, master in together.optimizer.masters.items():
        assert torch.equal(master, apart.optimizer.masters[name]), name
        assert torch.equal(together.policy.weights()[name], apart.policy.weights()[name]), name
    assert all(p.grad is None for p in apart.policy.model.parameters()), "gradients on the device are freed"


# -- in eight bits --------------------------------------------------------------------------------------------------


def test_eight_bits_are_adamws_and_not_for_float64():
    with pytest.raises(ValueError, match=r"moments = '8bit' are AdamW's, and optimizer = 'muon'"):
        LearnSettings(moments="8bit", optimizer="muon")
    with pytest.raises(ValueError, match="moments = '8bit' beside dtype = 'float64'"):
        LearnSettings(moments="8bit", dtype="float64")


def test_without_torchao_eight_bits_are_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(
        UserError, match=r"^learn.moments = '8bit' needs torchao .*: pip install torchao, or set 'full'$"
    ):
        wide("8bit")


def wide(moments):
    """Matrices of 4,096 entries inside the layer, and an embedding that is larger and fills no whole blocks."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 64}
    return learner(SFT, of=policy(dtype=torch.float32, **sizes), dtype=torch.float32, moments=moments, lr=1e-2)


@pytest.fixture
def torchao(monkeypatch):
    """torchao without its compiled step, which takes a minute: the same arithmetic, uncompiled."""
    pytest.importorskip("torchao.optim")
    monkeypatch.setattr(torch, "compile", lambda function, **how: function)


def test_moments_in_eight_bits_take_a_quarter_and_are_close(torchao):
    full, small = wide("full"), wide("8bit")
    before = {name: m.detach().clone() for name, m in full.optimizer.masters.items()}
    for seed in range(3):
        step(full, seed), step(small, seed)
    held = small.optimizer.state()
    assert any(key.startswith("exp_avg:codes/") for key in held) and any(key.startswith("exp_avg/") for key in held)
    numbers = (t for key, t in held.items() if not key.startswith("step/") and ":qmap/" not in key)
    assert small.optimizer.moment_bytes == sum(t.numel() * t.element_size() for t in numbers)
    sizes = {name: m.numel() for name, m in full.optimizer.masters.items()}
    large = {name for name, n in sizes.items() if n >= 4096 and n % 256 == 0}
    assert any(n > 4096 and n % 256 for n in sizes.values()), "one that fills no whole blocks is among them"
    ratio = sum(held[f"exp_avg:codes/{n}"].numel() for n in large) / sum(before[n].numel() * 4 for n in large)
    assert ratio == 0.25
    assert 1e-4 < apart(full, small, before) < 0.25


def test_the_first_step_is_that_of_full_moments(torchao):
    """What is rounded is what is kept for the next step."""
    full, small = wide("full"), wide("8bit")
    before = {name: m.detach().clone() for name, m in full.optimizer.masters.items()}
    step(full, 0), step(small, 0)
    assert apart(full, small, before) < 1e-5


def apart(full, small, before):
    """The most that a weight's move differs, as a share of the move."""
    pairs = [(m.detach(), small.optimizer.masters[n].detach(), before[n]) for n, m in full.optimizer.masters.items()]
    return max(float((m - s).norm() / (m - b).norm()) for m, s, b in pairs)


def test_eight_bits_are_resumed_bit_for_bit(torchao):
    straight = wide("8bit")
    for seed in range(4):
        step(straight, seed)
    first, second = wide("8bit"), wide("8bit")
    for seed in range(2):
        step(first, seed)
    second.optimizer.set_weights(first.optimizer.full_precision())
    second.optimizer.load(first.optimizer.state(), first.optimizer.num_done)
    for seed in range(2, 4):
        step(second, seed)
    for name, master in straight.optimizer.masters.items():
        assert torch.equal(master, second.optimizer.masters[name]), name


def test_a_run_with_other_moments_is_named(torchao):
    full, small = wide("full"), wide("8bit")
    step(full, 0), step(small, 0)
    with pytest.raises(UserError, match=r"is of learn.moments = 'full', and this run has '8bit'; go on with the first"):
        small.optimizer.load(full.optimizer.state(), 1)
    with pytest.raises(UserError, match=r"is of learn.moments = '8bit', and this run has 'full'"):
        full.optimizer.load(small.optimizer.state(), 1)


def test_what_the_checkpoint_relies_on_of_torchao(torchao):
    """Moments come apart into these plain tensors, and the parts make the same moment again."""
    small = wide("8bit")
    step(small, 0)
    (rule,) = small.optimizer._rules
    moments = [m for kept in rule.optimizer.state.values() for m in kept.values() if type(m) is not torch.Tensor]
    assert moments
    for moment in moments:
        names, told = moment.__tensor_flatten__()
        assert list(names) == ["codes", "scale", "qmap"] and told[1] == torch.float32
        again = type(moment).__tensor_unflatten__({name: getattr(moment, name) for name in names}, told)
        assert torch.equal(again.dequantize(), moment.dequantize())
