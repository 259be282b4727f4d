"""The patches of 2025 and 2026, each against its paper: small numbers by hand, limits, and the whole way through a
learner, whose micro-batches may not matter."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import gradients, group, largest_gap, learner, random_groups, scored

from upslope.algo.aggregate import prompt_mean
from upslope.algo.check import check, complaints
from upslope.algo.choosing_tokens import CovarianceClip, CovariancePenalty, TopEntropy, covariance
from upslope.algo.family import DISTILL, FAMILY, GRPO, GSPO, IMPORTANCE, M2PO, REINFORCE_BASELINE
from upslope.algo.more_advantages import BatchScale, DecoupledZScore, success_rate, teacher_gap
from upslope.algo.objective import Objective
from upslope.algo.off_policy import BinaryDivergence, OffPolicyMask, SecondMoment
from upslope.algo.outcome import Scored
from upslope.algo.sample import Attempts
from upslope.algo.slots import CONTRACTS
from upslope.algo.soft_surrogate import GeometricMean, SoftGate
from upslope.algo.surrogate import ImportanceRatio, SequenceRatio
from upslope.errors import UserError
from upslope.learn.prepare import to_batch, weigh
from upslope.types import Score

F64 = torch.float64


def tensor(rows):
    return torch.tensor(rows, dtype=F64)


def two_rows(advantages, ratios, base=0.1):
    """(logp with gradient, batch): rows of three and two tokens; both old and sampler's probabilities are ``base``."""
    b = to_batch([group("p", [1], [[5, 6, 7], [8, 9]], [1.0, 0.0])], torch.device("cpu"), F64)
    start_NT = torch.full((2, 3), math.log(base), dtype=F64)
    advantage_NT = torch.where(b.mask_NT, tensor(advantages)[:, None], 0)
    b = replace(b, advantage_NT=advantage_NT, old_logp_NT=start_NT, sampler_logp_NT=start_NT)
    return (start_NT + tensor(ratios).log()).requires_grad_(), b


def value_and_slope(surrogate, logp_NT, b):
    value_NT = surrogate(scored(logp_NT), b)
    (slope_NT,) = torch.autograd.grad((value_NT * b.mask_NT).sum(), logp_NT)
    return value_NT.detach(), slope_NT


def close(got, expected):
    torch.testing.assert_close(got, tensor(expected), rtol=0, atol=1e-12)


# -- DPPO -----------------------------------------------------------------------------------------------------------


def test_dppo_masks_by_the_change_of_probability_and_not_by_the_ratio():
    """mu = 0.1, delta = 0.15. Row one, A = 1: pi = 0.2 (+0.1: kept), 0.3 (+0.2: masked), 0.05 (fell: kept). Row two,
    A = -1: 0.05 (-0.05: kept), 0.01 (kept)."""
    logp_NT, b = two_rows([1.0, -1.0], [[2, 3, 0.5], [0.5, 0.1, 1]])
    value_NT, slope_NT = value_and_slope(BinaryDivergence(0.15), logp_NT, b)
    close(value_NT[0], [2, 0, 0.5])
    close(slope_NT, [[2, 0, 0.5], [-0.5, -0.1, 0]])
    low_NT, high_NT = BinaryDivergence(0.15).clipped(logp_NT, b)
    assert high_NT.tolist() == [[False, True, False], [False] * 3] and not low_NT[:, :2].any()
    logp_NT, b = two_rows([-1.0, 1.0], [[0.1, 0.9, 3], [1, 1, 1]], base=0.5)
    assert BinaryDivergence(0.15).clipped(logp_NT, b)[0].tolist()[0] == [True, False, False]  # 0.05 - 0.5 = -0.45


def test_dppo_that_masks_nothing_is_the_importance_ratio():
    logp_NT, b = two_rows([1.0, -1.0], [[2, 3, 0.5], [0.5, 0.1, 1]])
    for one, other in zip(
        value_and_slope(BinaryDivergence(1.0), logp_NT, b), value_and_slope(ImportanceRatio(), logp_NT, b), strict=True
    ):
        torch.testing.assert_close(one[b.mask_NT], other[b.mask_NT], rtol=0, atol=0)


