"""Learners that hold a part of the weights each are one learner; what they save does not know how many they were."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.distributed as dist
from processes import on_processes
from ranked import HERE, RECIPES as ALL, look, require_same, slopes, weights
from tiny import TOKENIZER, drawn, group, largest_gap, learner, model, policy, problems, random_groups

from upslope.algo.family import DAPO, GRPO, PPO, SFT, TRPO
from upslope.algo.objective import Objective
from upslope.algo.reuse import Reuse
from upslope.cluster.sharding import ShardedRanks, require_shardable, sharded_learner
from upslope.cluster.together import stand_together
from upslope.errors import NonFinite, UserError
from upslope.learn.prepare import passes, weigh
from upslope.learn.settings import LearnSettings
from upslope.model import scores
from upslope.model.adapter import add_adapter
from upslope.model.load import load
from upslope.model.policy import Policy
from upslope.record import checkpoint
from upslope.training.held_out_loss import plain_scorer, predicted
from upslope.types import Sampling

NAMES = (
    *("grpo", "ppo", "dapo", "sft", "critic on a copy", "critic on the trunk"),
    *("exact penalty", "exact penalty in the reward", "entropy bonus", "marks by rank"),
)
RECIPES = {name: recipe for name, recipe in ALL.items() if name in NAMES}


def in_shards(recipe, **how):
    return learner(recipe, build=sharded_learner, **how)


def look_in_shards(recipe, groups, **how):
    return look(recipe, None, groups, build=sharded_learner, **how)


def steps(subject, recipe, seeds):
    """Updates, one a seed or as many as the recipe wants of its batch."""
    for seed in seeds:
        for minibatch in passes(subject.prepare(random_groups(4, 3, seed=seed)), recipe, HERE):
            recipe.update(subject, Objective(recipe), minibatch)


@functools.cache
def seen_by(size):
    """Of every recipe, by rank: one start of processes for all of them."""
    return on_processes(
        size, lambda: {n: look_in_shards(r, random_groups(4, 3)) for n, r in RECIPES.items()}, seconds=300
    )


@pytest.mark.parametrize("name", RECIPES)
def test_two_learners_in_shards_are_one(name):
    alone = look(RECIPES[name], None, random_groups(4, 3))
    assert max(float(g.abs().max()) for g in alone.slopes.values()) > 1e-3
    require_same(alone, [seen[name] for seen in seen_by(2)])


def test_of_three_one_may_have_no_rows():
    names = ("grpo", "critic on a copy", "critic on the trunk", "marks by rank")
    groups = [group("p", [3, 4], [[5, 6, 7], [8]], [1.0, 0.0])]
    found = on_processes(3, lambda: {n: look_in_shards(RECIPES[n], groups) for n in names})
    for name in names:
        require_same(look(RECIPES[name], None, groups), [seen[name] for seen in found])


@pytest.mark.parametrize("how", ["tied", "in chunks", "recomputed", "not apart"])
def test_other_ways_through_the_model(how):
    """A head that is the embedding; few logits at a time, and in pieces that are computed again; layers likewise; a
    model whose head cannot be called alone."""

    def made():
        of = policy(**({"tie_word_embeddings": True} if how == "tied" else {}))
        of.apart = how != "not apart"
        if how == "recomputed":
            of.checkpoint_activations()
        return of

    def work(build):
        if how == "in chunks":
            scores.HEAD_BUDGET = 5 * len(TOKENIZER)
        extra = {} if build is None else {"build": build}
        return {n: look(RECIPES[n], None, random_groups(4, 3), of=made(), **extra) for n in ("grpo", "exact penalty")}

    budget = scores.HEAD_BUDGET
    try:
        alone = work(None)
    finally:
        scores.HEAD_BUDGET = budget
    found = on_processes(2, lambda: work(sharded_learner))
    for name, expected in alone.items():
        require_same(expected, [seen[name] for seen in found])


FAR = 1e-6
"""Apart by more are the weights whose gradient is mostly rounding."""


def test_ten_steps():
    """Of two ranks each sum is a + b, but alone the same rows are summed in another order. In float32 that is 1e-7 of a
    gradient, which AdamW divides by the root of its own square, however small it is: where a gradient is nothing but
    rounding its sign may differ, and the weight moves the other way. So of weights that move by up to 3e-3 in ten steps
    some few, and how few is the processor's affair, are further apart than 1e-6."""
    names = {"grpo": GRPO, "ppo": PPO, "dapo": DAPO}

    def work(**build):
        found = {}
        for name, recipe in names.items():
            for dtype in (torch.float32, torch.float64):
                of = policy(dtype=dtype)
                of.native = False  # shards run through transformers' modules
                subject = learner(recipe, of=of, dtype=dtype, lr=3e-4, **build)
                for seed in range(10):
                    minibatch = next(iter(passes(subject.prepare(random_groups(4, 3, seed=seed)), recipe, HERE)))
                    recipe.update(subject, Objective(recipe), minibatch)
                found[name, dtype] = weights(subject)
        return found

    alone, (one, other) = work(), on_processes(2, lambda: work(build=sharded_learner), seconds=300)
    for (name, dtype), found in one.items():
        assert all(torch.equal(w, other[name, dtype][n]) for n, w in found.items())
        apart = torch.cat([(w - alone[name, dtype][n]).abs().flatten() for n, w in found.items()])
        if dtype == torch.float64:
            assert apart.max() < 1e-10
        else:
            assert (apart > FAR).double().mean() < 1e-3 and apart.max() < 3e-4


