"""Trust regions: curvature is that of the distributions themselves, and a step is measured before it is believed."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny import group, learner, model, policy, random_groups
from torch.func import functional_call

from upslope.algo.advantage import GAE
from upslope.algo.critic import OwnCopy
from upslope.algo.family import IMPORTANCE, RFT, TRPO
from upslope.algo.objective import Objective
from upslope.algo.regulariser import K3, ExactKL
from upslope.algo.update import KLBall
from upslope.learn.prepare import weigh
from upslope.learn.trust_region import MeasuredRegion, spaced
from upslope.model.adapter import add_adapter
from upslope.model.distribution import divergence
from upslope.model.policy import Policy
from upslope.types import Sampling

WHOLE = {"fisher_share": 1.0}
"""Curvature over all problems: a quarter of the three below would be a single one, and no picture of the rest."""
SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL |= {"num_key_value_heads": 1, "vocab_size": 13}


def small_policy(seed=0, dtype=torch.float64, **changes):
    return policy(seed, dtype, **SMALL | changes)


def small_groups(num=3, seed=0):
    """Responses over a vocabulary of 13, without the padding token: its embedding is zero, where a norm has a kink."""
    draw = torch.Generator().manual_seed(seed)

    def tokens(num):
        return torch.randint(1, 13, (num,), generator=draw).tolist()

    lengths = torch.randint(1, 5, (num, 2), generator=draw).tolist()
    return [group(f"toy/{i}", tokens(2 + i), [tokens(length) for length in lengths[i]], [1.0, 0.0]) for i in range(num)]


def stage(recipe=TRPO, *, of=None, groups=None, dtype=torch.float64, **settings):
    """(learner, mini-batch), the sampler's log-probs being the learner's own. The gradient is in the masters."""
    subject = learner(recipe, of=of or small_policy(dtype=dtype), dtype=dtype, **settings)
    batch = subject.prepare(small_groups() if groups is None else groups)
    if batch.num_rollouts:
        with torch.no_grad():
            batch = replace(batch, sampler_logp_NT=subject.score(batch).logp_NT)
    batch = weigh(batch, recipe)
    subject.gradient(Objective(recipe), batch)
    return subject, batch


def landscape(recipe=TRPO, **options):
    subject, batch = stage(recipe, **options)
    return subject, batch, MeasuredRegion(subject.scorer, subject.optimizer, Objective(recipe), batch)


def weights(subject):
    return {n: m.detach().clone() for n, m in subject.optimizer.masters.items()}


def same(a, b):
    return all(torch.equal(a[n], b[n]) for n in a)


def num_parameters(subject):
    return sum(m.numel() for m in subject.optimizer.masters.values())


def random_vector(subject, seed=0):
    masters = subject.optimizer.masters
    dtype = next(iter(masters.values())).dtype
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(num_parameters(subject), generator=draw, dtype=torch.float64).to(dtype)


def logp_of_states(subject, batch):
    """log pi over the whole vocabulary before every token of the responses, as a function of the masters: rollout by
    rollout, without padding or packing, with transformers' own attention."""
    twin = copy.deepcopy(subject.policy.model)
    twin.set_attn_implementation("sdpa")
    masters = dict(subject.optimizer.masters)
    rows = []
    for rollout in batch.rollouts:
        ids = torch.tensor([[*rollout.prompt, *rollout.response]])
        logits = functional_call(twin, masters, kwargs={"input_ids": ids, "use_cache": False}).logits[0]
        rows.append((logits / subject.scorer.sampling.temperature)[len(rollout.prompt) - 1 : -1])
    return torch.cat(rows).log_softmax(1)