# -- SAPO -----------------------------------------------------------------------------------------------------------


def test_sapo_by_hand_and_its_gradient_where_nothing_has_moved():
    """At r = 1 the gate's slope is (4 / tau) tau / 4 = 1, so the gradient is A. At r = 3, tau = 1, A = 2: value
    8 sigmoid(2) = 7.0464, slope 8 s (1 - s) r with s = 0.8808: 8 * 0.10499 * 3 = 2.5199, where r A would have 6."""
    logp_NT, b = two_rows([2.0, -1.0], [[1, 3, 1], [1, 3, 1]])
    value_NT, slope_NT = value_and_slope(SoftGate(1.0, 1.05), logp_NT, b)
    s = 1 / (1 + math.exp(-2))
    assert slope_NT[0, 0].item() == pytest.approx(2.0) and slope_NT[1, 0].item() == pytest.approx(-1.0)
    assert value_NT[0, 1].item() == pytest.approx(8 * s) == pytest.approx(7.0464, abs=1e-4)
    assert slope_NT[0, 1].item() == pytest.approx(8 * s * (1 - s) * 3)
    s = 1 / (1 + math.exp(-1.05 * 2))
    assert value_NT[1, 1].item() == pytest.approx(-4 / 1.05 * s)


# -- GMPO -----------------------------------------------------------------------------------------------------------


def test_gmpo_clips_every_token_before_the_geometric_mean():
    """Row one, A = 1, log r = (1, -1, 0.2): (min(1, 0.4) - 1 + 0.2) / 3 = -0.4 / 3. Row two, A = -1, log r = (-2, 0.5):
    (max(-2, -0.4) + 0.5) / 2 = 0.05. A token that was clipped has no part in the gradient; the rest have s A / T."""
    logp_NT, b = two_rows([1.0, -1.0], [[math.e, 1 / math.e, math.exp(0.2)], [math.exp(-2), math.exp(0.5), 1]])
    value_NT, slope_NT = value_and_slope(GeometricMean(), logp_NT, b)
    one, two = math.exp(-0.4 / 3), -math.exp(0.05)
    close(value_NT[0], [one] * 3)
    close(value_NT[1, :2], [two] * 2)
    close(slope_NT, [[0, one, one], [0, two, 0]])
    low_NT, high_NT = GeometricMean().clipped(logp_NT, b)
    assert high_NT[0].tolist() == [True, False, False] and low_NT[1, :2].tolist() == [True, False]


def test_gmpo_without_a_clip_is_gspo_without_one():
    logp_NT, b = two_rows([1.0, -1.0], [[2, 0.5, 4], [0.5, 0.125, 1]])
    wide = value_and_slope(GeometricMean(1e9), logp_NT, b), value_and_slope(SequenceRatio(1.0, 1e9), logp_NT, b)
    for one, other in zip(*wide, strict=True):
        torch.testing.assert_close(one[b.mask_NT], other[b.mask_NT], rtol=0, atol=1e-12)


# -- masks over attempts and updates --------------------------------------------------------------------------------


def test_the_off_policy_mask_drops_wrong_attempts_that_are_far_away_and_no_others():
    """mean log(mu / pi): row one -log(8)/3 < 0; row two (log 4 + log 2) / 2 = 1.04 > 0.5 with A < 0: dropped."""
    logp_NT, b = two_rows([1.0, -1.0], [[2, 2, 2], [0.25, 0.5, 77]])
    factor_NT = OffPolicyMask(0.5)(scored(logp_NT), b)
    assert factor_NT[:, :2].tolist() == [[1, 1], [0, 0]] and not factor_NT.requires_grad
    assert OffPolicyMask(1.1)(scored(logp_NT), b).all()
    good = replace(b, advantage_NT=b.advantage_NT.abs())
    assert OffPolicyMask(0.5)(scored(logp_NT), good).all()


