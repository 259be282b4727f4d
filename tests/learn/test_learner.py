"""The learner, for every recipe: what may not matter does not, and what must stop the run stops it."""

from dataclasses import fields, replace

import pytest
import torch
from tiny import RECIPES, TOKENIZER, drawn, gradients, group, largest_gap, learner, policy, problems, random_groups

from upslope.algo.advantage import group_mean
from upslope.algo.aggregate import sequence_mean, sequence_sum
from upslope.algo.family import FAMILY, GRPO, REINFORCE, REINFORCE_BASELINE, RFT, SFT
from upslope.algo.objective import Objective
from upslope.algo.regulariser import no_penalty
from upslope.algo.reuse import Reuse
from upslope.algo.surrogate import ClippedRatio
from upslope.errors import NonFinite, UserError
from upslope.learn.prepare import passes, weigh
from upslope.rollout.address import Address
from upslope.types import Sampling

HERE = Address(0, "reuse")


def one_gradient(recipe, groups, **settings):
    """(gradient, loss) of one whole step, before any update."""
    subject = learner(recipe, **settings)
    minibatch = weigh(subject.prepare(groups), recipe)
    outcome = subject.gradient(Objective(recipe), minibatch)
    return gradients(subject), outcome.stats["loss"] + outcome.stats.get("value_loss", 0.0)


def kept(recipe, groups):
    keep = getattr(recipe.sample, "keep", None)
    return [g for g in map(keep, groups) if g is not None] if keep else groups


@pytest.mark.parametrize("name", FAMILY)
class TestEveryRecipe:
    def test_any_micro_batch_size_gives_the_same_gradient(self, name):
        """Pitfalls 1, 2, 3: means of means, scales by accumulation steps, weights by sample counts."""
        recipe = RECIPES[name]
        groups = kept(recipe, random_groups(4, 3))
        num = sum(len(g.rollouts) for g in groups)
        whole, loss = one_gradient(recipe, groups, micro_batch=num)
        assert max(float(g.abs().max()) for g in whole.values()) > 1e-3
        for size in (1, 2, 3, 5, num - 1):
            parts, parts_loss = one_gradient(recipe, groups, micro_batch=size)
            assert largest_gap(parts, whole) < 1e-10
            assert parts_loss == pytest.approx(loss, abs=1e-10)

    def test_the_order_of_problems_does_not_matter(self, name):
        recipe = RECIPES[name]
        groups = kept(recipe, random_groups(4, 3))
        assert largest_gap(one_gradient(recipe, groups)[0], one_gradient(recipe, groups[::-1])[0]) < 1e-10

    def test_padding_does_not_matter(self, name):
        """A much longer neighbour without weight widens every rectangle and changes nothing else."""
        recipe = RECIPES[name]
        groups = kept(recipe, random_groups(3, 3, longest=4))
        subject = learner(recipe)
        narrow = weigh(subject.prepare(groups), recipe)
        subject.gradient(Objective(recipe), narrow)
        expected = gradients(subject)
        pad = torch.nn.functional.pad
        rectangles = {f.name: getattr(narrow, f.name) for f in fields(narrow) if f.name.endswith("_NT")}
        marks = {slot: pad(mark_NT, (0, 50)) for slot, mark_NT in narrow.marks.items()}
        wide = replace(narrow, marks=marks, **{n: pad(v, (0, 50)) for n, v in rectangles.items() if v is not None})
        subject.gradient(Objective(recipe), wide)
        assert largest_gap(gradients(subject), expected) < 1e-12

    def test_float32_agrees_with_float64(self, name):
        recipe = RECIPES[name]
        groups = kept(recipe, random_groups(3, 3))
        exact, _ = one_gradient(recipe, groups)
        single, _ = one_gradient(recipe, groups, dtype=torch.float32)
        scale = max(float(g.abs().max()) for g in exact.values())
        assert largest_gap({n: g.double() for n, g in single.items()}, exact) < 1e-4 * scale

    def test_bfloat16_points_the_same_way(self, name):
        """bf16 keeps 8 bits, so single entries are off by per cents; the direction is not."""
        recipe = RECIPES[name]
        groups = kept(recipe, random_groups(4, 3))
        exact, _ = one_gradient(recipe, groups)
        low, _ = one_gradient(recipe, groups, of=policy(dtype=torch.float32), dtype=torch.bfloat16)
        assert all(g.dtype == torch.float32 for g in low.values())
        a = torch.cat([exact[n].flatten() for n in exact])
        b = torch.cat([low[n].double().flatten() for n in exact])
        assert torch.cosine_similarity(a, b, dim=0) > 0.99

    def test_skipping_zero_gradient_rows_is_exact(self, name, monkeypatch):
        recipe = RECIPES[name]
        groups = kept(recipe, random_groups(4, 3))
        skipped, loss = one_gradient(recipe, groups)
        monkeypatch.setattr(Objective, "without_gradient", lambda _, b: [False] * b.num_rollouts)
        full, full_loss = one_gradient(recipe, groups)
        assert largest_gap(skipped, full) < 1e-12
        assert loss == pytest.approx(full_loss, abs=1e-12)