def explicit_fisher(subject, batch):
    """mean over states of J^T (diag(p) - p p^T) J, the Jacobian row by row."""
    masters = list(subject.optimizer.masters.values())
    logp_SV = logp_of_states(subject, batch)
    num_states, num_tokens = logp_SV.shape
    fisher = torch.zeros(num_parameters(subject), num_parameters(subject), dtype=logp_SV.dtype)
    for s in range(num_states):
        rows = []
        for v in range(num_tokens):
            slopes = torch.autograd.grad(logp_SV[s, v], masters, retain_graph=True, allow_unused=True)
            filled = [torch.zeros_like(m) if g is None else g for m, g in zip(masters, slopes, strict=True)]
            rows.append(torch.cat([f.flatten() for f in filled]))
        # Of log-probabilities J_lp = (I - 1 p^T) J, so J^T (diag(p) - p p^T) J = J_lp^T diag(p) J_lp.
        jacobian, p = torch.stack(rows), logp_SV[s].detach().exp()
        fisher += jacobian.T @ (p[:, None] * jacobian) / num_states
    return fisher


# -- curvature ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tied", [False, True])
def test_the_product_is_that_with_the_explicit_fisher_matrix(temperature, tied):
    subject, batch, land = landscape(
        of=small_policy(tie_word_embeddings=tied), sampling=Sampling(temperature), groups=small_groups(2)
    )
    fisher = explicit_fisher(subject, batch)
    assert fisher.abs().max() > 0.01
    for seed in range(3):
        vector = random_vector(subject, seed)
        torch.testing.assert_close(land.fisher_product(vector), fisher @ vector, rtol=1e-9, atol=1e-10)


def test_the_product_is_the_second_derivative_of_the_measured_kl():
    """KL(origin || origin + h v) = h^2 v.Fv / 2 to second order; the odd terms cancel between h and -h."""
    subject, _, land = landscape()
    vector = random_vector(subject) / num_parameters(subject) ** 0.5
    expected = float(vector @ land.fisher_product(vector))
    kls = []
    for h in (1e-3, -1e-3):
        land.move(h * vector)
        kls.append(land.distance())
    land.move(0 * vector)
    assert sum(kls) / 1e-6 == pytest.approx(expected, rel=1e-3)


def test_float32_agrees():
    subject, _, land = landscape()
    single, _, single_land = landscape(dtype=torch.float32)
    vector = random_vector(subject)
    exact = land.fisher_product(vector)
    got = single_land.fisher_product(vector.float()).double()
    assert num_parameters(single) == num_parameters(subject)
    assert (got - exact).norm() < 1e-4 * exact.norm()


def test_every_trainable_parameter_has_its_part():
    """Pitfall 21: parameters missing from the natural gradient. A vector in one tensor alone has curvature, and the
    slope has every tensor's gradient where it belongs."""
    subject, _, land = landscape()
    masters = subject.optimizer.masters
    assert set(masters) == {n for n, p in subject.policy.model.named_parameters() if p.requires_grad}
    slope = land.slope()
    assert slope.shape == (num_parameters(subject),)
    start = 0
    for name, master in masters.items():
        own = slice(start, start + master.numel())
        start = own.stop
        assert torch.equal(slope[own], -master.grad.flatten()), name
        alone = torch.zeros_like(slope)
        alone[own] = random_vector(subject)[own]
        product = land.fisher_product(alone)
        assert float(alone @ product) > 1e-9, name
        assert product[own].abs().max() > 1e-9, name
    assert start == len(slope)


