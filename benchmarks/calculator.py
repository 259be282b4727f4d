"""Sampling with a world that speaks against sampling without, at the same lengths.

    python benchmarks/calculator.py MODEL [PxGxL] [ROUNDS]

Both sides write exactly L tokens an attempt (no end token before). On one side a listener replies with four tokens
after every token whose number forty divides, so that about a tenth of all tokens are the world's. Rounds
alternate; the ratio is of the best of each side.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from upslope.model.load import load
from upslope.model.policy import Policy
from upslope.model.precision import cast_weights, pick_dtype
from upslope.rollout.address import Address
from upslope.rollout.base import Request
from upslope.rollout.local import LocalSampler
from upslope.types import Sampling

QUESTION = (
    "A baker makes {} loaves a day and sells each for 3 dollars. What does she earn in a week? Think step by step."
)


class Listener:
    """Replies after one token of forty, by the token's number."""

    def pauses(self, token: int) -> bool:
        return token % 40 == 0

    def reply(self, response: Sequence[int]) -> tuple[int, ...]:
        return tuple(response[-1:]) * 4


def main() -> None:
    if not 2 <= len(sys.argv) <= 4:
        raise SystemExit(__doc__)
    model_name, shape, rounds = (sys.argv[1:] + ["4x8x128", "3"][len(sys.argv) - 2 :])[:3]
    num_problems, group_size, length = map(int, shape.split("x"))
    model, tokenizer = load(model_name)
    cast_weights(model, pick_dtype("auto", model, model.device))
    policy = Policy(model, tokenizer)
    sampler = LocalSampler(policy)
    sampling = Sampling(min_tokens=length, max_tokens=length)
    prompts = [
        policy.renderer.prompt_ids(({"role": "user", "content": QUESTION.format(i)},)) for i in range(num_problems)
    ]
    best: dict[str, float] = {}
    heard = 0.0
    for number in range(int(rounds) + 1):
        for side, listener in (("without", None), ("with", Listener())):
            requests = [
                Request(f"p/{i}", sample, prompt, listener)
                for i, prompt in enumerate(prompts)
                for sample in range(group_size)
            ]
            start = time.perf_counter()
            rollouts = sampler.generate(requests, sampling, Address(number, "bench"))
            seconds = time.perf_counter() - start
            assert all(len(r.response) == length for r in rollouts)
            if side == "with":
                heard = sum(r.num_heard for r in rollouts) / sum(len(r.response) for r in rollouts)
            if number:  # the first warms up
                best[side] = min(best.get(side, seconds), seconds)
            print(f"round {number} {side:8} {seconds:.2f} s", flush=True)
    tokens = num_problems * group_size * length
    print(
        f"{shape}: without {tokens / best['without']:.0f} tokens/s, with {tokens / best['with']:.0f} "
        f"({heard:.1%} of them the world's): {best['with'] / best['without'] - 1:+.1%} time"
    )


if __name__ == "__main__":
    main()
