"""Attempts whose tool sleeps against the same attempts with a tool that does not: what waiting costs.

    python benchmarks/slow_tool.py MODEL [ATTEMPTS] [SECONDS]

Every attempt calls the tool once, after its first turn, and then writes another; a turn ends after 24 tokens. The tool
sleeps SECONDS (2) in half of the attempts, and in all: whoever does not wait goes on meanwhile, and those that do wait
at the same time. One after the other they would take ATTEMPTS / 2 x SECONDS longer, and ATTEMPTS x SECONDS.
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
from upslope.rollout.converse import Attempted, converse
from upslope.rollout.local import LocalSampler
from upslope.tasks.episode import Episode, Reply
from upslope.types import Problem, Rollout, Sampling

QUESTION = "A baker makes 12 loaves a day and sells each for 3 dollars. What does she earn in a week?"
TURN = 24


class Sleeper(Episode):
    """Replies once, after so many seconds."""

    stops: Sequence[str] = ()

    def __init__(self, seconds: float) -> None:
        self._seconds, self._asked = seconds, False

    def reply(self, text: str) -> Reply:
        if self._asked:
            return None
        self._asked = True
        time.sleep(self._seconds)
        return "It is 252."


class ShortTurns(LocalSampler):
    """Cuts every turn after ``TURN`` tokens as if it had ended."""

    def generate(self, requests, sampling, address, progress=None, finished=None, more=None):  # type: ignore[no-untyped-def]
        from dataclasses import replace

        def short(asked: Sequence[Request]) -> list[Request]:
            return [replace(r, end=r.begin + TURN) for r in asked]

        def further(idle: bool) -> list[Request] | None:
            found = more(idle)
            return None if found is None else short(found)

        def told(place: int, rollout: Rollout) -> None:
            finished(place, replace(rollout, ended="stop"))

        return super().generate(short(requests), sampling, address, progress, told, further)


def main() -> None:
    if not 2 <= len(sys.argv) <= 4:
        raise SystemExit(__doc__)
    name, num, seconds = (sys.argv[1:] + ["32", "2"][len(sys.argv) - 2 :])[:3]
    model, tokenizer = load(name)
    cast_weights(model, pick_dtype("auto", model, model.device))
    policy = Policy(model, tokenizer)
    sampler, sampling = ShortTurns(policy), Sampling(min_tokens=200, max_tokens=200)
    for round_ in range(2):
        for label, every in (("no sleep", 0), (f"{seconds} s in half", 2), (f"{seconds} s in all", 1)):
            problem = Problem("p", ({"role": "user", "content": QUESTION},))
            attempts = [
                Attempted(problem, n, Sleeper(float(seconds) if every and n % every == 0 else 0.0))
                for n in range(int(num))
            ]
            start = time.perf_counter()
            found = converse(sampler, policy.renderer, attempts, sampling, Address(0, "sample"))
            took = time.perf_counter() - start
            tokens = sum(r.num_chosen for r in found)
            assert all(r.num_turns == 2 for r in found)
            if round_:
                print(f"{label:14} {took:6.2f} s  {tokens / took:8.1f} tokens a second, {len(found)} attempts")


if __name__ == "__main__":
    main()
