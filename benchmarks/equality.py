"""Whether the fast paths are the slow ones: tokens, log-probabilities, gradients, on a real model.

    python benchmarks/equality.py MODEL_DIR train.jsonl [100x8x32]

Tokens: the same attempts by the fast decoder and by transformers' own forward pass with its own cache (left-padded
rows, float32), with the same random numbers. A draw can differ only where its uniform number lies closer to the
boundary between two tokens than rounding moves that boundary; such an attempt goes its own way from there on.

Gradients: all rows packed, prompts shared, the head in chunks, on the native trunk; against one row at a time through
transformers' own forward pass with all logits at once. ``|a - b| / |b|`` over all parameters together.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from common import parser, rows, sizes
from torch import Tensor

from upslope.algo.family import FAMILY
from upslope.algo.objective import Objective
from upslope.learn.build import build_learner
from upslope.learn.prepare import weigh
from upslope.learn.settings import LearnSettings
from upslope.model.hf import use_attention
from upslope.model.load import load
from upslope.model.policy import Policy
from upslope.rollout.address import Address
from upslope.rollout.groups import sample_groups
from upslope.rollout.local import LocalSampler
from upslope.types import Group, Problem, Rollout, Sampling, Score

HERE = Address(0, "sample", 0)
RECIPE = FAMILY["grpo"].recipe.patch(regulariser=FAMILY["reinforce-baseline"].recipe.regulariser)


def plain_policy(name: str, dtype: torch.dtype) -> Policy:
    """A policy that takes the ordinary way everywhere."""
    model, tokenizer = load(name, dtype)
    policy = Policy(model, tokenizer)
    use_attention(model, "sdpa")
    policy.packs = policy.native = False
    return policy


def attempts(policy: Policy, problems: Sequence[Problem], num: int, sampling: Sampling) -> tuple[list[Rollout], float]:
    """All attempts in order, and the seconds they took."""
    start = time.perf_counter()
    groups = sample_groups(LocalSampler(policy, packed=policy.packs), policy.renderer, problems, num, sampling, HERE)
    return [r for group in groups for r in group], time.perf_counter() - start


def compare_tokens(options: argparse.Namespace, problems: Sequence[Problem]) -> list[Rollout]:
    """Print how many attempts are the same, token by token, and how far their log-probabilities are apart."""
    _, num_samples, num_tokens = sizes(options.shape)
    sampling = Sampling(max_tokens=num_tokens)
    model, tokenizer = load(options.model, torch.float32)
    fast, fast_seconds = attempts(Policy(model, tokenizer), problems, num_samples, sampling)
    slow_policy = plain_policy(options.model, torch.float32)
    slow, slow_seconds = attempts(slow_policy, problems, num_samples, sampling)
    same = [a.response == b.response for a, b in zip(fast, slow, strict=True)]
    gap = max(
        abs(x - y)
        for a, b, equal in zip(fast, slow, same, strict=True)
        if equal
        for x, y in zip(a.logp or (), b.logp or (), strict=True)
    )
    print(f"attempts with the same tokens: {sum(same)} of {len(same)} ({sum(len(r.response) for r in fast):,} tokens)")
    print(f"log-probabilities of those: at most {gap:.1e} apart")
    reach = [margin(slow_policy, a, b) for a, b, equal in zip(fast, slow, same, strict=True) if not equal]
    if reach:
        print(f"the others part where the uniform number is at most {max(reach):.1e} from the boundary between the two")
    print(f"seconds: {fast_seconds:.0f} and {slow_seconds:.0f}", flush=True)
    return fast


def margin(policy: Policy, a: Rollout, b: Rollout) -> float:
    """Where two attempts part: how far the number that decided is from the nearest edge of either token's interval, at
    the logits of one plain pass."""
    place = next(i for i, (x, y) in enumerate(zip(a.response, b.response, strict=False)) if x != y)
    (numbers,) = HERE.uniforms([(a.problem_id, a.sample)], place + 1)
    with torch.no_grad():
        logits_V = policy.model(input_ids=torch.tensor([a.prompt + a.response[:place]])).logits[0, -1]
    upto_V = logits_V.double().softmax(dim=0).cumsum(dim=0)
    edges = [float(upto_V[token]) for x in (a, b) for token in (x.response[place] - 1, x.response[place]) if token >= 0]
    return min(abs(float(numbers[place]) - edge) for edge in edges)


def gradient(policy: Policy, groups: Sequence[Group], dtype: torch.dtype, limit: int, *, one_by_one: bool) -> Tensor:
    """The whole gradient of one update as a vector, in float64."""
    settings = LearnSettings(lr=1e-5, micro_batch=1 if one_by_one else 0)
    drawn_from = Sampling(max_tokens=limit)
    learner = build_learner(policy, RECIPE, settings, sampling=drawn_from, num_updates=1, dtype=dtype)
    learner.gradient(Objective(RECIPE), weigh(learner.prepare(RECIPE, groups), RECIPE))
    return torch.cat([m.grad.double().flatten() for m in learner.optimizer.masters.values() if m.grad is not None])


def compare_gradients(options: argparse.Namespace, problems: Sequence[Problem], drawn: Sequence[Rollout]) -> None:
    """Print how far the gradients of the fast way are from those of the slow one."""
    _, num_samples, num_tokens = sizes(options.shape)
    groups = [
        Group(p, tuple(with_score(r) for r in drawn[i * num_samples : (i + 1) * num_samples]))
        for i, p in enumerate(problems[: options.problems])
    ]
    exact = gradient(plain_policy(options.model, torch.float64), groups, torch.float64, num_tokens, one_by_one=True)
    for dtype in (torch.float32, torch.float64):
        model, tokenizer = load(options.model, dtype)
        fast = gradient(Policy(model, tokenizer), groups, dtype, num_tokens, one_by_one=False)
        slow = gradient(plain_policy(options.model, dtype), groups, dtype, num_tokens, one_by_one=True)
        apart, errors = relative(fast, slow), (relative(fast, exact), relative(slow, exact))
        print(f"gradients in {dtype}: fast and slow {apart:.1e} apart; from the slow float64 one", end=" ")
        print(f"{errors[0]:.1e} (fast), {errors[1]:.1e} (slow)", flush=True)


def with_score(rollout: Rollout) -> Rollout:
    """Rewards that differ within every group."""
    return replace(rollout, score=Score(rollout.sample % 2 + 0.01 * rollout.sample))


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def main() -> None:
    arguments = parser(__doc__, shape="100x8x32")
    arguments.add_argument("--problems", type=int, default=4, help="problems of the gradients (default 4)")
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    num_problems, _, _ = sizes(options.shape)
    problems = [
        Problem(f"gsm8k/{i}", ({"role": "user", "content": row["question"]},))
        for i, row in enumerate(rows(options.data, num_problems))
    ]
    compare_gradients(options, problems, compare_tokens(options, problems))


if __name__ == "__main__":
    main()
