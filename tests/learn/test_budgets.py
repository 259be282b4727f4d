"""Amounts from a device's free memory, and what follows when it runs out: a stand-in reports a size and raises."""

from __future__ import annotations

import pytest
import torch
from gauges import StandInGauge, holding
from tiny import TOKENIZER, gradients, largest_gap, learner, policy, random_groups

from upslope.algo.family import FAMILY, GRPO
from upslope.algo.objective import Objective
from upslope.errors import UserError
from upslope.learn import trust_region
from upslope.learn.chunks import most_trunk_tokens
from upslope.learn.prepare import passes, weigh
from upslope.learn.probe import Probe
from upslope.model.budgets import LOGIT_BYTES, MemoryShares
from upslope.model.gauge import out_of_memory, wait_for
from upslope.model.scores import most_tokens
from upslope.rollout.address import Address

VOCABULARY = len(TOKENIZER)
MIB = 2**20


def with_gauge(subject, free, shares=None):
    subject.budgets.gauge, subject.budgets.say = StandInGauge(free), lambda line: None
    subject.budgets.shares = shares or MemoryShares()
    return subject


def told(subject):
    lines = []
    subject.budgets.say = lines.append
    return lines


@pytest.mark.parametrize(
    ("native", "checkpointing", "numbers"), [(False, False, 40), (True, False, 16), (False, True, 22)]
)
def test_activations_take_their_share_of_what_is_free(native, checkpointing, numbers):
    """float64, 2 layers x 32: 64 numbers x 8 bytes; recomputed, each layer's input and all of one layer: 2 + 40 / 2."""
    subject = with_gauge(policy(), 100 * MIB)
    subject.native, subject.checkpointing = native, checkpointing
    assert most_trunk_tokens(subject) == 50 * MIB // (numbers * 8 * 64)
    subject.budgets.shares = MemoryShares(activations=0)
    assert most_trunk_tokens(subject) == min(16 * 2**10, 400 * MIB // (10 * 8 * 64))


def test_logits_take_their_share_and_there_is_always_one_token():
    subject = with_gauge(policy(), 10 * MIB)
    assert most_tokens(VOCABULARY, subject.budgets) == MIB // LOGIT_BYTES // VOCABULARY
    assert most_tokens(VOCABULARY, with_gauge(policy(), 10).budgets) == 1
    assert most_tokens(VOCABULARY, policy().budgets) == most_tokens(VOCABULARY) == 16 * MIB // VOCABULARY


def test_what_gradients_and_moments_will_take_is_not_given_away():
    """float64 masters: a gradient and AdamW's two moments, 24 bytes a weight; as many for a critic's copy."""
    for name in ("grpo", "ppo"):
        subject = policy()
        with_gauge(subject, 100 * MIB)
        made = learner(FAMILY[name].recipe, of=subject)
        owed = 24 * sum(m.numel() for o in made.learner.optimizers for m in o.masters.values())
        assert subject.budgets.activation_bytes(0) == (100 * MIB - owed) // 2


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize("rows", [0, 12])
def test_running_out_of_memory_halves_and_changes_no_gradient(kind, rows):
    groups = random_groups(4, 3)
    expected = learner(GRPO)
    expected.gradient(expected.objective, weigh(expected.prepare(groups), GRPO))

    subject = policy()
    whole = learner(GRPO, of=with_gauge(subject, 100 * MIB), micro_batch=rows)
    lines, batch = told(subject), weigh(whole.prepare(groups), GRPO)
    with holding(subject, 10**9) as seen:
        whole.gradient(whole.objective, batch)
    total = max(seen)
    assert lines == [] and subject.budgets.caps == {}

    with holding(subject, total - 1, kind=kind) as seen:
        whole.gradient(whole.objective, batch)
        assert len(lines) == 1 and "out of memory while learning from 12 rows" in lines[0] and "\n" not in lines[0]
        assert subject.budgets.gauge.num_given_back == 1
        assert largest_gap(gradients(expected), gradients(whole)) < 1e-12
        seen.clear()
        whole.gradient(whole.objective, batch)
        whole.scorer.constants(batch, ["old_logp_NT"], torch.float64)
        assert len(lines) == 1 and max(seen) < total, "what was learnt is forgotten"
    caps = dict(subject.budgets.caps)
    other = with_gauge(policy(), 100 * MIB)
    other.budgets.remember(caps)
    resumed = learner(GRPO, of=other, micro_batch=rows)
    with holding(other, total - 1):
        resumed.gradient(resumed.objective, batch)
    assert largest_gap(gradients(expected), gradients(resumed)) < 1e-12


def test_a_pass_that_broke_off_half_way_leaves_nothing_of_its_gradient():
    groups = random_groups(4, 3)
    expected = learner(GRPO, dtype=torch.bfloat16, of=policy(dtype=torch.float32), micro_batch=6)
    expected.gradient(expected.objective, weigh(expected.prepare(groups), GRPO))
    subject = policy(dtype=torch.float32)
    made = learner(GRPO, dtype=torch.bfloat16, of=subject, micro_batch=12)
    batch, lines, left = weigh(made.prepare(groups), GRPO), told(subject), [1]
    weight = subject.model.model.layers[0].mlp.up_proj.weight

    def broken(grad):
        if left:
            left.pop()
            subject.model.lm_head.weight.grad = torch.full_like(subject.model.lm_head.weight, 100.0)
            raise torch.OutOfMemoryError("CUDA out of memory")

    weight.register_hook(broken)
    made.gradient(made.objective, batch)
    assert len(lines) == 1
    assert largest_gap(gradients(made), gradients(expected)) < 1  # the head's chunks are others, in bfloat16


def test_other_errors_and_one_row_that_is_too_much_end_it():
    subject = with_gauge(policy(), 100 * MIB)
    made = learner(GRPO, of=subject)
    batch = weigh(made.prepare(random_groups(2, 2)), GRPO)
    with (
        holding(subject, 0),
        pytest.raises(UserError, match=r"^out of memory while learning from one row of \d+ tokens"),
    ):
        made.gradient(made.objective, batch)
    assert not out_of_memory(RuntimeError("shapes do not fit")) and not out_of_memory(ValueError("CUDA out of memory"))
    with pytest.raises(RuntimeError, match="another"):
        subject.budgets.learning(lambda: (_ for _ in ()).throw(RuntimeError("another")))


def test_gradients_are_freed_when_the_weights_go_to_the_sampler():
    made = learner(FAMILY["ppo"].recipe)
    batch = made.prepare(random_groups(2, 2))
    for part in passes(batch, made.recipe, Address(0, "reuse", 0)):
        made.gradient(Objective(made.recipe), part)
        made.step()
    masters = [m for o in made.learner.optimizers for m in o.masters.values()]
    assert any(m.grad is not None for m in masters)
    made.weights()
    assert all(m.grad is None for m in masters)


def test_the_probe_keeps_no_second_copy_of_the_weights_and_says_the_same(monkeypatch):
    """The distributions before the step are kept; only where they are too many are all weights."""
    found, copies = [], []
    remembered = trust_region.MeasuredRegion._remembered
    monkeypatch.setattr(trust_region.MeasuredRegion, "_remembered", lambda self: copies.append(1) or remembered(self))
    for budget in (trust_region.KEPT_BUDGET, 0):
        monkeypatch.setattr(trust_region, "KEPT_BUDGET", budget)
        made = learner(GRPO)
        batch = made.prepare(random_groups(3, 3))
        probe = Probe(made.learner, GRPO, batch)
        made.gradient(made.objective, weigh(batch, GRPO))
        made.step()
        after = {n: m.detach().clone() for n, m in made.optimizer.masters.items()}
        found.append(probe.row()["kl_step"])
        assert all(torch.equal(after[n], m) for n, m in made.optimizer.masters.items())
        assert bool(copies) == (budget == 0)
    assert found[0] > 0
    assert found[1] == pytest.approx(found[0], rel=1e-9)


def test_on_a_device_the_probe_looks_at_as_many_states_as_can_be_kept(monkeypatch):
    subject = policy()
    made = learner(GRPO, of=subject)
    batch = made.prepare(random_groups(6, 2))
    sizes = []
    monkeypatch.setattr("upslope.learn.probe.spaced", lambda whole, share, least: sizes.append(share) or whole)
    with_gauge(subject, int(10 * VOCABULARY * 4 / 0.1) + 64)  # bytes: ten states' distributions are a tenth of it
    subject.budgets.measure()
    Probe(made.learner, GRPO, batch)
    assert sizes == [pytest.approx(10 / int(batch.mask_NT.sum()), rel=0.11)]


def test_a_measurement_keeps_its_micro_batches_when_memory_runs_out_in_between():
    subject = policy()
    made = learner(GRPO, of=subject)
    batch = made.prepare(random_groups(4, 3))
    region = made.trust_region(made.objective, weigh(batch, GRPO))
    subject.budgets.remember({"micro_tokens": 1, "logits": 1})
    made.gradient(made.objective, weigh(batch, GRPO))
    assert abs(region.distance()) < 1e-12


def test_a_clock_waits_for_a_device_and_not_for_a_cpu(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    wait_for(torch.device("cpu"))
    assert waited == []
    wait_for(torch.device("cuda", 1))
    assert waited == [torch.device("cuda", 1)]
