"""The trust region over a landscape known by formula: two weights, loss -b.x or worse, KL x.Fx / 2 or more."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from tiny import group

from upslope.algo.outcome import Outcome
from upslope.algo.update import KLBall, gradient_step
from upslope.learn.prepare import to_batch

BATCH = to_batch([group("a", [1], [[2]], [1.0])], torch.device("cpu"), torch.float64)
OBJECTIVE = "whatever is to be made smaller"
F = torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))
B = torch.tensor([4.0, 1.0], dtype=torch.float64)
"""F^-1 b = (1, 1), whose x.Fx is 5; with delta 0.1 the rim lies at sqrt(2 * 0.1 / 5) = 0.2 of it."""


@dataclass
class Formula:
    """A region and the learner around it. ``worse`` is added to the loss, ``farther`` multiplies the KL, by turn."""

    fisher: torch.Tensor = field(default_factory=lambda: F)
    b: torch.Tensor = field(default_factory=lambda: B)
    worse: tuple[float, ...] = ()
    farther: tuple[float, ...] = ()
    loss: float = 7.0
    moves: list[list[float]] = field(default_factory=list)
    share: float = 0.0

    # -- as a region

    def slope(self):
        return self.b

    def fisher_product(self, vector):
        return self.fisher @ vector

    def move(self, step):
        self.moves.append(step.tolist())

    def measure(self):
        x, turn = torch.tensor(self.moves[-1], dtype=torch.float64), len(self.moves) - 1
        worse = self.worse[turn] if turn < len(self.worse) else 0.0
        farther = self.farther[turn] if turn < len(self.farther) else 0.99  # the rim itself is a matter of rounding
        return self.loss - float(self.b @ x) + worse, farther * float(x @ F @ x) / 2

    # -- as a learner

    def gradient(self, objective, minibatch):
        assert (objective, minibatch) == (OBJECTIVE, BATCH)
        return Outcome(minibatch, None, {"loss": 7.0})

    def trust_region(self, objective, minibatch, fisher_share):
        assert (objective, minibatch) == (OBJECTIVE, BATCH)
        self.share = fisher_share
        return self

    def settle(self):
        return {"lr": 0.0, "value_grad_norm": 2.0}

    def step(self):
        return {"grad_norm": 3.0, "lr": 0.5}


def run(slot, **of):
    subject = Formula(**of)
    outcome = slot(subject, OBJECTIVE, BATCH)
    assert outcome.minibatch is BATCH
    return subject, outcome.stats


BALL = KLBall(delta=0.1, damping=0.0, iterations=10, backtracks=3, shrink=0.5, fisher_share=0.3)


def test_the_step_goes_to_the_rim_along_the_natural_gradient():
    subject, stats = run(BALL)
    assert subject.moves == [pytest.approx([0.2, 0.2], rel=1e-12)]
    assert subject.share == 0.3
    expected = {
        "loss": 7.0, "grad_norm": math.sqrt(17), "kl_budget": 0.1, "kl_update": 0.099, "refused": 0.0, "gain": 1.0,
        "cg_residual": 0.0, "cg_iterations": 2.0, "negative_curvature": 0.0,
        "backtracks": 0.0, "over_budget": 0.0, "no_gain": 0.0, "lr": 0.0, "value_grad_norm": 2.0,
    }  # fmt: skip
    assert stats == pytest.approx(expected, abs=1e-12)


def test_the_length_of_the_slope_does_not_matter():
    """A thousandth of it points the same way, and the budget says how far."""
    subject, stats = run(BALL, b=B / 1000)
    assert subject.moves == [pytest.approx([0.2, 0.2], rel=1e-12)]
    assert stats["grad_norm"] == pytest.approx(math.sqrt(17) / 1000)


def test_damping_turns_the_direction_and_the_budget_is_still_that_of_the_kl():
    """(F + I)^-1 b = (0.8, 0.5): x.Fx = 4 * 0.64 + 0.25 = 2.81."""
    subject, _ = run(KLBall(delta=0.1, damping=1.0, backtracks=3))
    scale = math.sqrt(0.2 / 2.81)
    assert subject.moves == [pytest.approx([0.8 * scale, 0.5 * scale], rel=1e-12)]


def test_a_step_over_budget_is_shortened_until_it_is_not():
    """A KL of 5 times the parabola: 0.5, then 0.125, then 0.03125 at a quarter of the way."""
    subject, stats = run(BALL, farther=(5.0, 5.0, 5.0))
    assert subject.moves == [pytest.approx([x, x]) for x in (0.2, 0.1, 0.05)]
    assert (stats["backtracks"], stats["over_budget"], stats["no_gain"], stats["refused"]) == (2, 2, 0, 0)
    assert stats["kl_update"] == pytest.approx(0.5 / 16)
    assert stats["gain"] == pytest.approx(5 * 0.05)


def test_a_step_that_does_not_improve_is_shortened_too():
    """b.x is 1.0 at the rim, 0.5 half way: worse by as much is no improvement, worse by less is one."""
    subject, stats = run(BALL, worse=(1.0, 0.4))
    assert [len(subject.moves), stats["no_gain"], stats["over_budget"]] == [2, 1, 0]
    assert stats["gain"] == pytest.approx(0.1)


def test_the_two_causes_are_counted_apart():
    _, stats = run(BALL, farther=(5.0, 0.99, 0.99), worse=(0.0, 9.0))
    assert (stats["backtracks"], stats["over_budget"], stats["no_gain"]) == (2, 1, 1)


@pytest.mark.parametrize("of", [{"worse": (9.0,) * 9}, {"farther": (1e9,) * 9}, {"farther": (math.nan,) * 9}])
def test_after_the_last_try_the_step_is_refused_and_the_weights_stay(of):
    subject, stats = run(BALL, **of)
    assert subject.moves[:-1] == [pytest.approx([x, x]) for x in (0.2, 0.1, 0.05, 0.025)]
    assert subject.moves[-1] == [0.0, 0.0]
    assert (stats["refused"], stats["kl_update"], stats["gain"], stats["backtracks"]) == (1, 0, 0, 4)
    assert stats["over_budget"] == (0 if "worse" in of else 4)


def test_a_kl_of_just_the_budget_is_within_it():
    subject = Formula(b=torch.tensor([4.0, 0.0], dtype=torch.float64), farther=(1.0,))
    stats = KLBall(delta=0.5, damping=0.0, backtracks=0)(subject, OBJECTIVE, BATCH).stats
    assert subject.moves == [[0.5, 0.0]]  # x = (1, 0), x.Fx = 4, the rim at sqrt(2 * 0.5 / 4); a KL of 4 * 0.25 / 2
    assert (stats["kl_update"], stats["refused"]) == (0.5, 0.0)


def test_no_slope_no_step():
    subject, stats = run(BALL, b=torch.zeros(2, dtype=torch.float64))
    assert subject.moves == []
    assert (stats["grad_norm"], stats["refused"], stats["kl_update"]) == (0, 0, 0)
    assert "cg_residual" not in stats


def test_products_that_are_no_fisher_matrix_move_nothing():
    subject, stats = run(BALL, fisher=-F)
    assert subject.moves == [[0.0, 0.0]]
    assert (stats["negative_curvature"], stats["refused"], stats["backtracks"]) == (1, 1, 0)


def test_few_iterations_leave_a_residual_that_is_told():
    _, stats = run(KLBall(delta=0.1, damping=0.0, iterations=1))
    # One step along b: length b.b / b.Fb = 17 / 65, residual b - F b 17 / 65 = (4 - 16 * 17 / 65, 1 - 17 / 65).
    left = math.hypot(4 - 16 * 17 / 65, 1 - 17 / 65) / math.sqrt(17)
    assert (stats["cg_iterations"], stats["cg_residual"]) == (1, pytest.approx(left))


def test_a_gradient_step_adds_what_the_optimizer_says():
    outcome = gradient_step(Formula(), OBJECTIVE, BATCH)
    assert outcome.stats == {"loss": 7.0, "grad_norm": 3.0, "lr": 0.5}
    assert outcome.minibatch is BATCH