def test_the_second_moment_of_what_moves_away_is_brought_to_tau_by_the_fewest_tokens():
    """Row one, A = 1: log r = 0.1, 0.4 move away, -0.9 comes back. Row two, A = -1: -0.2, -0.5 move away. Their
    (log r)^2 are 0.01, 0.16, 0.04, 0.25. The mean of the least three is 0.07, of the least two 0.025: with tau = 0.04
    two tokens go, and what comes back stays, however far it is."""
    _, b = two_rows([1.0, -1.0], [[1, 1, 1], [1, 1, 1]])
    moved_NT = tensor([[0.1, 0.4, -0.9], [-0.2, -0.5, 77]])
    b = replace(b, present_logp_NT=b.sampler_logp_NT + moved_NT)
    chosen = b.mask_NT

    def kept(tau):
        return SecondMoment(tau).over_update(b)[chosen].tolist()

    assert kept(0.04) == [1, 0, 1, 1, 0]
    assert kept(0.08) == [1, 1, 1, 1, 0]
    assert kept(math.inf) == [1, 1, 1, 1, 1]
    assert kept(0.0) == [0, 0, 1, 0, 0]


def test_a_token_beyond_the_second_moment_has_no_gradient_and_the_others_that_of_their_ratio():
    logp_NT, b = two_rows([1.0, -1.0], [[1.1, 3.0, 0.2], [0.9, 0.3, 77]])
    b = replace(b, present_logp_NT=logp_NT.detach())
    slot = SecondMoment(0.04)
    b = replace(b, marks={"surrogate": slot.over_update(b)})
    value_NT, slope_NT = value_and_slope(slot, logp_NT, b)
    torch.testing.assert_close(slope_NT[b.mask_NT], tensor([1.1, 0.0, 0.2, -0.9, 0.0]), rtol=0, atol=1e-12)
    torch.testing.assert_close(value_NT[b.mask_NT], slope_NT[b.mask_NT], rtol=0, atol=1e-12)
    low_NT, high_NT = slot.clipped(logp_NT, b)
    assert (low_NT[b.mask_NT].tolist(), high_NT[b.mask_NT].tolist()) == (
        [False, False, False, False, True],
        [False, True, False, False, False],
    )


def test_the_top_fifth_by_entropy():
    _, b = two_rows([1.0, -1.0], [[1, 1, 1], [1, 1, 1]])
    b = replace(b, old_entropy_NT=tensor([[0.1, 2.0, 0.3], [1.0, 0.2, 99]]))
    assert TopEntropy(0.2).over_update(b).tolist() == [[0, 1, 0], [0, 0, 0]]
    assert TopEntropy(0.4).over_update(b).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert TopEntropy(1.0).over_update(b).tolist() == b.mask_NT.double().tolist()
    last_place = 1.0 + 2**-40  # copies of one state, of which a processor makes one larger: the first is taken
    b = replace(b, old_entropy_NT=tensor([[0.1, 1.0, 0.3], [last_place, 0.2, 99]]))
    assert TopEntropy(0.2).over_update(b).tolist() == [[0, 1, 0], [0, 0, 0]]
    b = replace(b, old_entropy_NT=tensor([[0.1, 1.0, 0.3], [1.0 + 2**-12, 0.2, 99]]))
    assert TopEntropy(0.2).over_update(b).tolist() == [[0, 0, 0], [1, 0, 0]]


def test_covariance_by_hand():
    """log pi = -1, -2, -3, -1, -3 (mean -2), A = 1, 1, 1, -2, -1 (mean 0)."""
    _, b = two_rows([1.0, -1.0], [[1, 1, 1], [1, 1, 1]])
    b = replace(b, old_logp_NT=tensor([[-1, -2, -3], [-1, -3, -9]]), advantage_NT=tensor([[1, 1, 1], [-2, -1, 0]]))
    close(covariance(b), [[1, 0, -1], [-2, 1, 0]])
    assert CovariancePenalty(1.0, share=0.2).over_update(b).tolist() == [[1, 0, 0], [0, 0, 0]]
    dropped = CovarianceClip(share=0.2, low=0.5, high=5.0).over_update(b)
    assert float((1 - dropped).sum()) == 1 and dropped[0, 0] + dropped[1, 1] == 1  # one of the two in the band
    least = CovarianceClip(share=0.0002, low=0.5, high=5.0).over_update(b)
    assert float((1 - least).sum()) == 1  # 0.0002 of 5 tokens would be none: at least one
    assert bool((CovarianceClip(share=0.2, low=7.0, high=8.0).over_update(b) == 1).all())  # nobody in the band
    again = CovarianceClip(share=0.2, low=0.5, high=5.0).over_update(b.take([1, 0]))
    assert torch.equal(again, dropped[[1, 0]])  # which one does not depend on the order


