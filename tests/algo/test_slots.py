"""The contracts of the slots: who may register what, what a value declares, and what is refused before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tiny import group, learner

from upslope.algo import slots
from upslope.algo.advantage import GAE, group_mean
from upslope.algo.check import check, complaints
from upslope.algo.critic import OwnCopy
from upslope.algo.family import GRPO, PPO, REINFORCE
from upslope.algo.objective import Objective
from upslope.algo.regulariser import K1, no_penalty
from upslope.algo.slots import CONTRACTS, KINDS, NEEDS, kind, kinds, members
from upslope.algo.surrogate import ClippedRatio, likelihood
from upslope.errors import UserError
from upslope.learn.prepare import passes
from upslope.rollout.address import Address


@pytest.fixture
def registry(monkeypatch):
    """What a test registers is forgotten after it."""
    for slot in KINDS:
        monkeypatch.setitem(KINDS, slot, dict(KINDS[slot]))
    monkeypatch.setattr(slots, "_DECLARED", dict(slots._DECLARED))


def best(batch):
    return (batch.reward_N[:, None] == batch.reward_N.max()) * batch.mask_NT.to(batch.reward_N.dtype)


# -- kind -----------------------------------------------------------------------------------------------------------


def test_a_function_and_a_class_are_known_by_their_names(registry):
    @kind("surrogate")
    @dataclass(frozen=True)
    class KLWeighted(ClippedRatio):
        pass

    assert kind("advantage", compares="group")(best) is best
    assert kinds("advantage")["best"] is best
    assert kinds("surrogate")["kl_weighted"] is KLWeighted
    assert "best" not in kinds("shape")


def test_an_unknown_slot_is_refused_with_the_known_ones(registry):
    with pytest.raises(TypeError, match=r"no slot 'advantages'; slots: sample, shape, advantage, .*correction"):
        kind("advantages")
    assert KINDS.keys() == CONTRACTS.keys()


@pytest.mark.parametrize(
    ("slot", "member"), [("advantage", "compare"), ("shape", "gamma"), ("surrogate", "place"), ("reuse", "one_ratio")]
)
def test_a_member_that_the_slot_does_not_declare_is_refused_and_nothing_is_registered(registry, slot, member):
    with pytest.raises(TypeError, match=f"slot {slot} declares no '{member}'; it declares: needs, over_update"):
        kind(slot, **{member: 1})(best)
    assert "best" not in kinds(slot)


# -- members --------------------------------------------------------------------------------------------------------


def test_a_registered_function_declares_what_kind_was_told(registry):
    kind("advantage", compares="group", needs=frozenset({"old_logp"}))(best)
    found = members("advantage", best)
    assert (found.compares, found.needs) == ("group", {"old_logp"})
    assert (found.gamma, found.reads_reward, found.by_token) == (1.0, True, "never")
    assert members("advantage", group_mean).compares == "group"
    assert members("surrogate", likelihood).has_ratio is False
    assert members("regulariser", no_penalty).place is None


def test_a_plain_functions_attributes_count_and_its_functions_are_not_bound():
    def own(scored, batch):
        return scored.logp_NT

    own.needs = frozenset({"old_entropy"})
    own.clipped = lambda logp_NT, batch: ("low", "high")
    found = members("surrogate", own)
    assert found.needs == {"old_entropy"}
    assert found.clipped(None, None) == ("low", "high")
    assert (found.one_ratio, found.has_ratio) == (False, True)
    assert members("surrogate", lambda scored, batch: scored.logp_NT).needs == frozenset()


def test_a_foreign_dataclass_declares_by_name_fields_properties_and_methods():
    @dataclass(frozen=True)
    class Foreign:
        gamma: float = 0.5
        scale: float = 3.0

        @property
        def needs(self):
            return frozenset({"values"} if self.scale else ())

        def over_update(self, batch):
            return batch * self.scale

        def __call__(self, batch):
            return batch

    found = members("advantage", Foreign())
    assert (found.gamma, found.needs, found.over_update(2)) == (0.5, {"values"}, 6.0)
    assert found.compares == "nothing"
    assert members("advantage", Foreign(scale=0.0)).needs == frozenset()


def test_a_value_of_the_slots_class_speaks_for_itself():
    @dataclass(frozen=True)
    class Narrow(ClippedRatio):
        low: float = 0.01

    assert members("surrogate", Narrow()).needs == {"old_logp"}
    subject = Narrow()
    assert members("surrogate", subject) is subject


def test_defaults_of_what_may_be_asked_are_harmless():
    """A function without attributes can stand in every slot: it needs nothing and claims nothing."""
    for slot in ("shape", "advantage", "surrogate", "critic", "regulariser", "aggregate", "update", "correction"):
        found = members(slot, lambda *_: None)
        assert found.needs == frozenset()
        assert found.over_update(None) is None


# -- what is refused before a run -----------------------------------------------------------------------------------


def refused(recipe):
    with pytest.raises(UserError) as error:
        check(recipe)
    said = str(error.value)
    assert "\n" not in said and said.startswith("this recipe cannot run: ")
    return said


class NoNumbers:
    def __call__(self):
        return None


@dataclass(frozen=True)
class Thirsty:
    needs: Any = frozenset({"old_logps"})

    def __call__(self, batch):
        return best(batch)


def test_a_need_that_nothing_fills_names_the_nearest():
    said = refused(REINFORCE.patch(advantage=Thirsty()))
    assert "advantage=Thirsty(" in said
    assert "needs 'old_logps', which nothing can fill; did you mean 'old_logp'?" in said
    for need in NEEDS - {"values", "curvature", "reference_kl", "reference_kl_before"}:
        assert list(complaints(REINFORCE.patch(advantage=Thirsty(frozenset({need}))))) == []


@pytest.mark.parametrize(
    ("slot", "value", "told"),
    [
        ("shape", lambda: None, "called with (batch), which it does not take"),
        ("advantage", lambda scored, batch: None, "called with (batch), which it does not take"),
        ("surrogate", best, "surrogate=best is called with (scored, batch), which it does not take"),
        ("critic", best, "critic=best is called with (scored, batch)"),
        ("regulariser", best, "regulariser=best is called with (scored, batch)"),
        ("aggregate", NoNumbers(), "is called with (batch), which it does not take"),
        ("correction", best, "correction=best is called with (scored, batch)"),
        ("update", best, "update=best is called with (learner, objective, minibatch), which it does not take"),
        ("surrogate", ClippedRatio, "surrogate=ClippedRatio is a class; give one of it, ClippedRatio(...)"),
        ("regulariser", K1, "regulariser=K1 is a class; give one of it, K1(...)"),
        ("advantage", GAE, "advantage=GAE is a class"),
        ("advantage", "group_mean", "advantage='group_mean' cannot be called; a slot holds a function or a frozen"),
        ("aggregate", 3, "aggregate=3 cannot be called"),
        ("correction", None, "correction=None cannot be called"),
        ("sample", best, "sample=best is no value of this slot; take one of upslope.algo.sample"),
        ("reuse", 4, "reuse=4 is no value of this slot; take one of upslope.algo.reuse"),
    ],
)
def test_what_breaks_a_slots_contract_is_refused_in_one_line(slot, value, told):
    assert told in refused(REINFORCE.patch(**{slot: value}))


# -- what is refused when it is used --------------------------------------------------------------------------------


def column(batch):
    return torch.ones(batch.num_rollouts, dtype=batch.reward_N.dtype)


SHAPES = {
    "[N]": lambda batch: column(batch),
    "[N, 1]": lambda batch: column(batch)[:, None],
    "[T, N]": lambda batch: torch.ones_like(batch.mask_NT.T, dtype=batch.reward_N.dtype),
    "no tensor": lambda batch: batch.mask_NT.tolist(),
}


def giving(shape, slot):
    """A value of the slot that gives a wrong shape, in the recipe that uses it."""
    wrong = SHAPES[shape]
    one, two = (lambda batch: wrong(batch)), (lambda scored, batch: wrong(batch))
    if slot in ("shape", "advantage", "aggregate"):
        return REINFORCE.patch(**{slot: one})
    if slot in ("surrogate", "regulariser", "correction"):
        return REINFORCE.patch(**{slot: two})
    if slot == "critic":
        return PPO.patch(critic=type("Wrong", (OwnCopy,), {"__call__": lambda self, scored, batch: wrong(batch)})())
    if slot == "regulariser.cost":
        return GRPO.patch(regulariser=type("Wrong", (K1,), {"cost": lambda self, batch: wrong(batch)})())
    return GRPO.patch(surrogate=type("Wrong", (ClippedRatio,), {"over_update": lambda self, batch: wrong(batch)})())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("slot", "wanted"),
    [
        ("shape", "reward_NT"),
        ("advantage", "advantage_NT"),
        ("surrogate", "value_NT"),
        ("regulariser", "cost_NT"),
        ("regulariser.cost", "cost_NT"),
        ("critic", "error_NT"),
        ("aggregate", "weight_NT"),
        ("correction", "factor_NT"),
        ("surrogate.over_update", "over_update_NT"),
    ],
)
def test_anything_but_one_value_a_token_is_refused_before_a_weight_moves(slot, wanted, shape):
    recipe = giving(shape, slot)
    subject = learner(recipe)
    before = {n: m.detach().clone() for n, m in subject.optimizer.masters.items()}
    groups = [group(p, [3], [[5, 6], [7, 8, 9]], [1.0, 0.5]) for p in ("p", "q")]
    rows, columns = 4, 3
    with pytest.raises(UserError) as error:
        for minibatch in passes(subject.prepare(groups), recipe, Address(0, "reuse")):
            recipe.update(subject, Objective(recipe), minibatch)
    said = str(error.value)
    name, _, method = slot.partition(".")
    gave = {"[N]": [rows], "[N, 1]": [rows, 1], "[T, N]": [columns, rows]}
    assert said.startswith(f"{name}=")
    assert (f".{method} gave " if method else " gave ") in said
    assert ("gave a list" if shape == "no tensor" else f"gave a tensor of shape {gave[shape]}") in said
    assert (
        f"wanted is {wanted}, one value for each of {rows} rollouts and {columns} tokens: [{rows}, {columns}]" in said
    )
    assert all(torch.equal(m, before[n]) for n, m in subject.optimizer.masters.items())