def test_the_product_is_linear_and_symmetric_and_never_negative():
    subject, _, land = landscape()
    a, b = random_vector(subject, 1), random_vector(subject, 2)
    fa, fb = land.fisher_product(a), land.fisher_product(b)
    torch.testing.assert_close(land.fisher_product(2 * a - 3 * b), 2 * fa - 3 * fb, rtol=1e-9, atol=1e-10)
    assert float(a @ fb) == pytest.approx(float(b @ fa), rel=1e-9)
    assert float(a @ fa) > 0
    assert not land.fisher_product(torch.zeros_like(a)).any()


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5])
def test_micro_batches_do_not_change_anything(micro_batch):
    subject, _, whole = landscape(micro_batch=6)
    _, _, parts = landscape(micro_batch=micro_batch)
    vector = random_vector(subject)
    torch.testing.assert_close(parts.fisher_product(vector), whole.fisher_product(vector), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(parts.slope(), whole.slope(), rtol=1e-10, atol=1e-12)
    step = vector * 1e-2
    for land in (whole, parts):
        land.move(step)
    assert parts.measure() == pytest.approx(whole.measure(), abs=1e-12)


def test_a_second_product_is_the_first(monkeypatch):
    """A micro-batch that stands alone keeps its graph; a move throws it away."""
    subject, _, land = landscape(micro_batch=6)
    calls = []
    say = subject.policy.say
    monkeypatch.setattr(subject.policy, "say", lambda *a, **k: calls.append(1) or say(*a, **k))
    vector = random_vector(subject)
    first = land.fisher_product(vector)
    assert torch.equal(land.fisher_product(vector), first)
    assert len(calls) == 1
    land.move(vector)
    land.move(0 * vector)
    assert torch.equal(land.fisher_product(vector), first)
    assert len(calls) == 2


# -- measuring ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kept", [True, False])
def test_standing_still_is_no_distance_and_moving_back_restores_every_bit(dtype, kept, monkeypatch):
    if not kept:
        monkeypatch.setattr("upslope.learn.trust_region.KEPT_BUDGET", 0)
    subject, _, land = landscape(dtype=dtype)
    before = weights(subject)
    loss, kl = land.measure()
    assert kl == 0
    vector = random_vector(subject)
    land.move(vector)
    moved = weights(subject)
    assert not any(torch.equal(moved[n], before[n]) for n in before)
    assert land.measure()[1] > 1e-3
    assert same(weights(subject), moved), "measuring leaves the weights where they are"
    land.move(0 * vector)
    assert same(weights(subject), before)
    assert land.measure() == (loss, 0)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("micro_batch", [0, 2])
def test_the_distance_is_the_exact_kl_from_before_to_now(kept, micro_batch, monkeypatch):
    """Over the whole vocabulary, mean over chosen tokens; KL(old || new), not the other way round."""
    if not kept:
        monkeypatch.setattr("upslope.learn.trust_region.KEPT_BUDGET", 0)
    subject, batch, land = landscape(micro_batch=micro_batch)
    with torch.no_grad():
        old_SV = logp_of_states(subject, batch)
        land.move(0.1 * random_vector(subject))
        new_SV = logp_of_states(subject, batch)
    expected = float(divergence(old_SV, new_SV).mean())
    assert land.distance() == pytest.approx(expected, rel=1e-10)
    assert land.measure()[1] == pytest.approx(expected, rel=1e-10)
    assert abs(expected - float(divergence(new_SV, old_SV).mean())) > 1e-3 * expected


def test_tokens_that_the_policy_did_not_choose_are_no_states():
    made = small_groups(1)[0]
    (first, *others) = made.rollouts
    tokens = (*first.response, 3, 4, 5)
    given = replace(first, response=tokens, mask=(*first.mask, False, False, True), logp=(-1.0,) * len(tokens))
    subject, batch, land = landscape(groups=[replace(made, rollouts=(given, *others))])
    with torch.no_grad():
        old_SV = logp_of_states(subject, batch)
        land.move(0.1 * random_vector(subject))
        new_SV = logp_of_states(subject, batch)
    chosen_S = torch.tensor([m for r in batch.rollouts for m in r.mask])
    assert land.distance() == pytest.approx(float(divergence(old_SV, new_SV)[chosen_S].mean()), rel=1e-10)


def test_the_measured_loss_is_that_of_the_objective_penalty_included():
    """Also for a penalty over the whole vocabulary and for one against old log-probs that nobody filled in. (The tiny
    reference speaks the whole pocket vocabulary, and so does the policy here.)"""
    for penalty in (ExactKL(0.3), K3(0.3, weighted=True)):
        recipe = TRPO.patch(regulariser=penalty)
        subject, batch, land = landscape(recipe, of=policy(), groups=random_groups(2))
        with torch.no_grad():
            old_NT = subject.score(batch).logp_NT
            land.move(0.1 * random_vector(subject))
            losses, _ = Objective(recipe)(subject.score(batch), replace(batch, old_logp_NT=old_NT))
        assert land.measure()[0] == pytest.approx(losses.policy.item(), abs=1e-12)


# -- curvature from a share of the problems -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "problems"),
    [(1.0, [0, 1, 2, 3, 4]), (0.4, [0, 2]), (0.6, [0, 1, 3]), (0.01, [0]), (0.5, [0, 2])],
)
def test_a_share_of_the_problems_is_evenly_spaced_and_whole(share, problems, monkeypatch):
    """i-th of n chosen from 5: floor(5 i / n). Never none."""
    monkeypatch.setattr("upslope.learn.trust_region.LEAST_CURVED", 1)
    _, batch = stage(groups=small_groups(5))
    chosen = spaced(batch, share)
    assert [r.problem_id for r in chosen.rollouts] == [f"toy/{i}" for i in problems for _ in range(2)]


