"""The head in chunks: the gradient of one pass, for every recipe, with less memory."""

import functools
from dataclasses import replace

import pytest
import torch
from tiny import RECIPES as FAMILY_RECIPES, TOKENIZER, gradients, group, largest_gap, learner, policy, random_groups
from torch.utils._python_dispatch import TorchDispatchMode

from upslope.algo.critic import SharedTrunk
from upslope.algo.family import GRPO, PPO, REINFORCE_BASELINE
from upslope.algo.objective import Objective
from upslope.algo.regulariser import EntropyBonus, ExactKL
from upslope.learn.bound import BoundLearner
from upslope.learn.build import build_learner
from upslope.learn.chunks import chunks, most_trunk_tokens
from upslope.learn.prepare import weigh
from upslope.learn.settings import LearnSettings
from upslope.model import scores
from upslope.model.adapter import add_adapter
from upslope.model.policy import Policy
from upslope.model.reference import Reference
from upslope.types import Sampling

VOCABULARY = len(TOKENIZER)
RECIPES = dict(FAMILY_RECIPES) | {
    "ppo on the policy's trunk": PPO.patch(critic=SharedTrunk()),
    "exact penalty": GRPO.patch(regulariser=ExactKL()),
    "exact penalty in the reward": GRPO.patch(regulariser=ExactKL(place="reward")),
    "entropy bonus": GRPO.patch(regulariser=EntropyBonus()),
}
BUDGETS = {"every rollout a chunk": 9 * VOCABULARY, "rollouts in pieces": 2 * VOCABULARY}
"""The longest response has 9 tokens."""
SAMPLING = Sampling(0.8, min_tokens=1)


def ragged():
    """Attempts that share prompts, one of them with a hole (tokens that nobody chose), none with an early end."""
    groups = random_groups(3, 3)
    ends = policy().end_ids
    keep = [t for t in range(VOCABULARY) if t not in ends]
    groups = [
        replace(
            g, rollouts=tuple(replace(r, response=tuple(keep[t % len(keep)] for t in r.response)) for r in g.rollouts)
        )
        for g in groups
    ]
    first = groups[0].rollouts[0]
    holed = replace(first, mask=tuple(i != 1 for i in range(len(first.response))))
    return [replace(groups[0], rollouts=(holed, *groups[0].rollouts[1:])), *groups[1:]]


def kept(recipe, groups):
    keep = getattr(recipe.sample, "keep", None)
    return [g for g in map(keep, groups) if g is not None] if keep else groups


def everything(recipe, dtype=torch.float64):
    """(batch, gradients, trace) of one step; scores in the batch moved a little, so that ratios are not 1."""
    subject = learner(recipe, dtype=dtype, sampling=SAMPLING)
    batch = weigh(subject.prepare(kept(recipe, ragged())), recipe)
    if batch.old_logp_NT is not None:
        batch = replace(batch, old_logp_NT=batch.old_logp_NT + 0.05 * batch.mask_NT)
    outcome = subject.gradient(Objective(recipe), batch)
    found = gradients(subject)
    if subject.critic is not None:
        found |= {f"critic {n}": m.grad for n, m in subject.critic.optimizer.masters.items()}
    return batch, found, outcome


def at_once(recipe, dtype=torch.float64):
    """The gradient of one pass with one graph from loss to weights, as the equation says it."""
    subject = learner(recipe, dtype=dtype, sampling=SAMPLING)
    batch = subject.learner.marked(Objective(recipe), everything(recipe, dtype)[0])
    found = subject.policy.distributions(batch.rollouts, subject.scorer.sampling)
    scored = subject.score(batch)  # entropy, divergence and values; log-probabilities by the plain way
    logp_NT = found.rectangle(found.logp_R, scored.logp_NT.shape)
    scored = replace(scored, logp_NT=logp_NT)
    losses, _ = Objective(recipe)(scored, Objective(recipe).with_old(batch, logp_NT))
    losses.total.backward()
    found = gradients(subject)
    if subject.critic is not None:
        found |= {f"critic {n}": m.grad for n, m in subject.critic.optimizer.masters.items()}
    return found