def test_every_rank_holds_its_part_of_weights_gradients_and_moments():
    def work():
        subject = in_shards(PPO, dtype=torch.float32)
        steps(subject, PPO, [0])
        held = [subject.optimizer, subject.critic.optimizer]
        masters = [sum(m.numel() for m in o.masters.values()) for o in held]
        slopes_held = [sum(m.grad.numel() for m in o.masters.values()) for o in held]
        moments = [sum(rule.moment_bytes for rule in o._rules) / 8 for o in held]
        assert all(p.to_local().shape == subject.optimizer.masters[n].shape for n, p in parameters(subject))
        return masters, slopes_held, moments, [(o.master_bytes, o.moment_bytes) for o in held]

    def parameters(subject):
        return subject.learner.scorer.policy.model.named_parameters()

    whole = learner(PPO, dtype=torch.float32)
    sizes = [sum(m.numel() for m in o.masters.values()) for o in (whole.optimizer, whole.critic.optimizer)]
    found = on_processes(2, work)
    for masters, slopes_held, moments, total in found:
        assert masters == slopes_held == moments
        assert total == [(4 * size, 8 * size) for size in sizes]
        assert all(abs(mine - size / 2) < 0.02 * size for mine, size in zip(masters, sizes, strict=True))
    assert [sum(parts) for parts in zip(*(masters for masters, *_ in found), strict=True)] == sizes


def test_low_precision_computes_in_it_and_keeps_the_rest_in_float32():
    """The error of the gradient is the error of bfloat16, not that of sums in it."""
    exact = learner(GRPO, dtype=torch.float32)
    exact.gradient(Objective(GRPO), weigh(exact.prepare(random_groups(8, 3)), GRPO))
    expected = torch.cat([s.flatten() for s in slopes(exact).values()])

    def error(subject):
        scores.HEAD_BUDGET = 20 * len(TOKENIZER)  # many calls of the head
        subject.gradient(Objective(GRPO), weigh(subject.prepare(random_groups(8, 3)), GRPO))
        found = slopes(subject)
        assert all(s.dtype == torch.float32 for s in found.values())
        return float((torch.cat([s.flatten() for s in found.values()]) - expected).norm() / expected.norm())

    def how():
        return {"of": policy(dtype=torch.float32), "dtype": torch.bfloat16}

    def work():
        seen = []
        subject = in_shards(GRPO, **how())
        inside = subject.learner.scorer.policy.model
        inside.get_output_embeddings().register_forward_hook(lambda head, _, out: seen.append(out.dtype))
        found = error(subject)
        given = subject.weights()
        assert {w.dtype for w in given.values()} <= {torch.bfloat16}
        assert set(seen) == {torch.bfloat16}
        return found

    def plain():
        of = how()
        of["of"].native = False
        return error(learner(GRPO, **of))

    (alone,), found = on_processes(1, plain), on_processes(2, work)
    assert found[0] == found[1]
    assert 1e-4 < found[0] < 1.5 * alone


# -- weights, checkpoints, held-out loss ----------------------------------------------------------------------------


