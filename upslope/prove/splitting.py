"""Claim 16: how a batch is cut, padded, packed and ordered is a matter of memory, never of result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from upslope.algo.aggregate import ConstantLength, sequence_mean, sequence_sum, token_mean
from upslope.algo.family import DAPO, GRPO, PPO, REINFORCE, REINFORCE_BASELINE
from upslope.algo.recipe import Recipe, show
from upslope.algo.sample import Attempts
from upslope.algo.shape import identity
from upslope.learn.bound import BoundLearner
from upslope.learn.prepare import weigh
from upslope.model.hf import use_attention
from upslope.prove.claim import Check, Fact, claim, equal
from upslope.prove.expect import gradient, rise
from upslope.prove.world import World, llama, numbers, toy
from upslope.types import Batch, Group

RECIPES: dict[str, Recipe] = {
    "reinforce": REINFORCE,
    "ppo": PPO,
    "grpo": GRPO,
    "dapo": DAPO.patch(sample=Attempts(), shape=identity),
}


def some_groups(world: World) -> list[Group]:
    """Four problems with prompts of one to three tokens, three attempts of mixed lengths at each, two prompts equal."""
    groups = []
    for k, prompt in enumerate(((1,), (2, 1), (1, 2, 2), (2, 1))):
        there = replace(world, prompt=prompt, reward_Y=numbers(len(world.responses), seed=k))
        rollouts = there.rollouts()
        chosen = tuple(
            replace(rollouts[(5 * k + 4 * i + i * i) % len(rollouts)], problem_id=f"{k}", sample=i) for i in range(3)
        )
        groups.append(replace(there.groups(1)[0][0], rollouts=chosen))
    return groups


@claim(
    16,
    "splitting",
    "Micro-batches, packing, padding and the order of problems leave the gradient alone",
    source="one denominator for the whole update: weight_n fixed before any split",
    compares="the gradient of one whole batch with that of the same batch cut, padded, packed and ordered otherwise",
)
def splitting() -> Iterator[Check | Fact]:
    """sum_n w_n sum_t value_nt with w_n fixed on the whole is a sum of its parts, whatever the parts."""
    for name, world in (("toy", toy()), ("transformer", llama(limit=3))):
        groups = some_groups(world)
        yield Fact(f"{name}: lengths of attempts, smallest", min(len(r.response) for g in groups for r in g.rollouts))
        yield Fact(f"{name}: lengths of attempts, largest", max(len(r.response) for g in groups for r in g.rollouts))
        yield from row_by_row(name, world, groups)
        for kind, recipe in RECIPES.items():
            yield from variations(f"{name}, {kind}", world, recipe, groups)


def row_by_row(name: str, world: World, groups: list[Group]) -> Iterator[Check | Fact]:
    """sum_n w_n A_n grad log p(y_n) with weights by hand, every response walked through the tree of its own prompt."""
    rows = [(r, r.reward - sum(s.reward for s in g.rollouts) / 3) for g in groups for r in g.rollouts]
    num, tokens = len(rows), sum(len(r.response) for r, _ in rows)
    index = {response: i for i, response in enumerate(world.responses)}
    by_hand: dict[Callable[[Batch], Tensor], Callable[[int], float]] = {
        sequence_sum: lambda n: 1 / num,
        sequence_mean: lambda n: 1 / num / n,
        token_mean: lambda n: 1 / tokens,
        ConstantLength(7): lambda n: 1 / num / 7,
    }
    walked = {r.prompt: replace(world, prompt=r.prompt).logp_YT().sum(dim=1) for r, _ in rows}
    for aggregate, weight in by_hand.items():
        terms = [weight(len(r.response)) * a * walked[r.prompt][index[r.response]] for r, a in rows]
        learner = world.learner(REINFORCE_BASELINE.patch(aggregate=aggregate))
        found_W = gradient(learner, weigh(learner.prepare(groups), learner.recipe))
        yield equal(f"{name}, {show(aggregate)}: row by row by hand", found_W, world.slope(torch.stack(terms).sum()))


def variations(name: str, world: World, recipe: Recipe, groups: list[Group]) -> Iterator[Check | Fact]:
    """Every way to process the same rows, against the plainest."""
    reference = world.moved(0.5, seed=4) if recipe.refers else None

    def learner(micro_batch: int = 0) -> BoundLearner:
        return world.learner(recipe, reference=reference, micro_batch=micro_batch)

    def whole(of: BoundLearner, ordered: list[Group]) -> Batch:
        return weigh(of.prepare(ordered), recipe)

    plain = learner()
    batch = whole(plain, groups)
    plain_W = both(plain, batch)
    for size in (1, 2, 5):
        cut = learner(size)
        yield equal(f"{name}: micro-batches of {size}", both(cut, whole(cut, groups)), plain_W)
    turned = [replace(g, rollouts=g.rollouts[::-1]) for g in (groups[2], groups[0], groups[3], groups[1])]
    yield equal(f"{name}: other order of problems and attempts", both(plain, whole(plain, turned)), plain_W)
    scattered = sorted(range(batch.num_rollouts), key=lambda n: (n % 3, n))
    yield equal(f"{name}: attempts of a problem apart", both(plain, batch.take(scattered)), plain_W)
    yield equal(f"{name}: four more columns, filled with NaN", both(plain, wider(batch, 4)), plain_W)
    if world.policy.packs:
        loose = learner(3)
        unpack(loose)
        yield equal(f"{name}: padded rows instead of packed ones", both(loose, whole(loose, groups)), plain_W)


def both(learner: BoundLearner, batch: Batch) -> Tensor:
    """The gradient of the policy and, where there is one, of the critic."""
    learner.gradient(learner.objective, batch)
    if learner.critic is None:
        return rise(learner)
    critic = [m.grad.flatten() for m in learner.critic.optimizer.masters.values() if m.grad is not None]
    return torch.cat([rise(learner), *critic]).detach().clone()


def wider(batch: Batch, num: int) -> Batch:
    """The batch in rectangles with ``num`` more columns; advantages there are NaN, which nothing may read."""
    rectangles = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name.endswith("_NT")}
    grown: dict[str, Any] = {
        name: torch.nn.functional.pad(value_NT, (0, num), value=torch.nan if name == "advantage_NT" else 0)
        for name, value_NT in rectangles.items()
        if value_NT is not None
    }
    return replace(batch, **grown)


def unpack(learner: BoundLearner) -> None:
    """Let policy, reference and critic run as any transformers model does: padded rows, the model's own attention."""
    frozen = learner.scorer.reference.frozen if learner.scorer.reference is not None else None
    models: list[Any] = []
    for policy in (learner.policy, frozen):
        if policy is not None:
            policy.packs = False
            models.append(policy.model)
    if learner.critic is not None:
        models.append(learner.critic.model.trunk)
    for model in models:
        use_attention(model, "sdpa")