# -- a special case equals its parent -------------------------------------------------------------------------------


def test_grpo_without_clip_and_with_the_parents_units_is_reinforce_with_baseline():
    groups = random_groups()
    child = GRPO.patch(
        advantage=group_mean,
        aggregate=sequence_sum,
        surrogate=ClippedRatio(low=1.0, high=1e9),
        regulariser=no_penalty,
    )
    assert largest_gap(one_gradient(child, groups)[0], one_gradient(REINFORCE_BASELINE, groups)[0]) < 1e-12


def test_rft_is_reinforce_with_its_zeros_dropped_up_to_the_share_kept():
    """Both sum R_n log pi over the same rollouts; REINFORCE divides by N, RFT by the number kept."""
    groups = random_groups(4, 4)
    num_kept = sum(r.reward > 0 for g in groups for r in g.rollouts)
    reinforce, _ = one_gradient(REINFORCE, groups)
    rft, _ = one_gradient(RFT, kept(RFT, groups))
    scaled = {n: g * num_kept / 16 for n, g in rft.items()}
    assert largest_gap(reinforce, scaled) < 1e-12


def test_sft_is_reinforce_with_reward_one_in_units_of_tokens():
    groups = [group("p", [3, 4], [[5, 6, 7]], [1.0]), group("q", [8], [[9]], [1.0])]
    sft, loss = one_gradient(SFT, groups)
    reinforce, _ = one_gradient(REINFORCE, groups)  # divides by 2 rollouts, SFT by 4 tokens
    assert largest_gap(sft, {n: g * 2 / 4 for n, g in reinforce.items()}) < 1e-12
    flat = [g.rollouts[0] for g in groups]
    logp_NT, _ = policy().score(flat, Sampling(), 3)
    assert loss == pytest.approx(-logp_NT.sum().item() / 4)


def test_sequence_mean_makes_a_long_answer_cheap_and_the_default_does_not():
    """Pitfall 4: the same wrong answer said four times over is pushed down less per token under sequence_mean."""
    groups = [group("p", [3], [[5], [6, 7, 8, 9]], [0.0, 1.0])]
    for recipe, ratio in ((REINFORCE_BASELINE.patch(aggregate=sequence_mean), 4), (REINFORCE_BASELINE, 1)):
        subject = learner(recipe)
        (b,) = passes(subject.prepare(groups), recipe, HERE)
        assert float(b.weight_NT[0, 0] / b.weight_NT[1, 0]) == pytest.approx(ratio)


# -- old log-probabilities ------------------------------------------------------------------------------------------