def test_the_covariance_penalty_is_a_kl_on_the_marked_tokens():
    """r - 1 - log r at r = 2: 1 - 0.6931; nothing where the policy has not moved, nor its gradient."""
    logp_NT, b = two_rows([1.0, -1.0], [[2, 1, 2], [2, 1, 1]])
    b = replace(b, marks={"regulariser": tensor([[1, 1, 0], [0, 0, 0]])})
    cost_NT = CovariancePenalty(3.0)(scored(logp_NT), b)
    close(cost_NT.detach(), [[3 * (1 - math.log(2)), 0, 0], [0, 0, 0]])
    (slope_NT,) = torch.autograd.grad(cost_NT.sum(), logp_NT)
    close(slope_NT, [[3.0, 0, 0], [0, 0, 0]])  # r - 1


# -- advantages -----------------------------------------------------------------------------------------------------


def judged(advantage, groups):
    return advantage(to_batch(groups, torch.device("cpu"), F64))[:, 0].tolist()


def test_maxrl_divides_by_the_success_rate():
    """One of four right: (1 - 1/4) / (1/4) = 3 and -1. All right: 0. None right: 0, and nothing is divided by 0."""
    groups = [
        group("a", [1], [[2]] * 4, [1.0, 0, 0, 0]),
        group("b", [1], [[2]] * 4, [1.0] * 4),
        group("c", [1], [[2]] * 4, [0.0] * 4),
    ]
    assert judged(success_rate, groups) == pytest.approx([3, -1, -1, -1] + [0] * 8)


def test_the_batch_has_one_scale():
    """Centred: 1/2, -1/2, and 1/4, -1/4: mean square (1/4 + 1/4 + 1/16 + 1/16) / 4 = 5/32."""
    groups = [group("a", [1], [[2], [3]], [1.0, 0.0]), group("b", [1], [[2], [3]], [0.5, 0.0])]
    scale = (5 / 32) ** 0.5
    assert judged(BatchScale(0.0), groups) == pytest.approx([0.5 / scale, -0.5 / scale, 0.25 / scale, -0.25 / scale])
    assert judged(BatchScale(), [group("a", [1], [[2], [3]], [1.0, 1.0])]) == [0, 0]


def with_parts(name, *parts):
    made = group(name, [1], [[2]] * len(parts), [sum(p.values()) for p in parts])
    return replace(
        made,
        rollouts=tuple(replace(r, score=Score(r.reward, parts=p)) for r, p in zip(made.rollouts, parts, strict=True)),
    )


def test_gdpo_tells_apart_what_a_sum_confuses():
    """Correct and format: (1, 0), (0, 1), (1, 1), (0, 0). Each has mean 1/2 and deviation 1/2, so z = +-1 and the sums
    are 0, 0, 2, -2; over the batch mean 0, deviation sqrt(2). A reward that never differs has no voice."""
    rows = [{"correct": a, "format": b} for a, b in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.0))]
    assert judged(DecoupledZScore(eps=0.0), [with_parts("a", *rows)]) == pytest.approx([0, 0, 2**0.5, -(2**0.5)])
    heavy = judged(DecoupledZScore((3.0, 1.0), eps=0.0), [with_parts("a", *rows)])
    assert heavy == pytest.approx([x / 10**0.5 for x in (2, -2, 4, -4)])  # 3 - 1, 1 - 3, ...; mean square (4+4+16+16)/4
    rare = [{"correct": 1.0, "format": 1.0}, {"correct": 0.0, "format": 1.0}]
    assert judged(DecoupledZScore(eps=0.0), [with_parts("a", *rare)]) == pytest.approx([1, -1])


