"""The edges of every slot's settings: the last value that is taken, the first that is refused, what is said of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny import by_row, group, scored

from upslope.algo.advantage import (
    GAE,
    BatchZScore,
    ConstantBaseline,
    GroupZScore,
    group_mean,
    leave_one_out,
    returns,
    whitened,
)
from upslope.algo.aggregate import ConstantLength, sequence_mean, sequence_sum, token_mean
from upslope.algo.check import complaints
from upslope.algo.conjugate import conjugate_gradients
from upslope.algo.correction import MaskedWeights, TruncatedWeights
from upslope.algo.critic import LearnedCritic, OwnCopy, SharedTrunk
from upslope.algo.family import REINFORCE, RFT, SFT
from upslope.algo.objective import Objective
from upslope.algo.recipe import show
from upslope.algo.regulariser import K1, K2, K3, EntropyBonus, ExactKL
from upslope.algo.reuse import Reuse
from upslope.algo.sample import Attempts, Demonstrations, rewarded
from upslope.algo.shape import SoftOverlong
from upslope.algo.surrogate import ClippedRatio, ClippedWeight, ImportanceRatio, SequenceRatio, likelihood
from upslope.algo.update import KLBall
from upslope.learn.prepare import to_batch

TAKEN = [
    (GroupZScore, {"eps": 0.0}),
    (BatchZScore, {"eps": 0.0}),
    (GAE, {"gamma": 0.0, "lam": 0.0}),
    (GAE, {"gamma": 1.0, "lam": 1.0}),
    (ConstantLength, {"length": 0}),
    (ConstantLength, {"length": 1}),
    (TruncatedWeights, {"cap": 1.0}),
    (MaskedWeights, {"low": 0.0, "high": 1.0}),
    (MaskedWeights, {"low": 1.0, "high": 1.0}),
    (LearnedCritic, {"clip": 0.0, "warmup": 0, "rate": 1e-9, "lam": 0.0}),
    (LearnedCritic, {"lam": 1.0}),
    (K1, {"coefficient": 0.0}),
    (ExactKL, {"coefficient": 0.0}),
    (EntropyBonus, {"coefficient": 0.0}),
    (Reuse, {"epochs": 1, "minibatches": 1}),
    (Attempts, {"group_size": 1, "refill": 1.0}),
    (Attempts, {"refill": 0.0}),
    (Demonstrations, {"replay": 0.0}),
    (Demonstrations, {"replay": 0.999}),
    (SoftOverlong, {"buffer": 1.0}),
    (ClippedRatio, {"low": 0.0, "high": 0.0}),
    (ClippedRatio, {"low": 1.0, "dual": 1.001}),
    (SequenceRatio, {"low": 1.0, "high": 0.0}),
    (ClippedWeight, {"low": 1.0, "high": 0.0}),
    (KLBall, {"delta": 1e-9, "damping": 0.0, "iterations": 1, "backtracks": 0, "shrink": 0.999, "fisher_share": 1.0}),
]
REFUSED = [
    (GroupZScore, {"eps": -1e-9}, "eps must be at least 0, not -1e-09"),
    (BatchZScore, {"eps": -1e-9}, "eps must be at least 0, not -1e-09"),
    (GAE, {"gamma": -0.01}, "needs 0 <= gamma <= 1 and 0 <= lam <= 1, not gamma=-0.01, lam=0.95"),
    (GAE, {"gamma": 1.01}, "gamma=1.01, lam=0.95"),
    (GAE, {"lam": -0.01}, "gamma=1.0, lam=-0.01"),
    (GAE, {"lam": 1.01}, "gamma=1.0, lam=1.01"),
    (ConstantLength, {"length": -1}, "length must be at least 0, not -1"),
    (TruncatedWeights, {"cap": 0.99}, "cap must be at least 1, not 0.99"),
    (MaskedWeights, {"low": -0.01}, "needs 0 <= low <= 1 <= high, not low=-0.01, high=2.0"),
    (MaskedWeights, {"low": 1.01}, "not low=1.01, high=2.0"),
    (MaskedWeights, {"high": 0.99}, "not low=0.5, high=0.99"),
    (LearnedCritic, {"clip": -0.01}, "clip=-0.01"),
    (LearnedCritic, {"warmup": -1}, "warmup=-1"),
    (LearnedCritic, {"rate": 0.0}, "rate=0.0"),
    (LearnedCritic, {"lam": -0.01}, "lam=-0.01"),
    (LearnedCritic, {"lam": 1.01}, "lam=1.01"),
    (K1, {"coefficient": -0.01}, "coefficient must be at least 0, not -0.01"),
    (K3, {"coefficient": 0.1, "place": "reward", "weighted": True}, "weighted is about the gradient in the loss"),
    (ExactKL, {"coefficient": -0.01}, "coefficient must be at least 0, not -0.01"),
    (EntropyBonus, {"coefficient": -0.01}, "coefficient must be at least 0, not -0.01"),
    (Reuse, {"epochs": 0}, "epochs and minibatches must be at least 1, not 0 and 1"),
    (Reuse, {"minibatches": 0}, "not 1 and 0"),
    (Attempts, {"group_size": 0}, "group_size must be at least 1, not 0"),
    (Attempts, {"refill": 0.99}, r"refill is 0 \(off\) or a budget of at least 1, not 0.99"),
    (Demonstrations, {"replay": -0.01}, r"replay is a share in \[0, 1\), not -0.01"),
    (Demonstrations, {"replay": 1.0}, "not 1.0"),
    (SoftOverlong, {"buffer": 0.0}, r"buffer is a share in \(0, 1\], not 0.0"),
    (SoftOverlong, {"buffer": 1.01}, "not 1.01"),
    (SoftOverlong, {"factor": 0.0}, "factor"),
    (ClippedRatio, {"low": -0.01}, "clip range needs 0 <= low <= 1 and high >= 0, not low=-0.01, high=0.2"),
    (ClippedRatio, {"low": 1.01}, "not low=1.01, high=0.2"),
    (SequenceRatio, {"high": -0.01}, "high=-0.01"),
    (ClippedWeight, {"low": 1.01}, "low=1.01"),
    (ClippedRatio, {"dual": 1.0}, r"dual is 0 \(off\) or a bound above 1, not 1.0"),
    (KLBall, {"delta": 0.0}, "delta=0.0"),
    (KLBall, {"damping": -0.01}, "damping=-0.01"),
    (KLBall, {"iterations": 0}, "iterations=0"),
    (KLBall, {"backtracks": -1}, "backtracks=-1"),
    (KLBall, {"shrink": 0.0}, "shrink=0.0"),
    (KLBall, {"shrink": 1.0}, "shrink=1.0"),
    (KLBall, {"fisher_share": 0.0}, "fisher_share=0.0"),
    (KLBall, {"fisher_share": 1.01}, "fisher_share=1.01"),
]


def named(cases):
    """Such as ``GAE-gamma=0.0-lam=0.0``."""
    return [
        "-".join([kind.__name__, *(f"{name}={value}" for name, value in fields.items())]) for kind, fields, *_ in cases
    ]


@pytest.mark.parametrize(("kind", "fields"), TAKEN, ids=named(TAKEN))
def test_the_last_value_that_makes_sense_is_taken(kind, fields):
    made = kind(**fields)
    assert {name: getattr(made, name) for name in fields} == fields


@pytest.mark.parametrize(("kind", "fields", "told"), REFUSED, ids=named(REFUSED))
def test_the_first_that_makes_none_is_refused_by_name(kind, fields, told):
    with pytest.raises(ValueError, match=told):
        kind(**fields)


# -- what a slot reads and nobody has filled is named ------------------------------------------------------------------

FILLED = to_batch([group("a", [1], [[2, 3], [4]], [1.0, 0.0])], torch.device("cpu"), torch.float64)
BARE = replace(FILLED, sampler_logp_NT=None, reward_NT=None)
WITH_ADVANTAGE = replace(BARE, advantage_NT=torch.ones(2, 2, dtype=torch.float64))
LOGP = torch.zeros(2, 2, dtype=torch.float64)
SCORED = scored(LOGP)
READS = [
    (lambda: likelihood(SCORED, BARE), "advantage_NT"),
    (lambda: ImportanceRatio()(SCORED, WITH_ADVANTAGE), "sampler_logp_NT"),
    (lambda: ImportanceRatio()(SCORED, replace(BARE, sampler_logp_NT=LOGP)), "advantage_NT"),
    (lambda: ClippedRatio()(SCORED, WITH_ADVANTAGE), "old_logp_NT"),
    (lambda: ClippedRatio()(SCORED, replace(BARE, old_logp_NT=LOGP)), "advantage_NT"),
    (lambda: ClippedRatio().clipped(LOGP, replace(BARE, old_logp_NT=LOGP)), "advantage_NT"),
    (lambda: SequenceRatio()(SCORED, WITH_ADVANTAGE), "old_logp_NT"),
    (lambda: SequenceRatio().clipped(LOGP, replace(BARE, old_logp_NT=LOGP)), "advantage_NT"),
    (lambda: ClippedWeight()(SCORED, replace(BARE, old_logp_NT=LOGP)), "advantage_NT"),
    (lambda: BatchZScore()(BARE), "reward_NT"),
    (lambda: GAE()(BARE), "reward_NT"),
    (lambda: GAE()(replace(BARE, reward_NT=LOGP)), "value_NT"),
    (lambda: TruncatedWeights()(SCORED, replace(BARE, sampler_logp_NT=LOGP)), "old_logp_NT"),
    (lambda: TruncatedWeights()(SCORED, replace(BARE, old_logp_NT=LOGP)), "sampler_logp_NT"),
    (lambda: OwnCopy()(SCORED, BARE), "value_NT"),
    (lambda: SharedTrunk()(replace(SCORED, value_NT=LOGP), replace(BARE, value_NT=LOGP)), "return_NT"),
    (lambda: K2()(SCORED, BARE), "reference_logp_NT"),
    (lambda: K3(weighted=True)(SCORED, replace(BARE, reference_logp_NT=LOGP)), "old_logp_NT"),
    (lambda: K1().cost(replace(BARE, reference_logp_NT=LOGP)), "old_logp_NT"),
    (lambda: ExactKL()(SCORED, BARE), "reference_kl_NT"),
    (lambda: ExactKL(place="reward").cost(BARE), "reference_kl_NT"),
]


@pytest.mark.parametrize(("read", "name"), READS, ids=[f"{i}-{name}" for i, (_, name) in enumerate(READS)])
def test_what_is_missing_is_named(read, name):
    with pytest.raises(RuntimeError, match=f"a slot reads {name}, but"):
        read()


# -- single edges -----------------------------------------------------------------------------------------------------


def test_rewarded_keeps_what_is_above_zero_and_nothing_else():
    found = rewarded(group("a", [1], [[2], [3], [4], [5]], [0.0, 0.5, -1.0, 1.0]))
    assert [r.sample for r in found.rollouts] == [1, 3]
    assert rewarded(group("a", [1], [[2], [3]], [0.0, -0.1])) is None


def test_a_weight_on_the_bound_is_not_cut():
    """c = 2, 1/2, 4 and 1/4 against a cap of 2 and a range of 1/2 to 2."""
    ratio_NT = torch.tensor([[2.0, 0.5], [4.0, 0.25]], dtype=torch.float64)
    batch = to_batch([group("a", [1], [[2, 3], [4, 5]], [1, 0])], torch.device("cpu"), torch.float64)
    batch = replace(batch, sampler_logp_NT=torch.zeros_like(ratio_NT), old_logp_NT=ratio_NT.log())
    exact = (ratio_NT.log().exp() == ratio_NT).all()
    assert exact, "choose ratios that log and exp give back"
    assert TruncatedWeights(cap=2.0).cut(scored(ratio_NT), batch).tolist() == [[False, False], [True, False]]
    assert MaskedWeights(0.5, 2.0).cut(scored(ratio_NT), batch).tolist() == [[False, False], [True, True]]
    assert MaskedWeights(0.5, 2.0)(scored(ratio_NT), batch).tolist() == [[2.0, 0.5], [0.0, 0.0]]


def test_one_token_is_divided_by_one():
    single = to_batch([group("a", [1], [[2], [3]], [1, 0])], torch.device("cpu"), torch.float64)
    assert by_row(ConstantLength()(single), single.mask_NT) == [
        0.5,
        0.5,
    ]  # 1 / (N L) with N = 2, and L = 1 where nobody says more
    batch = replace(single, advantage_NT=torch.tensor([[3.0], [5.0]], dtype=torch.float64))
    value_NT = ImportanceRatio("trajectory")(scored(batch.sampler_logp_NT), batch)
    assert value_NT.tolist() == [[3.0], [5.0]]


def test_rounding_of_what_was_subtracted_is_no_difference():
    """Outcomes of a million: a float32 there is off by 0.03, which is nothing to compare attempts by."""
    batch = to_batch([group("a", [1], [[2, 3], [4, 5]], [1e6, 1e6])], torch.device("cpu"), torch.float32)
    noisy_NT = torch.tensor([[0.0625, 1e6], [-0.0625, 1e6]])
    batch = replace(batch, reward_NT=noisy_NT)
    assert not BatchZScore(centre="group")(batch).any()
    small = replace(batch, reward_N=batch.reward_N / 1e6, reward_NT=torch.tensor([[0.0625, 1.0], [-0.0625, 1.0]]))
    assert BatchZScore(centre="group")(small).abs().max() > 1


def test_negative_curvature_is_reported_as_such():
    found = conjugate_gradients(lambda v: -v, torch.ones(3, dtype=torch.float64), iterations=3)
    assert found.curved is False
    assert (found.num_iterations, found.residual, found.x.tolist()) == (0, 1.0, [0.0, 0.0, 0.0])


def test_a_slot_shows_functions_by_name_and_fields_by_value():
    assert show(group_mean) == "group_mean"
    assert show(Attempts(4, rewarded)) == "Attempts(group_size=4, keep=rewarded, refill=0.0, drop_truncated=False)"
    assert show(Attempts) == "Attempts"
    assert show(0.5) == "0.5"


def test_a_constant_baseline_of_zero_is_the_plain_return():
    assert torch.equal(ConstantBaseline(0.0)(BARE), returns(BARE))


# -- small batches, where a bound of one matters ----------------------------------------------------------------------

ONE = to_batch([group("a", [1], [[2]], [1.0])], torch.device("cpu"), torch.float64)


@pytest.mark.parametrize("aggregate", [sequence_sum, sequence_mean, token_mean])
def test_a_single_token_counts_for_one(aggregate):
    assert aggregate(ONE).tolist() == [[1.0]]


def test_two_attempts_have_one_degree_of_freedom():
    """1 and 0 lie 1/2 from their mean; the sample's variance is (1/4 + 1/4) / 1, the population's half of it."""
    assert GroupZScore(eps=0.0)(BARE)[:, 0].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)])
    assert GroupZScore(eps=0.0, std="population")(BARE)[:, 0].tolist() == pytest.approx([1.0, -1.0])


def test_a_group_of_one_is_compared_with_nobody():
    assert GroupZScore()(ONE).tolist() == [[0.0]]
    assert leave_one_out(ONE).tolist() == [[0.0]]


def test_no_attempts_have_no_advantages():
    empty = to_batch([], torch.device("cpu"), torch.float64)
    for advantage in (group_mean, leave_one_out, GroupZScore(), returns):
        assert advantage(empty).shape == (0, 0)


def test_eps_is_added_to_the_deviation():
    """Values 1 and -1 have mean 0 and deviation 1: (1 - 0) / (1 + 1)."""
    value_NT, mask_NT = torch.tensor([[1.0, -1.0]]), torch.ones(1, 2, dtype=torch.bool)
    assert whitened(value_NT, mask_NT, eps=1.0).tolist() == [[0.5, -0.5]]


# -- the edges of the clip: a ratio on the bound is not beyond it ------------------------------------------------------


def at_ratio(ratio, advantage, slot):
    """(low, high) marks of a single token whose ratio is exactly that."""
    logp_NT = torch.tensor([[math.log(ratio)]], dtype=torch.float64)
    assert float(logp_NT.exp()) == ratio, "choose a ratio that log and exp give back"
    advantage_NT = torch.tensor([[advantage]], dtype=torch.float64)
    marks = slot.clipped(logp_NT, replace(ONE, old_logp_NT=torch.zeros_like(logp_NT), advantage_NT=advantage_NT))
    return tuple(bool(mark_NT) for mark_NT in marks)


@pytest.mark.parametrize("slot", [ClippedRatio(low=0.5, high=1.0), SequenceRatio(low=0.5, high=1.0)])
def test_a_ratio_on_the_edge_of_the_clip_still_learns(slot):
    assert at_ratio(0.5, -1.0, slot) == (False, False)
    assert at_ratio(0.25, -1.0, slot) == (True, False)
    assert at_ratio(2.0, 1.0, slot) == (False, False)
    assert at_ratio(4.0, 1.0, slot) == (False, True)


def test_a_weight_on_the_edge_is_its_own():
    slot = ClippedWeight(low=0.5, high=1.0)
    assert [at_ratio(r, 1.0, slot) for r in (0.25, 0.5, 2.0, 4.0)] == [(1, 0), (0, 0), (0, 0), (0, 1)]


def test_the_dual_clip_marks_what_is_beyond_it_and_pushed_down():
    """Its bound of 2 lies within the upper one of 8, so that only it can mark."""
    slot = ClippedRatio(low=0.5, high=7.0, dual=2.0)
    assert at_ratio(4.0, -1.0, slot) == (False, True)
    assert at_ratio(2.0, -1.0, slot) == (False, False)
    assert at_ratio(4.0, 0.5, slot) == (False, False)
    assert at_ratio(4.0, 0.0, slot) == (False, False)


def test_the_trace_has_the_ratio_that_the_surrogate_has():
    """Ratios 4 and 1: their geometric mean is 2, at both tokens."""
    recipe = REINFORCE.patch(surrogate=SequenceRatio())
    batch = to_batch([group("a", [1], [[2, 3]], [1.0])], torch.device("cpu"), torch.float64)
    old_NT = torch.tensor([[-math.log(4), 0.0]], dtype=torch.float64)
    batch = replace(batch, old_logp_NT=old_NT, advantage_NT=torch.ones_like(old_NT), weight_NT=torch.ones_like(old_NT))
    zeros_NT = torch.zeros_like(old_NT)
    _, trace = Objective(recipe)(scored(zeros_NT), batch)
    assert trace.ratio_NT.tolist() == [pytest.approx([2.0, 2.0])]
    _, plain = Objective(REINFORCE)(scored(zeros_NT), batch)
    assert plain.ratio_NT.tolist() == [pytest.approx([4.0, 1.0])]


def test_the_trace_marks_what_the_surrogate_marks_and_no_padding():
    """Ratios 4 and 1/4 with advantages 1 and -1: each beyond its edge. What lies behind the second attempt's only token
    is padding and has neither."""
    recipe = REINFORCE.patch(surrogate=ClippedRatio(low=0.5, high=1.0))
    old_NT = torch.tensor([[-math.log(4), 0.0], [math.log(4), math.log(4)]], dtype=torch.float64)
    advantage_NT = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    batch = replace(BARE, old_logp_NT=old_NT, advantage_NT=advantage_NT, weight_NT=BARE.mask_NT.double())
    _, trace = Objective(recipe)(SCORED, batch)
    assert trace.clipped_high_NT.tolist() == [[True, False], [False, False]]
    assert trace.clipped_low_NT.tolist() == [[False, False], [True, False]]
    _, plain = Objective(REINFORCE)(SCORED, batch)
    assert not plain.clipped_low_NT.any() and not plain.clipped_high_NT.any()


# -- each half of a complaint alone -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (RFT.patch(shape=SoftOverlong()), "advantage=ones never reads a reward"),
        (RFT.patch(regulariser=K1()), "advantage=ones never reads a reward"),
        (SFT.patch(shape=SoftOverlong()), "changes a reward, and given text is imitated without one"),
        (SFT.patch(shape=SoftOverlong(), advantage=returns), "changes a reward, and given text is imitated"),
    ],
)
def test_each_cause_is_enough_for_the_complaint(recipe, told):
    assert [line for line in complaints(recipe) if told in line]


def test_a_shape_of_ones_own_goes_with_an_advantage_that_reads_it():
    assert list(complaints(SFT.patch(shape=lambda batch: batch.reward_N, advantage=returns))) == []


def test_an_objective_without_weights_says_which_are_missing():
    batch = replace(ONE, advantage_NT=torch.ones(1, 1, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="a slot reads weight_NT, but"):
        Objective(REINFORCE)(scored(torch.zeros(1, 1).double()), batch)
