"""Claim 38: a world that replies in the middle of an attempt, at random, and whose words the policy did not choose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from upslope.algo.family import REINFORCE, RLOO
from upslope.algo.recipe import Recipe
from upslope.prove.claim import Check, Fact, angle, at_least, claim, equal
from upslope.prove.expect import expected
from upslope.prove.models import END
from upslope.prove.world import Prefix, World, numbers, toy
from upslope.types import Group, Problem, Rollout, Score

ASKS = 2
"""The token after which the world replies."""
REPLIES = {(END,): 0.2, (1,): 0.5, (1, ASKS): 0.3}
"""What it says, and with what chance: an end token, which ends nothing there; one token; two, the last a question,
which it does not answer, as it was not the policy's."""


@claim(
    38,
    "replies",
    "Where a world replies at random, the gradient over the tokens that the policy chose is that of expected reward",
    source="the policy gradient theorem: log p(attempt) = sum of log pi over choices + what no weight changes",
    compares="expected gradients with the slope of expected reward, summed over all choices and all replies",
)
def replies() -> Iterator[Check | Fact]:
    """p(attempt) = prod_chosen pi(y_t | y_<t) prod_replies w(reply): grad log p has no term of the world's. Its words
    are read, so they change what follows; taken for choices, they bend the gradient."""
    world = toy(limit=4)
    attempts = tuple(written(world, (), (), 1.0))
    reward_A = numbers(len(attempts), seed=5)
    logp_A, chance_A = log_chances(world, attempts)
    prob_A = logp_A.exp() * chance_A
    yield equal("all of it sums to 1", prob_A.sum().detach(), 1.0)
    yield Fact("attempts", len(attempts))
    yield Fact("of them with a reply", sum(not all(mask) for _, mask, _ in attempts))
    truth_W = world.slope((prob_A * reward_A).sum())
    rollouts = [told(world, number, attempt, reward_A) for number, attempt in enumerate(attempts)]
    found_W = mean_gradient(world, REINFORCE, [[r] for r in rollouts], prob_A.detach())
    yield equal("grad J", found_W, truth_W)
    pairs = [(i, j) for i in range(len(attempts)) for j in range(len(attempts))]
    prob_P = torch.stack([prob_A[i] * prob_A[j] for i, j in pairs]).detach()
    found_W = mean_gradient(world, RLOO, [[rollouts[i], rollouts[j]] for i, j in pairs], prob_P)
    yield equal("with the other attempt as baseline, grad J", found_W, truth_W)
    taken = [replace(r, mask=(True,) * len(r.mask)) for r in rollouts]
    wrong_W = mean_gradient(world, REINFORCE, [[r] for r in taken], prob_A.detach())
    yield at_least("replies taken for choices: degrees off grad J", angle(wrong_W, truth_W), 1.0)
    yield Fact("replies taken for choices: degrees off grad J", angle(wrong_W, truth_W))


Attempt = tuple[Prefix, tuple[bool, ...], float]
"""Tokens, which of them were chosen, and the chance of the world's replies in it."""


def written(world: World, tokens: Prefix, mask: tuple[bool, ...], chance: float) -> Iterator[Attempt]:
    """Every attempt that begins so: choices until one is an end token or the limit is reached, replies cut there."""
    if len(tokens) == world.limit or (mask and mask[-1] and tokens[-1] == END):
        yield tokens, mask, chance
    elif mask and mask[-1] and tokens[-1] == ASKS:
        for reply, weight in REPLIES.items():
            said = reply[: world.limit - len(tokens)]
            yield from written(world, tokens + said, mask + (False,) * len(said), chance * weight)
    else:
        for token in range(world.policy.vocabulary):
            yield from written(world, (*tokens, token), (*mask, True), chance)


def log_chances(world: World, attempts: Sequence[Attempt]) -> tuple[Tensor, Tensor]:
    """(sum of log pi over an attempt's choices, with gradient; chance of its replies), each prefix given to the model
    alone."""
    known: dict[Prefix, Tensor] = {}

    def logp(prefix: Prefix) -> Tensor:
        if prefix not in known:
            ids = torch.tensor([world.prompt + prefix])
            known[prefix] = world.plain(input_ids=ids, use_cache=False).logits[0, -1].log_softmax(dim=0)
        return known[prefix]

    sums = [
        torch.stack([logp(tokens[:t])[tokens[t]] for t in range(len(tokens)) if mask[t]]).sum()
        for tokens, mask, _ in attempts
    ]
    return torch.stack(sums), torch.tensor([chance for *_, chance in attempts], dtype=torch.float64)


def told(world: World, number: int, attempt: Attempt, reward_A: Tensor) -> Rollout:
    """The attempt as a sampler hands it over; log-probabilities, which these recipes do not read, are left at 0."""
    tokens, mask, _ = attempt
    return Rollout(
        problem_id="world",
        sample=number,
        prompt=world.prompt,
        response=tokens,
        mask=mask,
        logp=(0.0,) * len(tokens),
        version=0,
        ended="stop" if mask[-1] and tokens[-1] == END else "length",
        text="",
        score=Score(float(reward_A[number])),
    )


def mean_gradient(world: World, recipe: Recipe, groups: Sequence[Sequence[Rollout]], prob_P: Tensor) -> Tensor:
    """The expected gradient of a step that draws one of the groups."""
    named = [Group(Problem(f"world/{number}", ()), tuple(group)) for number, group in enumerate(groups)]
    return expected(world.learner(recipe), named, prob_P)