def test_gdpo_wants_several_rewards():
    with pytest.raises(UserError, match="this task gives none; give several with --reward"):
        judged(DecoupledZScore(), [group("a", [1], [[2], [3]], [1.0, 0.0])])
    rows = [{"correct": 1.0, "format": 0.0}, {"correct": 0.0, "format": 1.0}]
    with pytest.raises(UserError, match="weights are 3, and the task has 2 rewards"):
        judged(DecoupledZScore((1.0, 1.0, 1.0)), [with_parts("a", *rows)])


def test_the_teachers_gap_is_a_token_s_own():
    _, b = two_rows([0.0, 0.0], [[1, 1, 1], [1, 1, 1]])
    b = replace(b, reference_logp_NT=b.old_logp_NT + tensor([[1, -2, 3], [4, 5, 77]]))
    close(teacher_gap(b), [[1, -2, 3], [4, 5, 0]])


def test_every_prompt_counts_the_same():
    """Two problems, 3 + 1 and 2 + 2 + 4 tokens: 1/(2 * 4) and 1/(2 * 8) a token."""
    groups = [group("a", [1], [[2] * 3, [3]], [1, 0]), group("b", [1], [[2] * 2, [3] * 2, [4] * 4], [1, 0, 0])]
    b = to_batch(groups, torch.device("cpu"), F64)
    weight_NT = prompt_mean(b)
    assert weight_NT[:, 0].tolist() == pytest.approx([1 / 8, 1 / 8, 1 / 16, 1 / 16, 1 / 16])
    assert float(weight_NT[:2].sum()) == pytest.approx(0.5) == float(weight_NT[2:].sum())


# -- through a learner ----------------------------------------------------------------------------------------------

NEW = [
    "maxrl",
    "distill",
    "sapo",
    "gmpo",
    "dppo",
    "m2po",
    "deepseek-v3.2",
    "top-entropy",
    "clip-cov",
    "kl-cov",
    "scalerl",
]


@pytest.mark.parametrize("name", NEW)
def test_where_nothing_has_moved_the_gradient_is_the_parents_or_says_why_not(name):
    """At pi = pi_old = mu, with one aggregate, every new surrogate has the gradient of r A."""
    recipe = FAMILY[name].recipe
    if recipe.advantage is teacher_gap or isinstance(recipe.correction, (TopEntropy, CovarianceClip)):
        pytest.skip("it leaves tokens out, or reads no reward")
    keep = recipe.sample.keep
    groups = [g for g in map(keep, random_groups(4, 3)) if g is not None]
    plain = recipe.patch(surrogate=IMPORTANCE.surrogate, correction=REINFORCE_BASELINE.correction)
    found = []
    for one in (recipe, plain):
        subject = learner(one.patch(regulariser=REINFORCE_BASELINE.regulariser))
        batch = subject.prepare(groups)
        with torch.no_grad():
            logp_NT = subject.score(batch).logp_NT
        same = dict.fromkeys(("sampler_logp_NT", "old_logp_NT"), logp_NT)
        subject.gradient(subject.objective, weigh(replace(batch, **same), one))
        found.append(gradients(subject))
    assert largest_gap(*found) < 1e-10


@pytest.mark.parametrize(
    "slot", [TopEntropy(0.3), CovarianceClip(0.3, -9, 9), SecondMoment(10.0), CovariancePenalty(1.0, 0.3)]
)
def test_what_is_seen_over_the_update_does_not_depend_on_micro_batches(slot):
    """A quantile of a micro-batch would be another one."""
    where = next(name for name in ("regulariser", "surrogate", "correction") if isinstance(slot, CONTRACTS[name]))
    recipe = GRPO.patch(regulariser=REINFORCE_BASELINE.regulariser, surrogate=ImportanceRatio()).patch(**{where: slot})
    found = []
    for size in (1, 2, 5, 12):
        subject = learner(recipe, micro_batch=size)
        batch = weigh(subject.prepare(random_groups(4, 3)), recipe)
        outcome = subject.gradient(subject.objective, batch)
        found.append(gradients(subject))
        marks_NT = outcome.minibatch.marks[where]
        assert 0 < int((marks_NT[outcome.minibatch.mask_NT] != 1).sum()) < int(outcome.minibatch.mask_NT.sum())
    assert all(largest_gap(found[0], other) < 1e-10 for other in found[1:])


