"""The gradient that the learner leaves is that of the loss it names, for every recipe: central differences say so.

The loss is evaluated in one piece (no micro-batches, no skipping of rows without a gradient) at weights moved a
little along a direction of the whole parameter space, the critic's weights included; float64. What a batch holds
is constant: its old, sampler's and reference log-probabilities, old values, advantages. Those that an update compares
with are shifted here, so that ratios lie on all sides of the clip range but not on its corners, where a function has
no derivative.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from tiny import RECIPES as FAMILY_RECIPES, gradients, learner, policy, random_groups

from upslope.algo.advantage import GAE, ConstantBaseline
from upslope.algo.aggregate import sequence_mean, token_mean
from upslope.algo.correction import MaskedWeights, TruncatedWeights
from upslope.algo.critic import OwnCopy, SharedTrunk
from upslope.algo.family import CISPO, DAPO, GRPO, GSPO, IMPORTANCE, PPO, REINFORCE, REINFORCE_BASELINE
from upslope.algo.objective import Objective
from upslope.algo.regulariser import K1, K2, K3, EntropyBonus, ExactKL, no_penalty
from upslope.algo.surrogate import ClippedRatio, ClippedWeight, ImportanceRatio, SequenceRatio, pessimistic
from upslope.learn.prepare import weigh
from upslope.types import Sampling, given

STEP = 2e-5
BOUND = 1e-6
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}

EXTRA = {
    "a constant baseline": REINFORCE.patch(advantage=ConstantBaseline(0.3)),
    "k1 in the loss": GRPO.patch(regulariser=K1(0.3, place="loss")),
    "k1 in the loss, weighted": GRPO.patch(regulariser=K1(0.3, place="loss", weighted=True)),
    "k1 in the reward": GRPO.patch(regulariser=K1(0.3)),
    "k2": GRPO.patch(regulariser=K2(0.3)),
    "k2, weighted": GRPO.patch(regulariser=K2(0.3, weighted=True)),
    "k3, weighted": GRPO.patch(regulariser=K3(0.3, weighted=True)),
    "k3 in the reward": GRPO.patch(regulariser=K3(0.3, place="reward")),
    "exact KL": GRPO.patch(regulariser=ExactKL(0.3)),
    "exact KL in the reward": GRPO.patch(regulariser=ExactKL(0.3, place="reward")),
    "entropy bonus": REINFORCE_BASELINE.patch(regulariser=EntropyBonus(0.3)),
    "penalty by token": GRPO.patch(regulariser=K3(0.3), aggregate=token_mean),
    "dual clip": GRPO.patch(surrogate=ClippedRatio(dual=1.3)),
    "ratio of the whole attempt": IMPORTANCE.patch(surrogate=ImportanceRatio("trajectory")),
    "sampler's weights cut": DAPO.patch(correction=TruncatedWeights(1.2)),
    "sampler's weights cut, of the whole attempt": GSPO.patch(correction=TruncatedWeights(1.2, "trajectory")),
    "sampler's weights masked, penalty": GRPO.patch(correction=MaskedWeights(0.7, 1.2)),
    "sampler's weights on CISPO": CISPO.patch(correction=TruncatedWeights(1.2)),
    "cispo with a lower bound": CISPO.patch(surrogate=ClippedWeight(0.2, 0.2)),
    "cispo with a penalty": CISPO.patch(regulariser=K3(0.3)),
    "one ratio an attempt, an advantage a token": PPO.patch(surrogate=SequenceRatio(level="token")),
    "shared trunk": PPO.patch(critic=SharedTrunk(weight=0.5)),
    "shared trunk, penalty in the loss": PPO.patch(critic=SharedTrunk(clip=0.0), regulariser=K3(0.3)),
    "own copy without clip": PPO.patch(critic=OwnCopy(clip=0.0), aggregate=sequence_mean),
    "plain GAE": PPO.patch(advantage=GAE(gamma=0.9, lam=0.5, whiten=False), regulariser=no_penalty),
}
RECIPES = dict(FAMILY_RECIPES) | EXTRA


@dataclass(frozen=True)
class FrozenWeight:
    """``ClippedWeight`` with its weight, which has no gradient, kept where it was at the origin."""

    weight_NT: torch.Tensor

    def __call__(self, scored, batch):
        return self.weight_NT * given(batch.advantage_NT, "advantage_NT") * scored.logp_NT


@dataclass(frozen=True)
class FrozenSequence:
    """``SequenceRatio`` by tokens with the attempt's ratio, which has no gradient, kept where it was at the origin."""

    ratio_NT: torch.Tensor
    logp_NT: torch.Tensor
    low: float
    high: float

    def __call__(self, scored, batch):
        ratio_NT = self.ratio_NT * torch.exp(scored.logp_NT - self.logp_NT)
        return pessimistic(ratio_NT, given(batch.advantage_NT, "advantage_NT"), self.low, self.high)


