"""Our losses against those of the installed TRL, whose own ``GRPOTrainer._compute_loss`` runs here.

The comparison itself is benchmarks/compare_trl_losses.py, which anyone can run. TRL reads private names of its
trainer, so an older or much newer version may not fit the stand-in; the tests want the one they were written for.
"""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scripts import loaded

from upslope.algo.advantage import GroupZScore, group_mean
from upslope.algo.aggregate import sequence_mean
from upslope.algo.regulariser import K3, EntropyBonus
from upslope.algo.surrogate import ClippedRatio, ClippedWeight
from upslope.types import Batch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "compare_trl_losses.py"
compare = loaded(SCRIPT)

CASES = {case.name: case for case in compare.CASES}
SEEDS = range(3)
TOLERANCE = 1e-10


@pytest.fixture(scope="module", autouse=True)
def trl():
    """TRL and its trainer, imported once; whatever these imports warn about is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("trl", minversion="1.16")
        assert module.GRPOTrainer
    return module


def gap(case, recipe, seed=0, num_parts=1):
    """The larger of the differences in loss and in gradient."""
    given = compare.numbers(seed, moved=case.moved)
    return max(compare.ours(recipe, given).gap(compare.theirs(case, given, num_parts)))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_loss_and_gradient_are_those_of_trl(name, seed):
    case = CASES[name]
    given = compare.numbers(seed, moved=case.moved)
    mine, other = compare.ours(case.recipe, given), compare.theirs(case, given)
    assert mine.loss == pytest.approx(other.loss, abs=TOLERANCE)
    torch.testing.assert_close(mine.slope_NT, other.slope_NT, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(mine.entropy_slope_NT, other.entropy_slope_NT, rtol=0, atol=TOLERANCE)
    assert mine.slope_NT.abs().max() > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_reach_what_they_are_to_compare(name):
    """Clipped tokens on both sides and unclipped ones, else the agreement would be one of plain products."""
    case = CASES[name]
    seen = torch.zeros(3, dtype=torch.bool)
    for seed in SEEDS:
        batch = compare.batch_of(compare.numbers(seed, moved=case.moved), case.recipe)
        low_NT, high_NT = case.recipe.surrogate.clipped(compare.numbers(seed, moved=case.moved).logp_NT, batch)
        mask_NT = batch.mask_NT
        seen |= torch.stack([(low_NT & mask_NT).any(), (high_NT & mask_NT).any(), (~low_NT & ~high_NT & mask_NT).any()])
    no_lower_bound = isinstance(case.recipe.surrogate, ClippedWeight)
    assert seen.tolist() == [not no_lower_bound, True, True]


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon_low": 0.21},
        {"epsilon_high": 0.29},
        {"beta": 0.041},
        {"max_completion_length": 13},
        {"loss_type": "bnpo"},
        {"importance_sampling_level": "sequence"},
    ],
)
def test_a_small_change_of_trls_settings_is_seen(change):
    case = CASES["dr_grpo, penalty k3"]
    assert gap(case, case.recipe) < TOLERANCE
    assert gap(replace(case, trainer=case.trainer | change), case.recipe) > 1e-5


# -- accumulation of micro-batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grpo, penalty k3", "dr_grpo, penalty k3", "dapo, penalty k3", "cispo", "gspo"])
@pytest.mark.parametrize("num_parts", [2, 4])
def test_trl_in_micro_batches_agrees_with_the_whole_where_it_divides_by_what_is_common(name, num_parts):
    """grpo and dr_grpo divide by rows, of which every micro-batch has as many, and by
    ``current_gradient_accumulation_steps``; dapo and cispo by ``num_items_in_batch``, counted over all of them."""
    assert gap(CASES[name], CASES[name].recipe, num_parts=num_parts) < TOLERANCE


def test_trls_bnpo_in_micro_batches_is_a_mean_of_means_and_ours_is_not():
    """On purpose (pitfall 2): TRL's bnpo divides by the tokens of the micro-batch at hand, then by the number of
    micro-batches, so that a token next to short neighbours counts for more. ``token_mean`` counts over the whole
    mini-batch before it is split: with several micro-batches it is TRL's dapo, not its bnpo."""
    case = CASES["bnpo"]
    assert gap(case, case.recipe) < TOLERANCE
    assert gap(case, case.recipe, num_parts=2) > 1e-3