@functools.cache
def in_one_pass(name):
    """``everything`` of a recipe without chunks, which is what the equation says; for both budgets."""
    whole = everything(RECIPES[name])
    assert largest_gap(whole[1], at_once(RECIPES[name])) < 1e-10
    return whole


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", RECIPES)
def test_chunks_give_the_gradient_of_one_pass(name, budget, monkeypatch):
    whole = in_one_pass(name)
    monkeypatch.setattr(scores, "HEAD_BUDGET", BUDGETS[budget])
    batch, found, outcome = everything(RECIPES[name])
    assert max(float(g.abs().max()) for g in found.values()) > 1e-3
    assert largest_gap(found, whole[1]) < 1e-10
    for constant in ("old_logp_NT", "reference_logp_NT", "reference_kl_NT", "value_NT"):
        a, b = getattr(batch, constant), getattr(whole[0], constant)
        assert (a is None) is (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    torch.testing.assert_close(outcome.trace.logp_NT, whole[2].trace.logp_NT, rtol=0, atol=1e-12)
    torch.testing.assert_close(outcome.trace.entropy_NT, whole[2].trace.entropy_NT, rtol=0, atol=1e-12)
    assert outcome.stats == pytest.approx(whole[2].stats, abs=1e-10)


@pytest.mark.parametrize("name", RECIPES)
def test_chunks_in_float32(name, monkeypatch):
    whole = everything(RECIPES[name], torch.float32)[1]
    monkeypatch.setattr(scores, "HEAD_BUDGET", BUDGETS["rollouts in pieces"])
    found = everything(RECIPES[name], torch.float32)[1]
    for kind in ("policy", "critic"):
        names = [n for n in whole if n.startswith("critic ") is (kind == "critic")]
        error = sum(float((found[n] - whole[n]).square().sum()) for n in names) ** 0.5
        assert error <= 1e-6 * sum(float(whole[n].square().sum()) for n in names) ** 0.5


@pytest.mark.parametrize("name", ["grpo", "ppo", "ppo on the policy's trunk", "exact penalty"])
@pytest.mark.parametrize("budget", BUDGETS)
def test_models_that_are_not_packed(name, budget, monkeypatch):
    expected = everything(RECIPES[name])[1]
    monkeypatch.setattr("upslope.model.admission.admit", lambda model: False)
    monkeypatch.setattr(scores, "HEAD_BUDGET", BUDGETS[budget])
    assert largest_gap(everything(RECIPES[name])[1], expected) < 1e-10


@pytest.mark.parametrize("name", ["grpo", "ppo on the policy's trunk", "exact penalty"])
def test_models_whose_head_does_not_stand_apart(name, monkeypatch):
    expected = everything(RECIPES[name])[1]
    monkeypatch.setattr("upslope.model.policy.head_stands_apart", lambda *_: False)
    monkeypatch.setattr(scores, "HEAD_BUDGET", BUDGETS["rollouts in pieces"])
    assert largest_gap(everything(RECIPES[name])[1], expected) < 1e-10


@pytest.mark.parametrize("regulariser", [None, ExactKL()])
def test_an_adapter_also_on_the_head(regulariser, monkeypatch):
    """The reference is the policy without its adapter, in every chunk and when a chunk is computed again."""
    recipe = GRPO if regulariser is None else GRPO.patch(regulariser=regulariser)

    def one():
        wrapped = add_adapter(policy().model, rank=2, alpha=8.0, targets="lm_head,q_proj", seed=0)
        with torch.no_grad():
            for name, weight in wrapped.named_parameters():
                if "lora_B" in name:
                    weight += 0.05
        of, settings = Policy(wrapped, TOKENIZER), LearnSettings(lr=1e-2)
        made = build_learner(
            of,
            recipe,
            settings,
            sampling=SAMPLING,
            num_updates=10,
            dtype=torch.float64,
            reference=Reference(of, None),
        )
        subject = BoundLearner(recipe, made)
        subject.gradient(Objective(recipe), weigh(subject.prepare(ragged()), recipe))
        return gradients(subject)

    whole = one()
    assert whole and all("lora" in n for n in whole)
    assert max(float(g.abs().max()) for n, g in whole.items() if "lm_head" in n) > 1e-3
    monkeypatch.setattr(scores, "HEAD_BUDGET", BUDGETS["rollouts in pieces"])
    assert largest_gap(one(), whole) < 1e-10


class Largest(TorchDispatchMode):
    """The most entries that any result had."""

    def __init__(self):
        super().__init__()
        self.num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                self.num = max(self.num, x.numel())
        return out


@pytest.mark.parametrize("name", ["reinforce-baseline", "grpo", "ppo", "exact penalty", "entropy bonus"])
def test_never_all_logits_at_once(name, monkeypatch):
    """100 scored tokens in one micro-batch, and no tensor with as many rows of logits, forward or backward."""
    recipe = RECIPES[name]
    groups = [group(f"p/{i}", [3 + i, 4], [[5 + j] * 10 for j in range(2)], [0.0, 1.0]) for i in range(5)]
    subject = learner(recipe)
    budget = 20 * VOCABULARY
    monkeypatch.setattr(scores, "HEAD_BUDGET", budget)
    with Largest() as seen:
        batch = weigh(subject.prepare(groups), recipe)
        assert len(list(subject.scorer.micro_batches(batch))) == 1
        subject.gradient(Objective(recipe), batch)
    assert 32 * VOCABULARY < 100 * VOCABULARY  # the head's own weight is smaller than all logits, so the test can fail
    assert seen.num <= max(budget, 32 * VOCABULARY)


def test_chunks_never_split_a_row_and_lose_none():
    for counts in ([], [0], [3], [0, 0, 5], [4, 4, 4], [9, 1, 1, 9], [1] * 7):
        found = list(chunks(counts, 4))
        assert [row for rows, _ in found for row in rows] == list(range(len(counts)))
        assert sum(tokens.stop - tokens.start for _, tokens in found) == sum(counts)
        for rows, tokens in found:
            assert tokens.stop - tokens.start == sum(counts[r] for r in rows)
            assert len(rows) == 1 or tokens.stop - tokens.start <= 4


@pytest.mark.parametrize(
    ("dtype", "layers", "width", "tokens"),
    [
        (torch.bfloat16, 30, 576, 1213),
        (torch.float32, 30, 576, 606),
        (torch.float32, 3, 64, 16384),
        (torch.float32, 1, 10**9, 1),
    ],
)
def test_how_many_tokens_a_pass_holds(dtype, layers, width, tokens):
    """400 MiB / (10 x 2 bytes x 30 x 576) = 1213 for SmolLM2-135M, in float32 half of it; the pocket model gets the
    most there is."""
    sized = policy(dtype=dtype)
    sized.model.config.num_hidden_layers, sized.model.config.hidden_size = layers, width
    assert most_trunk_tokens(sized) == tokens


def test_logits_bound_a_micro_batch_only_where_the_model_makes_them_all(monkeypatch):
    monkeypatch.setattr("upslope.learn.scorer.LOGITS_BUDGET", 20 * VOCABULARY)
    subject = learner(REINFORCE_BASELINE)
    batch = subject.prepare(random_groups(6, 2))
    assert len(list(subject.scorer.micro_batches(batch))) == 1
    subject.policy.apart = False
    parts = list(subject.scorer.micro_batches(batch))
    assert len(parts) > 1
    assert all(int(p.mask_NT.sum()) <= 20 for p in parts)


def test_while_the_critic_warms_up_the_policy_has_no_graph():
    recipe = PPO.patch(critic=SharedTrunk(warmup=5))
    subject = learner(recipe)
    subject.critic.optimizer.num_done = 0
    batch = weigh(subject.prepare(random_groups()), recipe)
    scored = subject.score(batch)
    assert not scored.logp_NT.requires_grad
    assert scored.value_NT.requires_grad
    subject.gradient(Objective(recipe), batch)
    assert not gradients(subject)


def test_a_row_without_chosen_tokens_is_no_error():
    first, *others = random_groups(1, 2)[0].rollouts
    mute = replace(first, mask=(False,) * len(first.mask))
    groups = [replace(random_groups(1, 2)[0], rollouts=(mute, *others))]
    subject = learner(REINFORCE_BASELINE)
    batch = weigh(subject.prepare(groups), REINFORCE_BASELINE)
    assert torch.isfinite(subject.score(batch).logp_NT).all()
    subject.gradient(Objective(REINFORCE_BASELINE), batch)