def test_the_first_rank_has_the_whole_policy_to_write_and_to_save(tmp_path):
    def work():
        subject = in_shards(GRPO, dtype=torch.float32)
        steps(subject, GRPO, [0, 1])
        given = subject.weights()
        masters, state = subject.optimizer.full_precision(), subject.optimizer.state()  # all ranks ask
        if given:
            assert all(torch.equal(w, masters[n]) for n, w in given.items())
            subject.policy.save(tmp_path, masters)
            written = drawn(subject.policy, problems(2), 2, Sampling(max_tokens=8), HERE)
            return masters, [r.response for g in written for r in g]
        assert masters == state == {}
        return None

    (masters, responses), nothing = on_processes(2, work)
    saved, tokenizer = load(str(tmp_path))
    assert nothing is None
    assert all(torch.equal(w, masters[n]) for n, w in saved.named_parameters())
    again = drawn(Policy(saved, tokenizer), problems(2), 2, Sampling(max_tokens=8), HERE)
    assert [r.response for g in again for r in g] == responses


@pytest.mark.parametrize("recipe", [SFT, PPO.patch(critic=ALL["critic on a copy"].critic)], ids=["sft", "ppo"])
def test_going_on_with_another_number_of_ranks(recipe):
    """Two ranks begin, three go on, one ends: the same as one alone all the way."""

    def going_on(build, seeds, saved):
        subject = learner(recipe, **build)
        if saved is not None:
            weights_, state, num_done, of_critic, critic_done = saved
            subject.optimizer.set_weights(weights_)
            subject.optimizer.load(state, num_done)
            if subject.critic is not None:
                subject.critic.load(of_critic, critic_done)
        steps(subject, recipe, seeds)
        critic = subject.critic
        return (
            subject.optimizer.full_precision(),
            subject.optimizer.state(),
            subject.optimizer.num_done,
            None if critic is None else critic.state(),
            0 if critic is None else critic.optimizer.num_done,
        )

    shards = {"build": sharded_learner}
    straight = going_on({}, range(3), None)
    first = on_processes(2, lambda: going_on(shards, [0], None))[0]
    then = on_processes(3, lambda: going_on(shards, [1], first))[0]
    last = going_on({}, [2], then)
    assert last[2] == straight[2] and last[4] == straight[4]
    assert largest_gap(last[0], straight[0]) < 1e-10
    assert largest_gap(last[1], straight[1]) < 1e-10
    # AdamW divides by the root of the mean square: an entry whose gradient is rounding alone is moved all the same.
    assert recipe is SFT or largest_gap(last[3], straight[3]) < 1e-6


@pytest.mark.parametrize(("written_by", "size"), [(1, 2), (2, 2), (2, 3)])
def test_a_checkpoint_that_the_first_alone_has_read_is_shared_out(tmp_path, written_by, size):
    """One whole learner or two in shards wrote it; policy, reference and critic that the others come with are of other
    weights, and nothing of these is left."""
    recipe = PPO.patch(critic=ALL["critic on a copy"].critic, reuse=Reuse())

    def other(of, *args, reference, value, **how):
        if dist.get_rank():
            for parameter in [*reference.frozen.model.parameters(), *value.parameters()]:
                parameter.data.add_(1.0)
        return sharded_learner(of, *args, reference=reference, value=value, **how)

    def begun(**build):
        subject = learner(recipe, **build)
        steps(subject, recipe, [0])
        masters, state, of_critic = subject.learner.kept()
        if masters:
            counts = {"done": subject.optimizer.num_done, "critic": subject.critic.optimizer.num_done}
            checkpoint.save(tmp_path, 1, subject.learner.policy, masters, state, counts, of_critic)

    def gone_on():
        saved = checkpoint.newest(tmp_path) if dist.get_rank() == 0 else None
        of = policy(seed=7) if saved is None else Policy(*load(str(saved.folder), torch.float64))
        subject = learner(recipe, of=of, build=other)
        if saved is not None:
            subject.optimizer.load(saved.optimizer(), saved.state["done"])
            subject.critic.load(saved.critic(), saved.state["critic"])
        stand_together(subject.learner, subject.scorer.ranks, saved)
        steps(subject, recipe, [1, 2])
        masters, state, of_critic = subject.learner.kept()
        return masters, state, of_critic, subject.optimizer.num_done, subject.critic.optimizer.num_done

    straight = learner(recipe)
    steps(straight, recipe, range(3))
    masters, state, of_critic = straight.learner.kept()
    if written_by == 1:
        begun()
    else:
        on_processes(written_by, lambda: begun(build=sharded_learner))
    found = on_processes(size, gone_on)
    assert all(seen[3:] == (straight.optimizer.num_done, straight.critic.optimizer.num_done) for seen in found)
    assert largest_gap(found[0][0], masters) < 1e-10
    assert largest_gap(found[0][1], state) < 1e-10
    assert largest_gap(found[0][2], of_critic) < 1e-6  # as above
    assert largest_gap(masters, {n: w.detach() for n, w in policy().weights().items()}) > 1e-2


