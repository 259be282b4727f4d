"""What one of several learners sees of an update, and that it is what one learner alone sees."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
import torch
from tiny import RECIPES as FAMILY_RECIPES, largest_gap, learner, random_groups

from upslope.algo.critic import OwnCopy, SharedTrunk
from upslope.algo.family import GRPO, PPO, REINFORCE_BASELINE, TRPO
from upslope.algo.objective import Objective
from upslope.algo.regulariser import EntropyBonus, ExactKL
from upslope.algo.reuse import Reuse
from upslope.algo.surrogate import ClippedRatio
from upslope.algo.update import KLBall
from upslope.learn.prepare import passes, weigh
from upslope.learn.probe import Probe
from upslope.rollout.address import Address

HERE = Address(0, "reuse")
TIGHT = 1e-10


@dataclass(frozen=True)
class Ranked(ClippedRatio):
    """A mask by rank over the whole update, from the present policy's own scores."""

    needs = frozenset({"old_logp", "present_logp", "old_entropy"})

    def over_update(self, batch):
        return batch.mask_NT & (batch.present_logp_NT <= batch.present_logp_NT[batch.mask_NT].median())

    def __call__(self, scored, batch):
        return torch.where(batch.marks["surrogate"], super().__call__(scored, batch), 0)


RECIPES = FAMILY_RECIPES | {
    "critic on a copy": PPO.patch(critic=OwnCopy(warmup=0)),
    "critic on the trunk": PPO.patch(critic=SharedTrunk(warmup=0)),
    "exact penalty": GRPO.patch(regulariser=ExactKL()),
    "exact penalty in the reward": GRPO.patch(regulariser=ExactKL(place="reward")),
    "entropy bonus": GRPO.patch(regulariser=EntropyBonus()),
    "marks by rank": REINFORCE_BASELINE.patch(surrogate=Ranked(), reuse=Reuse(epochs=2)),
    "trust region over a critic": PPO.patch(update=KLBall(), reuse=Reuse()),
}


def kept(recipe, groups):
    keep = getattr(recipe.sample, "keep", None)
    return [g for g in map(keep, groups) if g is not None] if keep else groups


def optimizers(subject):
    return {"": subject.optimizer} | ({} if subject.critic is None else {"critic ": subject.critic.optimizer})


def weights(subject):
    """Whole ones, on every rank: all ranks call it."""
    return {
        f"{of}{name}": whole(optimizer, name, master.detach().clone())
        for of, optimizer in optimizers(subject).items()
        for name, master in optimizer.masters.items()
    }


def slopes(subject):
    """The gradients likewise; a rank without a gradient has zeros, alone there is none."""
    return {
        f"{of}{name}": whole(optimizer, name, torch.zeros_like(m) if m.grad is None else m.grad.clone())
        for of, optimizer in optimizers(subject).items()
        for name, m in optimizer.masters.items()
    }


def whole(optimizer, name, part):
    """What a rank has a part of, where it has no more."""
    return optimizer.whole(name, part) if hasattr(optimizer, "whole") else part


@dataclass(frozen=True)
class Seen:
    batch: object
    outcome: object
    slopes: dict
    stats: list
    weights: dict
    probed: dict


def look(recipe, ranks, groups, **settings):
    """What one of the ranks sees of a batch, of the gradient of its first update, and of its first two updates."""
    subject = learner(recipe, ranks=ranks, micro_batch=2, lr=1e-3, **settings)
    batch = subject.prepare(kept(recipe, groups))
    minibatches = list(passes(batch, recipe, HERE))
    outcome = subject.gradient(Objective(recipe), minibatches[0])
    found = slopes(subject)
    probe = Probe(subject.learner, recipe, batch)
    stats = [recipe.update(subject, Objective(recipe), m).stats for m in minibatches[:2]]
    return Seen(batch, outcome, found, stats, weights(subject), probe.row())


def close(found, expected, atol=TIGHT):
    assert (found is None) is (expected is None)
    if found is not None:
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def require_same(alone, ranks):
    """Every rank saw what the one learner saw, and all ranks hold the same bits."""
    for seen in ranks:
        for f in fields(alone.batch):
            one, other = getattr(alone.batch, f.name), getattr(seen.batch, f.name)
            assert one == other if not isinstance(one, torch.Tensor) else close(other, one) is None
        for f in fields(alone.outcome.trace):
            close(getattr(seen.outcome.trace, f.name), getattr(alone.outcome.trace, f.name))
        assert seen.outcome.minibatch.rollouts == alone.outcome.minibatch.rollouts
        close(seen.outcome.minibatch.old_logp_NT, alone.outcome.minibatch.old_logp_NT)
        assert seen.outcome.stats == pytest.approx(alone.outcome.stats, abs=TIGHT)
        assert largest_gap(seen.slopes, alone.slopes) < TIGHT
        for one, other in zip(alone.stats, seen.stats, strict=True):
            assert other == pytest.approx(one, rel=1e-8, abs=TIGHT)
        assert seen.probed == pytest.approx(alone.probed, rel=1e-8, abs=TIGHT)
        assert largest_gap(seen.weights, alone.weights) < TIGHT
        assert all(torch.equal(w, ranks[0].weights[n]) for n, w in seen.weights.items())


def region_seen(ranks):
    """Of a trust region as one of the ranks sees it: the slope, products with the Fisher matrix, and what a trial step
    does."""
    subject = learner(TRPO, ranks=ranks, micro_batch=1)
    batch = weigh(subject.prepare(random_groups(4, 3)), TRPO)
    subject.gradient(Objective(TRPO), batch)
    region = subject.trust_region(Objective(TRPO), batch)
    slope = region.slope()
    products = [region.fisher_product(slope) for _ in range(2)]
    region.move(0.01 * slope)
    return slope, *products, torch.tensor([region.loss, *region.measure(), region.distance()]).double()