def test_a_share_of_nothing_is_nothing():
    _, batch = stage(groups=[])
    assert spaced(batch, 0.25).num_rollouts == 0


def test_a_share_of_few_problems_is_all_of_them():
    """One or two problems make a poor Fisher matrix: at least eight are taken while there are as many."""
    _, batch = stage(groups=small_groups(10))
    assert len({r.problem_id for r in spaced(batch, 0.1).rollouts}) == 8
    assert spaced(batch.take(range(6)), 0.1).num_rollouts == 6


def test_products_are_over_the_share_and_measurements_over_all(monkeypatch):
    monkeypatch.setattr("upslope.learn.trust_region.LEAST_CURVED", 1)
    subject, batch = stage(groups=small_groups(4))
    objective = Objective(TRPO)
    land, whole = (subject.trust_region(objective, batch, share) for share in (0.5, 1.0))
    part = subject.trust_region(objective, batch.take([0, 1, 4, 5]))
    vector = random_vector(subject)
    assert torch.equal(land.fisher_product(vector), part.fisher_product(vector))
    assert (land.fisher_product(vector) - whole.fisher_product(vector)).norm() > 0.01 * vector.norm()
    for one in (land, whole):
        one.move(1e-2 * vector)
    assert land.measure() == whole.measure()
    assert land.distance() == whole.distance()


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="fisher_share"):
        KLBall(fisher_share=share)


# -- the step -------------------------------------------------------------------------------------------------------


def step(ball, *, recipe=TRPO, **options):
    """One update: (learner, batch, its statistics, weights before)."""
    recipe = recipe.patch(update=ball)
    subject, batch = stage(recipe, **options)
    before = weights(subject)
    outcome = ball(subject, Objective(recipe), batch)
    return subject, batch, outcome.stats, before


def surrogate(subject, recipe, batch):
    with torch.no_grad():
        return -Objective(recipe)(subject.score(batch), batch)[0].policy.item()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("delta", [1e-4, 1e-3, 1e-2])
def test_the_step_stays_inside_the_ball_uses_it_and_improves(dtype, delta):
    """To second order the rim is exact, so one shortening by a fifth (KL times 0.64) is enough at these sizes."""
    ball = KLBall(delta=delta, **WHOLE)
    subject, batch, stats, before = step(ball, dtype=dtype, groups=small_groups(4))
    assert stats["refused"] == 0
    assert stats["negative_curvature"] == 0
    assert stats["kl_budget"] == delta
    assert stats["kl_update"] <= delta
    assert stats["kl_update"] >= delta / 2 or stats["no_gain"] > 0
    assert stats["gain"] > 0
    assert stats["backtracks"] == stats["over_budget"] + stats["no_gain"]
    # Measured anew, by other means.
    after = weights(subject)
    with torch.no_grad():
        new_SV = logp_of_states(subject, batch)
        gained = surrogate(subject, TRPO, batch)
        subject.optimizer.set_weights(before)
        old_SV = logp_of_states(subject, batch)
        gained -= surrogate(subject, TRPO, batch)
    assert not same(after, before)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-6
    assert stats["kl_update"] == pytest.approx(float(divergence(old_SV, new_SV).mean()), rel=1e-3, abs=tolerance)
    assert stats["gain"] == pytest.approx(gained, rel=1e-3, abs=tolerance)