# -- where we differ on purpose -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [1.21, 1.5, 3.0])
def test_dual_clip_is_trls_delta_above_the_clip_range(bound):
    """TRL bounds the ratio by ``delta`` before it takes the minimum, for either sign of the advantage. With A > 0 the
    tighter bound 1 + high acts anyway; with A < 0 that is our max(..., dual A)."""
    case = CASES["grpo, dual clip at 1.5"]
    recipe = case.recipe.patch(surrogate=ClippedRatio(dual=bound))
    assert gap(replace(case, config={"delta": bound}), recipe) < TOLERANCE


def test_dual_clip_inside_the_clip_range_differs():
    """For delta < 1 + high and A < 0, TRL's bounded ratio falls below the clipped one, and the minimum takes the
    latter: the value stops at (1 + high) A. Ours stops at dual A, as equation 5 of arXiv 1912.09729 has it. Both are
    flat there, so a bound inside the clip range is of no use in either."""
    case = CASES["grpo, dual clip at 1.5"]
    recipe = case.recipe.patch(surrogate=ClippedRatio(dual=1.1))
    assert gap(replace(case, config={"delta": 1.1}), recipe) > 1e-3


def test_cispo_bounds_the_ratio_itself_in_trl_and_its_distance_from_one_in_ours():
    """TRL: min(r, epsilon_high), no lower bound. Ours: clip(r, 1 - low, 1 + high) as in the paper's equation 5, with
    low = 1 for no lower bound. So epsilon_high = 5 there is high = 4 here, which is the default; a lower bound has no
    counterpart in TRL."""
    case = CASES["cispo"]
    assert case.recipe.surrogate == ClippedWeight(low=1.0, high=case.trainer["epsilon_high"] - 1)
    assert gap(case, case.recipe.patch(surrogate=ClippedWeight(low=1.0, high=5.0))) > 1e-3
    assert gap(case, case.recipe.patch(surrogate=ClippedWeight(low=0.2, high=4.0))) > 1e-3


def test_an_entropy_bonus_is_aggregated_like_everything_else():
    """TRL always takes the mean entropy over the tokens at hand, whatever the loss divides by. Ours goes through the
    recipe's aggregate, like any penalty; with ``token_mean`` the two are one."""
    case = CASES["bnpo, entropy bonus"]
    assert gap(case, case.recipe) < TOLERANCE
    by_row = replace(case, loss_type="grpo")
    recipe = case.recipe.patch(aggregate=sequence_mean)
    assert gap(by_row, recipe) > 1e-4
    without = replace(by_row, trainer={}), recipe.patch(regulariser=EntropyBonus(0.0))
    assert gap(*without) < TOLERANCE


def test_a_weighted_penalty_is_weighted_token_by_token_beside_a_sequence_ratio_too():
    """``use_bias_correction_kl`` multiplies by whatever ratio the surrogate uses, which for GSPO is the geometric mean
    of the row's. Only the token's own ratio makes k3 the KL of its state in expectation."""
    case = replace(CASES["gspo, penalty k3"], config={"use_bias_correction_kl": True}, moved=0.4)
    assert gap(case, case.recipe.patch(regulariser=K3(0.04, weighted=True))) > 1e-3


# -- advantages -----------------------------------------------------------------------------------------------------


def test_the_z_score_is_that_of_trl(trl):
    """TRL computes advantages in the middle of its generation step, so only its deviation can be called: ``nanstd``,
    which divides by G - 1, plus 1e-4. These are our defaults; verl adds 1e-6 instead."""
    from trl.trainer.utils import nanstd

    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.5], [0.25, 0.25, 0.75, 0.0]], dtype=torch.float64)
    batch = Batch(
        rollouts=(None,) * 8,
        mask_NT=torch.ones(8, 1, dtype=torch.bool),
        reward_N=rewards.flatten(),
        group_N=torch.arange(2).repeat_interleave(4),
        truncated_N=torch.zeros(8, dtype=torch.bool),
    )
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    expected = (centred / (nanstd(rewards, dim=1)[:, None] + 1e-4)).flatten()
    torch.testing.assert_close(GroupZScore()(batch)[:, 0], expected, rtol=0, atol=1e-6)  # nanstd rounds to float32
    assert (GroupZScore(eps=1e-6)(batch)[:, 0] - expected).abs().max() > 1e-5
    assert (GroupZScore(std="population")(batch)[:, 0] - expected).abs().max() > 1e-2
    torch.testing.assert_close(group_mean(batch)[:, 0], centred.flatten(), rtol=0, atol=1e-12)  # scale_rewards="none"