def shifts(shape, like, *, narrow, seed):
    """Differences between log-probabilities: on all sides of the corners of every clip range above (in logarithms
    -0.22, 0.18, 0.25, 0.26), never nearer to one than 0.02; ``narrow``: the same for a range of 3e-4, by row."""
    draw = torch.Generator().manual_seed(seed)
    choices = torch.tensor([-0.45, -0.28, -0.09, 0.1, 0.22, 0.33, 0.5], dtype=like)
    if narrow:
        choices = torch.tensor([-2e-3, -1e-4, 1e-4, 2e-3], dtype=like)
    columns = 1 if narrow else shape[1]
    return choices[torch.randint(len(choices), (shape[0], columns), generator=draw)].expand(shape)


def stage(recipe, *, shifted=True):
    """A learner and a mini-batch of it, which is the whole batch."""
    subject = learner(recipe, of=policy(**SMALL, num_key_value_heads=1), sampling=Sampling(max_tokens=8), micro_batch=2)
    groups = random_groups(3, 3, seed=3, longest=6)
    keep = getattr(recipe.sample, "keep", None)
    batch = subject.prepare([g for g in map(keep, groups) if g is not None] if keep else groups)
    with torch.no_grad():
        logp_NT = subject.score(batch).logp_NT
    narrow = isinstance(recipe.surrogate, SequenceRatio)
    offset_NT = shifts(logp_NT.shape, logp_NT.dtype, narrow=narrow, seed=0) if shifted else torch.zeros_like(logp_NT)
    batch = replace(batch, old_logp_NT=torch.where(batch.mask_NT, logp_NT - offset_NT, 0))
    apart_NT = shifts(logp_NT.shape, logp_NT.dtype, narrow=False, seed=1)
    batch = replace(batch, sampler_logp_NT=torch.where(batch.mask_NT, logp_NT - apart_NT, 0))
    if batch.value_NT is not None and shifted:
        apart_NT = shifts(logp_NT.shape, logp_NT.dtype, narrow=False, seed=2)
        batch = replace(batch, value_NT=torch.where(batch.mask_NT, batch.value_NT - apart_NT, 0))
    return subject, weigh(batch, recipe)


def frozen(recipe, subject, minibatch):
    """The recipe as a function of the weights that has the gradient: what is detached stays where it is now."""
    if isinstance(recipe.surrogate, SequenceRatio) and recipe.surrogate.level == "token":
        with torch.no_grad():
            logp_NT = subject.score(minibatch).logp_NT
            ratio_NT = torch.exp(recipe.surrogate.log_ratio(logp_NT, minibatch))
        logp_NT = torch.where(minibatch.mask_NT, logp_NT, 0)
        low, high = recipe.surrogate.low, recipe.surrogate.high
        return recipe.patch(surrogate=FrozenSequence(ratio_NT, logp_NT, low, high))
    if not isinstance(recipe.surrogate, ClippedWeight):
        return recipe
    with torch.no_grad():
        ratio_NT = torch.exp(subject.score(minibatch).logp_NT - minibatch.old_logp_NT)
    low, high = recipe.surrogate.low, recipe.surrogate.high
    return recipe.patch(surrogate=FrozenWeight(ratio_NT.clamp(1 - low, 1 + high)))


def all_masters(subject):
    critic = {} if subject.critic is None else subject.critic.optimizer.masters
    return {**subject.optimizer.masters, **{f"critic.{n}": m for n, m in critic.items()}}


@torch.no_grad()
def slope_by_differences(subject, objective, minibatch, direction):
    """The derivative of the whole loss along a direction, by the five-point rule: error of order STEP^4."""
    masters = all_masters(subject)
    origin = {n: m.detach().clone() for n, m in masters.items()}

    def loss_at(distance):
        for name, master in masters.items():
            master.copy_(origin[name] + distance * direction[name])
        losses, _ = objective(subject.score(minibatch), minibatch)
        return losses.total.item()

    near = loss_at(STEP) - loss_at(-STEP)
    far = loss_at(2 * STEP) - loss_at(-2 * STEP)
    loss_at(0.0)
    return (8 * near - far) / (12 * STEP)


