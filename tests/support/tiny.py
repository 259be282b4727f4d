"""Tiny random models and rollouts for tests: everything small enough to compare with the naive way."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from upslope.algo.critic import OwnCopy
from upslope.algo.family import FAMILY
from upslope.algo.off_policy import SecondMoment
from upslope.algo.outcome import Scored
from upslope.algo.recipe import Recipe
from upslope.learn.bound import BoundLearner
from upslope.learn.build import build_learner
from upslope.learn.learner import Learner
from upslope.learn.ranks import Ranks
from upslope.learn.settings import LearnSettings
from upslope.model.pocket import build_tokenizer
from upslope.model.policy import Policy
from upslope.model.precision import widen_norms
from upslope.model.reference import Reference
from upslope.model.value import value_model
from upslope.rollout.groups import sample_groups
from upslope.rollout.local import LocalSampler
from upslope.types import Group, Problem, Rollout, Sampling, Score

TOKENIZER = build_tokenizer()


def bare_tokenizer(**tokens: str) -> Any:
    """The same tokenizer without a chat template, and with these special tokens."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    for name, value in tokens.items():
        setattr(tokenizer, name, value)
    return tokenizer


def model(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> LlamaForCausalLM:
    """A random Llama with grouped keys, wide initial weights so that its distributions are far from uniform."""
    settings: dict[str, Any] = {
        "vocab_size": len(TOKENIZER),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "pad_token_id": TOKENIZER.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": TOKENIZER.eos_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = LlamaForCausalLM(LlamaConfig(**settings | changes)).to(dtype)
    if dtype == torch.float64:
        widen_norms(made)
    return made


def policy(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> Policy:
    return Policy(model(seed, dtype, **changes), TOKENIZER)


def problems(num: int) -> list[Problem]:
    names = ("Tom", "Sam", "Eva", "Leo")
    return [
        Problem(f"toy/{i}", ({"role": "user", "content": f"{names[i % 4]} has {i + 2} apples." + " pens" * (i % 3)},))
        for i in range(num)
    ]


def drawn(of: Policy, asked: Sequence[Problem], num: int, *how: Any, by: Any = None, **settings: Any) -> Any:
    """Groups of attempts at the problems, by a policy: by a sampler of its own with these settings, or by this one."""
    return sample_groups(by or LocalSampler(of, **settings), of.renderer, asked, num, *how)


def group(
    problem: str,
    prompt: Sequence[int],
    responses: Sequence[Sequence[int]],
    rewards: Sequence[float],
    logps: Sequence[Sequence[float]] | None = None,
) -> Group:
    rollouts = tuple(
        Rollout(
            problem_id=problem,
            sample=i,
            prompt=tuple(prompt),
            response=tuple(response),
            mask=(True,) * len(response),
            logp=tuple(logps[i]) if logps else (-1.0,) * len(response),
            version=0,
            ended="stop",
            text="",
            score=Score(reward),
        )
        for i, (response, reward) in enumerate(zip(responses, rewards, strict=True))
    )
    return Group(Problem(problem, ()), rollouts)


def random_groups(num_groups: int = 4, size: int = 3, seed: int = 0, longest: int = 9) -> list[Group]:
    """Ragged groups with mixed rewards; every prompt differs."""
    rng = random.Random(seed)
    vocabulary = len(TOKENIZER)

    def tokens(num: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(num)]

    return [
        group(
            f"toy/{i}",
            tokens(rng.randint(1, 6)),
            [tokens(rng.randint(1, longest)) for _ in range(size)],
            [float(rng.random() < 0.5) for _ in range(size)],
        )
        for i in range(num_groups)
    ]


def learner(
    recipe: Recipe,
    *,
    of: Policy | None = None,
    sampling: Sampling | None = None,
    num_updates: int = 10,
    dtype: torch.dtype = torch.float64,
    ranks: Ranks | None = None,
    build: Callable[..., Learner] = build_learner,
    **settings: Any,
) -> BoundLearner:
    """A learner around a tiny policy; its reference is another random model, so that penalties pull, and its critic (no
    warm-up left) has a random head, so that values differ."""
    of = of or policy(dtype=dtype)
    learn = replace(LearnSettings(lr=1e-2, warmup=0), **settings)
    value = value_model(of.model, own_copy=isinstance(recipe.critic, OwnCopy)) if recipe.has_critic else None
    if value is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            torch.nn.init.normal_(value.head.weight, std=0.1)
    made = build(
        of,
        recipe,
        learn,
        sampling=sampling or Sampling(),
        num_updates=num_updates + recipe.asked("critic").warmup,
        dtype=dtype,
        reference=Reference(of, policy(seed=1, dtype=dtype)) if recipe.refers else None,
        value=value,
        **({} if ranks is None else {"ranks": ranks}),
    )
    if made.critic is not None:
        made.critic.optimizer.num_done = made.critic.slot.warmup
    return BoundLearner(recipe, made)


RECIPES: dict[str, Recipe] = {name: branch.recipe for name, branch in FAMILY.items()}
"""The family, for what must hold of all of it. The attempts here say log-probabilities of -1 of their sampler, which is
far from any model; so the bound on their second moment is one that lets some tokens stay."""
RECIPES["m2po"] = RECIPES["m2po"].patch(surrogate=SecondMoment(10.0))


def scored(logp_NT: torch.Tensor) -> Scored:
    """What a pass would say of these log-probabilities, entropies left at zero."""
    return Scored(logp_NT, torch.zeros_like(logp_NT))


def gradients(of: BoundLearner) -> dict[str, torch.Tensor]:
    return {n: m.grad.detach().clone() for n, m in of.optimizer.masters.items() if m.grad is not None}


def largest_gap(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max()) for n in a)