def test_the_direction_is_the_natural_gradient():
    """Against the explicit matrix: the step is along (F + damping I)^-1 g, scaled to the rim, sqrt(2 delta / x.Fx)."""
    ball = KLBall(delta=1e-6, damping=0.1, iterations=200, **WHOLE)
    recipe = TRPO.patch(update=ball)
    subject, batch = stage(recipe, groups=small_groups(2))
    before = torch.cat([m.detach().flatten().clone() for m in subject.optimizer.masters.values()])
    slope = -torch.cat([m.grad.flatten() for m in subject.optimizer.masters.values()])
    fisher = explicit_fisher(subject, batch)
    x = torch.linalg.solve(fisher + 0.1 * torch.eye(len(slope), dtype=slope.dtype), slope)
    rim = x * (2 * ball.delta / float(x @ fisher @ x)) ** 0.5
    stats = ball(subject, Objective(recipe), batch).stats
    moved = torch.cat([m.detach().flatten() for m in subject.optimizer.masters.values()]) - before
    expected = rim * ball.shrink ** stats["backtracks"]
    assert stats["cg_residual"] < 1e-9
    assert (moved - expected).norm() < 1e-6 * expected.norm()
    assert torch.cosine_similarity(moved, slope, dim=0) < 0.9  # and not the plain gradient


def test_learning_rate_and_clipping_play_no_part():
    ball = KLBall(**WHOLE)
    moved = [weights(step(ball, lr=lr, clip=clip)[0]) for lr, clip in ((1e-2, 1.0), (10.0, 1e-6))]
    assert same(*moved)


def test_an_update_counts_though_the_optimizer_did_not_move():
    subject, _, stats, _ = step(KLBall(**WHOLE))
    assert subject.optimizer.num_done == 1
    assert stats["lr"] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_step_that_leads_nowhere_good_is_refused_and_nothing_moves(dtype):
    """A budget of a million nats has a rim where the quadratic model means nothing; no shortening is allowed."""
    subject, _, stats, before = step(KLBall(delta=1e6, backtracks=0, **WHOLE), dtype=dtype)
    assert stats["refused"] == 1
    assert stats["kl_update"] == stats["gain"] == 0
    assert stats["backtracks"] == 1
    assert same(weights(subject), before)


class Uphill(KLBall):
    """Walks the wrong way."""

    def natural_direction(self, region, slope):
        found = super().natural_direction(region, slope)
        return replace(found, x=-found.x)


def test_a_step_within_the_budget_that_does_not_improve_is_refused():
    subject, _, stats, before = step(Uphill(delta=1e-4, backtracks=3, **WHOLE))
    assert stats["refused"] == 1
    assert stats["no_gain"] == 4
    assert stats["over_budget"] == 0
    assert same(weights(subject), before)


class Overshooting(KLBall):
    """Thinks the curvature a hundred times smaller than it is, so that its rim lies ten times too far out."""

    def search(self, region, direction):
        product = region.fisher_product
        region.fisher_product = lambda v: product(v) / 100
        return super().search(region, direction)


def test_a_step_over_the_budget_is_shortened_by_the_factor_until_it_fits():
    """The KL falls with the square: a rim ten times too far out needs 0.5^4 < 1/10, and 0.5^3 is over."""
    _, _, stats, _ = step(Overshooting(delta=1e-6, shrink=0.5, **WHOLE))
    assert stats["refused"] == 0
    assert stats["over_budget"] == 4
    assert stats["kl_update"] == pytest.approx(1e-6 * (10 * 0.5**4) ** 2, rel=0.02)


class Warped(KLBall):
    """Gets products whose sign is wrong."""

    def natural_direction(self, region, slope):
        product = region.fisher_product
        region.fisher_product = lambda v: -product(v)
        return super().natural_direction(region, slope)


def test_negative_curvature_is_reported_and_nothing_moves():
    """Pitfall 21: not taken for progress."""
    subject, _, stats, before = step(Warped(damping=0.0, **WHOLE))
    assert stats["negative_curvature"] == 1
    assert stats["refused"] == 1
    assert same(weights(subject), before)


def test_without_any_slope_nothing_moves_and_nothing_is_asked():
    """Equal rewards: no advantage, no gradient."""
    groups = [group("p", [1], [[2, 3], [4]], [1.0, 1.0])]
    subject, _, stats, before = step(KLBall(**WHOLE), groups=groups)
    assert stats["grad_norm"] == stats["kl_update"] == stats["refused"] == 0
    assert "cg_iterations" not in stats
    assert same(weights(subject), before)