def test_a_dropped_token_has_no_gradient_and_the_others_keep_theirs():
    recipe = M2PO.patch(surrogate=SecondMoment(2.0))
    subject = learner(recipe)
    batch = weigh(subject.prepare(random_groups(3, 3)), recipe)
    marked = subject.learner.marked(subject.objective, batch)
    scores = subject.score(marked)
    logp_NT = scores.logp_NT.detach().requires_grad_()
    losses, trace = Objective(recipe)(Scored(logp_NT, scores.entropy_NT.detach()), marked)
    (slope_NT,) = torch.autograd.grad(losses.policy, logp_NT)
    dropped_NT = marked.mask_NT & (marked.marks["surrogate"] == 0)
    assert dropped_NT.any() and torch.equal((trace.clipped_low_NT | trace.clipped_high_NT) & marked.mask_NT, dropped_NT)
    assert (slope_NT[dropped_NT] == 0).all()
    kept_NT = marked.mask_NT & ~dropped_NT & (marked.advantage_NT != 0)
    assert (slope_NT[kept_NT] != 0).all()


def test_distillation_moves_towards_the_teacher():
    subject = learner(DISTILL, lr=3e-2)
    gaps = []
    for _ in range(6):
        batch = subject.prepare(random_groups(4, 3))
        gaps.append(float((batch.reference_logp_NT - batch.old_logp_NT)[batch.mask_NT].mean()))
        DISTILL.update(subject, subject.objective, weigh(batch, DISTILL))
    assert gaps[0] != 0 and len(set(gaps)) == len(gaps)


# -- what does not go together --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (REINFORCE_BASELINE.patch(advantage=success_rate, sample=Attempts(group_size=1)), "compares the attempts"),
        (GSPO.patch(surrogate=GeometricMean(), advantage=teacher_gap), "has one ratio for all tokens"),
        (DISTILL.patch(shape=FAMILY["dapo"].recipe.shape), "never reads a reward"),
        (FAMILY["kl-cov"].recipe.patch(regulariser=CovariancePenalty(0.0)), "holds nothing"),
        (FAMILY["dppo"].recipe.patch(correction=FAMILY["grpo"].recipe.correction), None),
        (FAMILY["dppo"].recipe.patch(correction=OffPolicyMask()), None),
    ],
)
def test_combinations(recipe, told):
    found = list(complaints(recipe))
    assert (not found) if told is None else any(told in line for line in found)
    if told is None:
        check(recipe)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BinaryDivergence(0.0), lambda: OffPolicyMask(-1), lambda: SecondMoment(-1), lambda: SoftGate(0.0),
        lambda: GeometricMean(0.0), lambda: TopEntropy(0.0), lambda: CovariancePenalty(1.0, 0.0),
        lambda: CovarianceClip(0.1, 2.0, 1.0), lambda: BatchScale(-1.0),
    ],
)  # fmt: skip
def test_senseless_fields_are_refused(make):
    with pytest.raises(ValueError, match=r"must be|needs|is a"):
        make()


def test_maxrl_refuses_rewards_below_zero():
    b = to_batch([group("p", [1], [[5], [8]], [-1.0, 0.5])], torch.device("cpu"), F64)
    with pytest.raises(UserError, match="divides by the mean reward, and there is a reward of -1"):
        success_rate(b)


def test_a_dropped_token_whose_ratio_overflows_has_no_gradient():
    """mu = e^-95 and pi = e^-1: in float32 the ratio e^94 is infinite, and 0 times its gradient would be no number."""
    logp_NT = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    b = to_batch([group("p", [1], [[5, 6]], [1.0])], torch.device("cpu"), torch.float32)
    b = replace(b, sampler_logp_NT=torch.tensor([[-95.0, -1.1]]), advantage_NT=torch.ones(1, 2))
    BinaryDivergence(0.2)(scored(logp_NT), b).sum().backward()
    assert logp_NT.grad[0, 0] == 0 and float(logp_NT.grad[0, 1]) == pytest.approx(math.exp(0.1))
