"""A world small enough to be listed: one prompt, every response to it, a reward for each, and a policy.

Further axes here: Y all responses that can be drawn, W all trainable weights laid end to end.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from upslope.algo.recipe import Recipe
from upslope.learn.bound import BoundLearner
from upslope.learn.build import build_learner
from upslope.learn.settings import LearnSettings
from upslope.model.distribution import adjusted
from upslope.model.policy import Policy
from upslope.model.reference import Reference
from upslope.prove.models import END, Letters, Toy, transformer
from upslope.types import Ended, Group, Problem, Rollout, Sampling, Score

PLAIN = Sampling()
Prefix = tuple[int, ...]


@dataclass(frozen=True)
class World:
    """Everything that can happen after one prompt."""

    policy: Policy
    plain: Any
    """The same parameters behind transformers' ordinary call: what the ground truth is computed with."""
    prompt: tuple[int, ...]
    limit: int
    """The longest response, in tokens."""
    reward_Y: Tensor

    @property
    def responses(self) -> tuple[Prefix, ...]:
        """Every response: any tokens up to the first end token, or up to the limit; shorter ones first."""
        vocabulary = self.policy.vocabulary
        return tuple(
            response
            for length in range(1, self.limit + 1)
            for response in itertools.product(range(vocabulary), repeat=length)
            if END not in response[:-1] and (response[-1] == END or length == self.limit)
        )

    def ended(self, response: Prefix) -> Ended:
        return "stop" if response[-1] == END else "length"

    # -- the ground truth: a walk through the tree of prefixes, each given to the model alone and without padding -----

    def states(self, sampling: Sampling = PLAIN) -> dict[Prefix, Tensor]:
        """log pi(v | prompt, prefix), shape V, before every token of every response; with gradient."""
        found: dict[Prefix, Tensor] = {}
        for depth in range(self.limit):
            prefixes = sorted({r[:depth] for r in self.responses if len(r) > depth})
            ids = torch.tensor([self.prompt + p for p in prefixes])
            logits_RV = self.plain(input_ids=ids, use_cache=False).logits[:, -1]
            depth_R = torch.full((len(prefixes),), depth)
            logp_RV = adjusted(logits_RV, depth_R, sampling, torch.tensor([END])).log_softmax(dim=1)
            found |= dict(zip(prefixes, logp_RV, strict=True))
        return found

    def logp_YT(self, sampling: Sampling = PLAIN) -> Tensor:
        """log pi of every token of every response, zero behind its end; with gradient."""
        states = self.states(sampling)
        zero = torch.zeros((), dtype=torch.float64)
        return torch.stack(
            [
                torch.stack([states[r[:t]][r[t]] if t < len(r) else zero for t in range(self.limit)])
                for r in self.responses
            ]
        )

    def prob_Y(self, sampling: Sampling = PLAIN) -> Tensor:
        """p(y) = prod_t pi(y_t | y_<t), with gradient."""
        return self.logp_YT(sampling).sum(dim=1).exp()

    def expected_reward(self, sampling: Sampling = PLAIN) -> Tensor:
        """J = sum_y p(y) R(y), with gradient."""
        return (self.prob_Y(sampling) * self.reward_Y).sum()

    @property
    def length_Y(self) -> Tensor:
        return torch.tensor([len(r) for r in self.responses], dtype=torch.float64)

    def slope(self, of: Tensor) -> Tensor:
        """The gradient of a number by all weights, shape W."""
        weights = list(self.policy.model.parameters())
        pieces = torch.autograd.grad(of, weights, retain_graph=True, allow_unused=True)
        return torch.cat(
            [
                torch.zeros(w.numel(), dtype=w.dtype) if p is None else p.flatten()
                for w, p in zip(weights, pieces, strict=True)
            ]
        ).detach()

    # -- what a sampler would hand over -----------------------------------------------------------------------------

    def rollouts(self, sampling: Sampling = PLAIN) -> tuple[Rollout, ...]:
        """Every response as an attempt drawn from this policy."""
        logp_YT = self.logp_YT(sampling).detach()
        return tuple(
            Rollout(
                problem_id=f"world/{self.prompt}",
                sample=i,
                prompt=self.prompt,
                response=response,
                mask=(True,) * len(response),
                logp=tuple(logp_YT[i, : len(response)].tolist()),
                version=0,
                ended=self.ended(response),
                text="",
                score=Score(float(self.reward_Y[i])),
            )
            for i, response in enumerate(self.responses)
        )

    def groups(self, size: int, sampling: Sampling = PLAIN) -> tuple[list[Group], Tensor]:
        """Every ordered group of ``size`` attempts, Y ** size of them, and the probability of each; groups that
        cannot be drawn (top-k, top-p, a ban on early ends) are left out."""
        rollouts, prob_Y = self.rollouts(sampling), self.prob_Y(sampling).detach()
        possible = [i for i in range(len(rollouts)) if prob_Y[i] > 0]
        groups, prob = [], []
        for members in itertools.product(possible, repeat=size):
            groups.append(Group(Problem(f"world/{self.prompt}/{members}", ()), tuple(rollouts[i] for i in members)))
            prob.append(prob_Y[list(members)].prod())
        return groups, torch.stack(prob)

    # -- other worlds -----------------------------------------------------------------------------------------------

    def rewarding(self, reward_Y: Tensor) -> World:
        return replace(self, reward_Y=reward_Y)

    def copy(self) -> World:
        """The same world with weights of its own."""
        model, plain = copy.deepcopy((self.policy.model, self.plain))
        return replace(self, policy=Policy(model, self.policy.tokenizer), plain=plain)

    def moved(self, distance: float, seed: int = 1) -> World:
        """The world after its policy went ``distance`` along a fixed random direction of unit length."""
        other = self.copy()
        weights = list(other.policy.model.parameters())
        generator = torch.Generator().manual_seed(seed)
        direction = [torch.randn(w.shape, dtype=w.dtype, generator=generator) for w in weights]
        norm = torch.cat([d.flatten() for d in direction]).norm()
        with torch.no_grad():
            for weight, piece in zip(weights, direction, strict=True):
                weight += distance * piece / norm
        return other

    def stepped(self, step_W: Tensor) -> World:
        """The world after its weights moved by ``step_W``, laid out as ``weights`` lays them out."""
        other = self.copy()
        own = list(other.policy.model.parameters())
        with torch.no_grad():
            for weight, piece in zip(own, torch.split(step_W, [w.numel() for w in own]), strict=True):
                weight += piece.view_as(weight)
        return other

    @property
    def weights(self) -> Tensor:
        """All weights of the policy, shape W; constant."""
        return torch.cat([w.detach().flatten() for w in self.policy.model.parameters()])

    def at(self, learner: BoundLearner) -> World:
        """The world whose policy stands where a learner's does."""
        other = self.copy()
        with torch.no_grad():
            for own, theirs in zip(other.policy.model.parameters(), learner.policy.model.parameters(), strict=True):
                own.copy_(theirs)
        return other

    # -- the learner ------------------------------------------------------------------------------------------------

    def learner(
        self,
        recipe: Recipe,
        *,
        sampling: Sampling | None = None,
        reference: World | None = None,
        value: float | None = None,
        lr: float = 1e-2,
        micro_batch: int = 0,
    ) -> BoundLearner:
        """The learner of a real run around a copy of the policy. A critic gets a random head, or says ``value``
        everywhere; its warm-up is over."""
        policy = self.copy().policy
        settings = LearnSettings(lr=lr, warmup=0, clip=0.0, micro_batch=micro_batch)
        learner = build_learner(
            policy,
            recipe,
            settings,
            sampling=sampling or Sampling(max_tokens=self.limit),
            num_updates=100,
            dtype=torch.float64,
            reference=None if reference is None else Reference(policy, reference.policy),
        )
        if learner.critic is not None:
            head = learner.critic.model.head
            generator = torch.Generator().manual_seed(3)
            with torch.no_grad():
                random = torch.randn(head.weight.shape, generator=generator)
                head.weight.copy_(random * (value is None))
                head.bias.fill_(value or 0.0)
            learner.critic.optimizer.num_done = learner.critic.slot.warmup
        return BoundLearner(recipe, learner)