def test_a_batch_of_which_nothing_was_kept_is_no_error():
    subject, _, stats, before = step(KLBall(**WHOLE), recipe=RFT, groups=[])
    assert stats["grad_norm"] == 0
    assert same(weights(subject), before)


def test_where_the_old_distributions_do_not_fit_they_are_computed_anew_with_the_same_result(monkeypatch):
    kept, _, kept_stats, _ = step(KLBall(**WHOLE), micro_batch=2)
    monkeypatch.setattr("upslope.learn.trust_region.KEPT_BUDGET", 0)
    anew, _, stats, _ = step(KLBall(**WHOLE), micro_batch=2)
    assert stats == kept_stats
    assert same(weights(kept), weights(anew))


def test_steps_add_up_to_more_likely_good_attempts():
    recipe = TRPO.patch(update=KLBall(delta=0.01, **WHOLE))
    subject, batch = stage(recipe)
    gains = [surrogate(subject, recipe, batch)]
    for _ in range(4):
        recipe.update(subject, Objective(recipe), batch)
        gains.append(surrogate(subject, recipe, batch))
    assert all(later > before for before, later in pairwise(gains))


def test_a_critic_steps_beside_it():
    recipe = TRPO.patch(advantage=GAE(), critic=OwnCopy(warmup=0))
    subject, batch = stage(recipe)
    policy_before = weights(subject)
    before = {n: m.detach().clone() for n, m in subject.critic.optimizer.masters.items()}
    stats = recipe.update(subject, Objective(recipe), batch).stats
    assert not any(torch.equal(m, before[n]) for n, m in subject.critic.optimizer.masters.items())
    assert not same(weights(subject), policy_before)
    assert {"kl_update", "value_grad_norm", "value_loss"} <= stats.keys()


def test_while_the_critic_warms_up_the_policy_stays():
    recipe = TRPO.patch(advantage=GAE(), critic=OwnCopy(warmup=5))
    subject, batch = stage(recipe)
    subject.critic.optimizer.num_done = 0
    before = weights(subject)
    stats = recipe.update(subject, Objective(recipe), batch).stats
    assert stats["kl_update"] == 0
    assert same(weights(subject), before)
    assert subject.critic.optimizer.num_done == 1


# -- under an adapter -----------------------------------------------------------------------------------------------


def adapted():
    """A policy under a LoRA adapter whose second matrices are not zero, so that all of them have curvature."""
    pytest.importorskip("peft")
    made = add_adapter(model(**SMALL), rank=2, alpha=4.0, targets="all-linear", seed=0)
    draw = torch.Generator().manual_seed(3)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        parameter.data = parameter.data.double()
    return Policy(made, policy().tokenizer)


def test_under_an_adapter_the_space_is_the_adapters():
    subject, batch, land = landscape(of=adapted(), groups=small_groups(2))
    assert all("lora_" in name for name in subject.optimizer.masters)
    vector = random_vector(subject)
    assert land.slope().shape == vector.shape
    fisher = explicit_fisher(subject, batch)
    torch.testing.assert_close(land.fisher_product(vector), fisher @ vector, rtol=1e-9, atol=1e-10)


def test_under_an_adapter_only_the_adapter_moves():
    of = adapted()
    base = {n: p.detach().clone() for n, p in of.model.named_parameters() if "lora_" not in n}
    assert len(base) > 5
    subject, _, stats, before = step(KLBall(**WHOLE), of=of)
    assert stats["refused"] == 0
    assert 0 < stats["kl_update"] <= 0.01
    assert all(torch.equal(p, base[n]) for n, p in of.model.named_parameters() if n in base)
    after = weights(subject)
    assert not any(torch.equal(after[n], before[n]) for n in before)


# -- kinship --------------------------------------------------------------------------------------------------------


def test_trpo_is_importance_with_another_update():
    assert TRPO.patch(update=IMPORTANCE.update, reuse=IMPORTANCE.reuse) == IMPORTANCE