def count_forwards(subject, monkeypatch):
    """Passes of the trunk, whoever calls it."""
    calls = []
    trunk = subject.policy.model.model
    forward = trunk.forward
    monkeypatch.setattr(trunk, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    return calls


def test_on_policy_no_second_forward_pass(monkeypatch):
    recipe = GRPO.patch(regulariser=no_penalty)
    subject = learner(recipe)
    calls = count_forwards(subject, monkeypatch)
    batch = subject.prepare(random_groups())
    assert not calls
    (minibatch,) = passes(batch, recipe, HERE)
    outcome = subject.gradient(Objective(recipe), minibatch)
    assert len(calls) == 1
    assert torch.equal(outcome.trace.ratio_NT, torch.ones_like(outcome.trace.ratio_NT))


def test_a_reused_batch_keeps_the_log_probs_from_before_its_first_update():
    """Pitfall 14: without them every pass would see a ratio of 1 and nothing would ever be clipped."""
    recipe = GRPO.patch(reuse=Reuse(epochs=4))
    subject = learner(recipe)
    batch = subject.prepare(random_groups())
    before = subject.policy.score(batch.rollouts, Sampling(), batch.mask_NT.shape[1])[0].detach()
    torch.testing.assert_close(batch.old_logp_NT, before, rtol=0, atol=1e-12)
    outcomes = [recipe.update(subject, Objective(recipe), m) for m in passes(batch, recipe, HERE)]
    ratios = [o.trace.ratio_NT for o in outcomes]
    torch.testing.assert_close(ratios[0], torch.ones_like(ratios[0]), rtol=0, atol=1e-12)
    assert (ratios[3] - 1).abs().max() > 0.05
    assert any((o.trace.clipped_low_NT | o.trace.clipped_high_NT).any() for o in outcomes[1:])


def test_mini_batches_cover_every_problem_once_an_epoch_and_keep_it_whole():
    recipe = GRPO.patch(reuse=Reuse(epochs=2, minibatches=3))
    parts = list(passes(learner(recipe).prepare(random_groups(7, 3)), recipe, HERE))
    assert len(parts) == 6
    for epoch in (parts[:3], parts[3:]):
        ids = [tuple(r.problem_id for r in p.rollouts) for p in epoch]
        assert sorted(i for part in ids for i in part) == sorted(f"toy/{i}" for i in range(7) for _ in range(3))
        assert all(part.count(problem) == 3 for part in ids for problem in part)
    assert [r.problem_id for r in parts[0].rollouts] != [r.problem_id for r in parts[3].rollouts]


def test_weights_of_a_mini_batch_add_up_to_its_own_mean():
    recipe = GRPO.patch(reuse=Reuse(minibatches=2))
    for part in passes(learner(recipe).prepare(random_groups(4, 3)), recipe, HERE):
        assert float(part.weight_NT.sum()) == pytest.approx(1)


# -- what stops a run -----------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_token():
    """Pitfall 24."""
    subject = learner(REINFORCE)
    with torch.no_grad():
        subject.policy.model.model.embed_tokens.weight[7] = torch.nan
    before = {n: m.detach().clone() for n, m in subject.optimizer.masters.items()}
    (minibatch,) = passes(subject.prepare([group("p/1", [3], [[5, 6], [7, 8, 9]], [1.0, 1.0])]), REINFORCE, HERE)
    with pytest.raises(NonFinite, match=r"token \d of sample \d of problem p/1 has log-probability nan"):
        REINFORCE.update(subject, Objective(REINFORCE), minibatch)
    for name, master in subject.optimizer.masters.items():
        assert torch.equal(master.nan_to_num(), before[name].nan_to_num())


def test_a_gradient_that_is_not_finite_stops_before_the_update_and_names_the_parameter():
    subject = learner(REINFORCE)
    (minibatch,) = passes(subject.prepare(random_groups()), REINFORCE, HERE)
    subject.gradient(Objective(REINFORCE), minibatch)
    name, master = list(subject.optimizer.masters.items())[3]
    master.grad[0, 0] = torch.inf
    before = {n: m.detach().clone() for n, m in subject.optimizer.masters.items()}
    with pytest.raises(NonFinite, match=name.replace(".", r"\.") + " is not finite in 1 of "):
        subject.step()
    assert all(torch.equal(m, before[n]) for n, m in subject.optimizer.masters.items())


@pytest.mark.parametrize("sampling", [Sampling(top_k=5), Sampling(top_p=0.9), Sampling(temperature=0)])
def test_sampling_that_cannot_be_scored_is_refused_in_training(sampling):
    """Pitfall 9: top-k and top-p are not silently ignored."""
    with pytest.raises(UserError, match="cannot be scored exactly"):
        learner(REINFORCE, sampling=sampling)
    learner(SFT, sampling=sampling)  # imitation samples nothing


def test_demonstrations_are_scored_at_temperature_one_whatever_sampling_says():
    assert learner(SFT, sampling=Sampling(0.5)).scorer.sampling == Sampling()
    assert learner(REINFORCE, sampling=Sampling(0.5)).scorer.sampling == Sampling(0.5)


def test_a_step_with_nothing_to_learn_from_is_no_error():
    """No rows, no update: Adam's momentum would otherwise move the weights, and only without mini-batches."""
    subject = learner(RFT)
    for minibatches in (1, 4):
        recipe = RFT.patch(reuse=Reuse(minibatches=minibatches))
        assert list(passes(subject.prepare([]), recipe, HERE)) == []


def test_groups_with_equal_rewards_are_not_scored():
    subject = learner(REINFORCE_BASELINE)
    groups = [group("p", [3], [[5], [6]], [1.0, 0.0]), group("q", [4], [[5], [6]], [1.0, 1.0])]
    (b,) = passes(subject.prepare(groups), REINFORCE_BASELINE, HERE)
    assert Objective(REINFORCE_BASELINE).without_gradient(b) == [False, False, True, True]


def test_the_whole_step_on_sampled_attempts_raises_what_was_rewarded():
    """One step of the real thing: attempts from the sampler; those with reward 1 become more likely, the rest less."""
    subject = learner(REINFORCE_BASELINE, sampling=Sampling(max_tokens=8))
    asked = problems(4)
    attempts = drawn(subject.policy, asked, 6, subject.scorer.sampling, Address(0, "sample"))
    logps = [[r.logp for r in rollouts] for rollouts in attempts]
    groups = [
        group(p.id, rollouts[0].prompt, [r.response for r in rollouts], [1.0, 0, 0, 1.0, 0, 0], logp)
        for p, rollouts, logp in zip(asked, attempts, logps, strict=True)
    ]
    batch = subject.prepare(groups)
    assert len(TOKENIZER) == subject.policy.vocabulary
    before = subject.policy.score(batch.rollouts, subject.scorer.sampling, 8)[0].detach().sum(1)
    for minibatch in passes(batch, REINFORCE_BASELINE, HERE):
        REINFORCE_BASELINE.update(subject, Objective(REINFORCE_BASELINE), minibatch)
    after = subject.policy.score(batch.rollouts, subject.scorer.sampling, 8)[0].detach().sum(1)
    gain = (after - before) * batch.advantage_NT[:, 0]
    assert gain.sum() > 0


def test_an_update_that_overflows_the_weights_stops_the_run():
    subject = learner(REINFORCE, lr=1e308)
    (minibatch,) = passes(subject.prepare(random_groups()), REINFORCE, HERE)
    subject.gradient(Objective(REINFORCE), minibatch)
    with torch.no_grad():
        subject.optimizer.masters["model.norm.weight"].fill_(-1.7e308)
    with pytest.raises(NonFinite, match=r"left .* not finite"):
        subject.step()


def test_a_reused_batch_of_which_nothing_was_kept_is_no_error():
    recipe = RFT.patch(surrogate=ClippedRatio(), reuse=Reuse(epochs=2))
    assert list(passes(learner(recipe).prepare([]), recipe, HERE)) == []


# -- mini-batches of unequal size -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(("num_groups", "minibatches"), [(5, 4), (7, 3), (4, 4), (8, 4), (2, 4), (3, 1)])
def test_every_group_counts_the_same_whichever_minibatch_it_falls_into(name, num_groups, minibatches):
    """5 groups in 4 parts are 2 + 1 + 1 + 1. A full mean each would weigh the two of the first half as much as the
    others. All attempts have 2 tokens and groups 3 attempts, so under every aggregate the groups' sums of weights are
    to be equal; so are the critic's. The parts' sizes add up to P, so the mean factor over parts is 1."""
    recipe = RECIPES[name].patch(reuse=Reuse(epochs=2, minibatches=minibatches))
    groups = [group(f"p/{i}", [3], [[5, 6], [7, 8], [5, 9]], [1.0, 0.0, 0.0]) for i in range(num_groups)]
    batch = learner(recipe).prepare(groups)
    made = list(passes(batch, recipe, HERE))
    parts = min(num_groups, minibatches)
    assert len(made) == 2 * parts
    sums = [dict.fromkeys(range(num_groups), 0.0) for _ in range(2)]
    critics = [dict(s) for s in sums]
    for i, minibatch in enumerate(made):
        alone = weigh(minibatch, recipe)
        share = len(set(minibatch.group_N.tolist())) * parts / num_groups
        torch.testing.assert_close(minibatch.weight_NT, share * alone.weight_NT, rtol=1e-15, atol=0)
        if num_groups % parts == 0:
            assert torch.equal(minibatch.weight_NT, alone.weight_NT)
        for row, g in enumerate(minibatch.group_N.tolist()):
            sums[i // parts][g] += float(minibatch.weight_NT[row, 0])
            if recipe.has_critic:
                critics[i // parts][g] += float(minibatch.value_weight_NT[row, 0])
    for found in [*sums, *(critics if recipe.has_critic else [])]:
        assert list(found.values()) == pytest.approx([found[0]] * num_groups, rel=1e-12)