def test_the_state_of_another_model_is_refused():
    def work():
        subject = in_shards(SFT)
        with pytest.raises(UserError, match="of another model"):
            subject.optimizer.load({"step/other": torch.zeros(())}, 1)
        return True

    assert on_processes(2, work) == [True, True]


def test_held_out_text_is_predicted_by_the_first_alone_with_all_weights():
    def cost(subject):
        return predicted(plain_scorer(subject.policy, 0), random_groups(3, 1)).nats

    def of_first():
        subject = in_shards(SFT)
        return None if subject.learner.whole is None else cost(subject)

    first, other = on_processes(2, of_first)
    assert first == pytest.approx(cost(learner(SFT)), abs=1e-10)
    assert other is None


# -- what is wrong, and what is refused -----------------------------------------------------------------------------


def test_what_is_not_finite_on_one_rank_stops_all():
    def work():
        found = []
        for where in ("loss", "gradient", "weights"):
            subject = in_shards(GRPO, dtype=torch.float32, **({"lr": 1e38} if where == "weights" else {}))
            batch = weigh(subject.prepare(random_groups(4, 3)), GRPO)
            batch.advantage_NT[-1] = torch.inf if where == "loss" else 1
            try:
                subject.gradient(Objective(GRPO), batch)
                if where == "gradient" and subject.scorer.ranks.rank == 1:
                    subject.optimizer.masters["lm_head.weight"].grad[0, 0] = math.nan
                for _ in range(2):
                    subject.step()
            except NonFinite as error:
                found.append(str(error))
        return found

    one, other = on_processes(2, work)
    assert one == other
    assert "the loss is" in one[0]
    assert "the gradient of lm_head.weight is not finite in 1 of" in one[1]
    assert "the update left" in one[2]


def adapted():
    pytest.importorskip("peft")
    return add_adapter(model(), rank=2, alpha=4.0, targets="all-linear", seed=0)


def frozen():
    of = model()
    of.model.embed_tokens.requires_grad_(False)
    return of


@pytest.mark.parametrize(
    ("recipe", "settings", "of", "said"),
    [
        (TRPO, {}, model, "update = kl_ball differentiates"),
        (GRPO, {"optimizer": "muon"}, model, "muon turns whole matrices"),
        (GRPO, {}, adapted, "not for adapters"),
        (GRPO, {"lora_rank": 4}, model, "not for adapters"),
        (GRPO, {}, frozen, "model.embed_tokens.weight is frozen"),
    ],
)
def test_what_cannot_be_sharded_is_refused_in_one_line(recipe, settings, of, said):
    with pytest.raises(UserError, match=said) as refused:
        require_shardable(recipe, LearnSettings(**settings), of())
    assert "\n" not in str(refused.value)


def test_a_reference_that_is_reset_is_refused_where_there_is_one():
    with pytest.raises(UserError, match=r"set reference\.every = 0"):
        require_shardable(GRPO, LearnSettings(), resets_reference=True)
    require_shardable(SFT, LearnSettings(), resets_reference=True)


def test_passes_are_filled_up_with_the_shortest_row_and_do_not_count():
    def work():
        ranks = ShardedRanks()
        whole = learner(SFT).prepare([group("p", [3, 4], [[5, 6, 7], [8]], [1.0, 0.0])])
        made = list(ranks.passes([whole] * (3 * ranks.rank), whole))
        return [(part.num_rollouts, len(part.rollouts[0].response), counts) for part, counts in made]

    assert on_processes(2, work) == [[(1, 1, False)] * 3, [(2, 3, True)] * 3]