def stand_at(learner: BoundLearner, world: World) -> None:
    """Put the learner's weights where the world's are: the policy has been updated since its batch was prepared."""
    learner.optimizer.set_weights({n: w.detach() for n, w in world.policy.model.named_parameters()})


def numbers(num: int, seed: int = 0) -> Tensor:
    """A fixed table of arbitrary rewards in [-1, 1]."""
    return torch.rand(num, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def toy(
    limit: int = 3,
    vocabulary: int = 3,
    width: int = 3,
    prompt: Sequence[int] = (1,),
    seed: int = 0,
    *,
    mixed: bool = False,
) -> World:
    """The toy policy after a short prompt, with arbitrary rewards: 3 tokens and a limit of 3 make 15 responses."""
    model = Toy(vocabulary, width, seed, mixed=mixed)
    world = World(Policy(model, Letters()), model, tuple(prompt), limit, torch.zeros(0, dtype=torch.float64))
    return world.rewarding(numbers(len(world.responses)))


def llama(limit: int = 2) -> World:
    """The transformer, with packed attention in the learner and its own in the ground truth: 21 responses."""
    model, twin = transformer()
    world = World(Policy(model, Letters()), twin, (1, 3), limit, torch.zeros(0, dtype=torch.float64))
    return world.rewarding(numbers(len(world.responses)))


def right_or_wrong(world: World) -> World:
    """The same world with rewards 0 and 1."""
    return world.rewarding((world.reward_Y > 0).double())