def directions(masters, num, seed=0):
    """Random unit vectors of the whole parameter space."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(num):
        raw = {n: torch.randn(m.shape, generator=draw, dtype=m.dtype) for n, m in masters.items()}
        norm = torch.stack([r.norm() for r in raw.values()]).norm()
        yield {n: r / norm for n, r in raw.items()}


def gradient_of(subject, objective, minibatch):
    subject.gradient(objective, minibatch)
    found = gradients(subject)
    if subject.critic is not None:
        found |= {f"critic.{n}": m.grad.detach().clone() for n, m in subject.critic.optimizer.masters.items()}
    return found


def require_same_slopes(recipe, *, shifted):
    subject, minibatch = stage(recipe, shifted=shifted)
    told = replace(minibatch, old_logp_NT=None) if not shifted else minibatch
    gradient = gradient_of(subject, Objective(recipe), told)
    objective = Objective(frozen(recipe, subject, minibatch))
    assert gradient.keys() == all_masters(subject).keys()
    for direction in directions(all_masters(subject), 3):
        expected = slope_by_differences(subject, objective, minibatch, direction)
        got = sum(float((gradient[n] * direction[n]).sum()) for n in gradient)
        assert abs(expected) > 1e-5
        assert abs(got - expected) < BOUND * abs(expected)


@pytest.mark.parametrize("name", RECIPES)
def test_the_gradient_is_that_of_the_loss(name):
    """CISPO's weight is detached, so its gradient is by construction not that of its value: there the value is the one
    with the weight frozen at the origin."""
    require_same_slopes(RECIPES[name], shifted=True)


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if "old_logp" in r.needs])
def test_on_policy_the_old_log_probs_are_constants_though_no_pass_computed_them(name):
    """The learner detaches its own log-probabilities to have the old ones: a ratio of 1 with a gradient."""
    require_same_slopes(RECIPES[name], shifted=False)


@pytest.mark.parametrize("name", ["grpo", "ppo", "shared trunk", "entropy bonus"])
def test_every_single_parameter_has_its_part(name):
    """Directions that move one parameter only: a part that is missing cannot hide behind the others."""
    recipe = RECIPES[name]
    subject, minibatch = stage(recipe)
    gradient = gradient_of(subject, Objective(recipe), minibatch)
    masters = all_masters(subject)
    (whole,) = directions(masters, 1)
    for moved in masters:
        direction = {n: d if n == moved else torch.zeros_like(d) for n, d in whole.items()}
        expected = slope_by_differences(subject, Objective(recipe), minibatch, direction)
        got = float((gradient[moved] * direction[moved]).sum())
        assert abs(got - expected) < BOUND * abs(expected) + 1e-10, moved


@pytest.mark.parametrize("name", ["ppo", "grpo", "dapo", "gspo", "cispo", "dual clip", "cispo with a lower bound"])
def test_the_shifted_numbers_lie_on_all_sides_of_the_clip_range(name):
    """Else the tests above would compare products without a clip."""
    recipe = RECIPES[name]
    subject, minibatch = stage(recipe)
    low_NT, high_NT = recipe.surrogate.clipped(subject.score(minibatch).logp_NT, minibatch)
    inside_NT = minibatch.mask_NT & ~low_NT & ~high_NT
    unbounded = recipe.surrogate == ClippedWeight()
    assert (low_NT & minibatch.mask_NT).any() == (not unbounded)
    assert (high_NT & minibatch.mask_NT).any() == (not unbounded)
    assert inside_NT.any()


def test_cispo_without_the_freeze_has_another_slope():
    """The stop-gradient is real: differences of its plain value are not its gradient."""
    subject, minibatch = stage(CISPO)
    gradient = gradient_of(subject, Objective(CISPO), minibatch)
    (direction,) = directions(all_masters(subject), 1)
    got = sum(float((gradient[n] * direction[n]).sum()) for n in gradient)
    plain = slope_by_differences(subject, Objective(CISPO), minibatch, direction)
    assert abs(got - plain) > 0.05 * abs(got)
