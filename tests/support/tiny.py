"""Tiny random models and rollouts for tests: everything small enough to compare with the naive way."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from upslope.algo.critic import OwnCopy
from upslope.algo.outcome import Scored
from upslope.algo.recipe import Recipe
from upslope.learn.bound import BoundLearner
from upslope.learn.build import build_learner
from upslope.learn.ranks import Ranks
from upslope.learn.settings import LearnSettings
from upslope.model.pocket import build_tokenizer
from upslope.model.policy import Policy
from upslope.model.precision import widen_norms
from upslope.model.reference import Reference
from upslope.model.value import value_model
from upslope.types import Group, Problem, Rollout, Sampling, Score

TOKENIZER = build_tokenizer()


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
    made = build_learner(
        of,
        recipe,
        learn,
        sampling=sampling or Sampling(),
        num_updates=num_updates + recipe.asked("critic").warmup,
        dtype=dtype,
        reference=Reference(of, policy(seed=1, dtype=dtype)) if recipe.refers else None,
        value=value,
        ranks=ranks,
    )
    if made.critic is not None:
        made.critic.optimizer.num_done = made.critic.slot.warmup
    return BoundLearner(recipe, made)


def scored(logp_NT: torch.Tensor, **fields: Any) -> Scored:
    """These log-probabilities as a forward pass would give them, with entropies of zero."""
    return Scored(logp_NT, torch.zeros_like(logp_NT), **fields)


def by_row(weight_NT: torch.Tensor, mask_NT: torch.Tensor) -> list[float]:
    """The one weight that all chosen tokens of a rollout have (0 without any); asserts that, and zeros elsewhere."""
    assert weight_NT.shape == mask_NT.shape
    assert not weight_NT[~mask_NT].any()
    inside = [row[mask].tolist() for row, mask in zip(weight_NT, mask_NT, strict=True)]
    assert all(len(set(row)) <= 1 for row in inside)
    return [row[0] if row else 0.0 for row in inside]


def gradients(of: BoundLearner) -> dict[str, torch.Tensor]:
    return {n: m.grad.detach().clone() for n, m in of.optimizer.masters.items() if m.grad is not None}


def largest_gap(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max()) for n in a)
