"""Claim 31: what dynamic sampling collects, over everything that can be drawn."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from upslope.algo.sample import Attempts, mixed
from upslope.errors import Exhausted
from upslope.model.chat_template import NOTHING
from upslope.model.continued import Continued
from upslope.model.renderer import Shown
from upslope.prove.claim import Check, Fact, claim, equal, vanishes
from upslope.rollout.base import Request
from upslope.rollout.scripted import ScriptedSampler
from upslope.tasks.base import Task
from upslope.training.collect import Collected, Collector
from upslope.types import Group, Message, Problem, Rollout, Sampling, Score

GroupRewards = tuple[float, ...]
KINDS: dict[GroupRewards, float] = {(0.0, 1.0): 0.2, (1.0, 0.0): 0.1, (0.0, 0.0): 0.4, (1.0, 1.0): 0.3}
"""The rewards of a group of two, and how likely they are: three groups of ten are mixed."""
MIXED = 0.3


class ScriptedTask(Task):
    """Task, renderer and script of a sampler in one: problem after problem gets the next group of rewards. An attempt
    writes its reward, 0 or 1, and the end token."""

    name = "script"

    def __init__(self, script: Sequence[GroupRewards]) -> None:
        self._left = iter(script)
        self._groups: dict[str, GroupRewards] = {}
        self._all = [Problem(f"{i}", ()) for i in range(len(script))]

    def problems(self, split: str) -> Sequence[Problem]:
        return self._all

    def demonstrations(self) -> Sequence[Problem]:
        return []

    def documents(self) -> Sequence[str]:
        return []

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        return [Score(float(text)) for text in responses]

    def fingerprint(self) -> str:
        return self.name

    end_ids = start_ids = (2,)
    turn_end_id = 2
    num_embedded = sys.maxsize
    written_start = ()

    def prompt_ids(self, messages: Sequence[Message], options: Mapping[str, Any] = NOTHING) -> tuple[int, ...]:
        return (3,)

    def holds_template(self, text: str) -> bool:
        return False

    def words_in(self, text: str) -> tuple[int, int]:
        return 0, len(text)

    def raw_ids(self, text: str) -> tuple[int, ...]:
        return (3,)

    def response_ids(self, text: str) -> tuple[int, ...]:
        raise RuntimeError("nothing is imitated here")

    def shown_turns(self, messages: Sequence[Message], options: Mapping[str, Any] = NOTHING) -> list[Shown]:
        raise RuntimeError("nothing is imitated here")

    def middle_ids(self, text: str) -> tuple[int, ...]:
        raise RuntimeError("no world speaks here")

    def next_turn(self, *_: object) -> Continued:
        raise RuntimeError("no world speaks here")

    def text(self, response: Sequence[int]) -> str:
        return f"{response[0]}"

    def write(self, request: Request) -> tuple[Sequence[int], Sequence[float]]:
        if request.problem_id not in self._groups:
            self._groups[request.problem_id] = next(self._left)
        return (int(self._groups[request.problem_id][request.sample]), 2), (0.0, 0.0)


def collected(script: Sequence[GroupRewards], per_step: int) -> Collected | None:
    """What the collector of a run makes of it, with a budget of the whole script; None if it cannot fill the step."""
    world = ScriptedTask(script)
    sampler = ScriptedSampler(world.write, end_ids=world.end_ids)
    collector = Collector(world, sampler, world, Sampling(), seed=0, per_step=per_step)
    try:
        return collector(Attempts(2, keep=mixed, refill=len(script) / per_step), step=0)
    except Exhausted:
        return None


def rewards(group: Group) -> GroupRewards:
    return tuple(r.reward for r in group.rollouts)


@claim(
    31,
    "refill",
    "Dynamic sampling keeps the first mixed groups in their order, each drawn as a group given that it is mixed",
    source="arXiv 2503.14476, section 3.2 and equation 11",
    compares="what the collector keeps, over every sequence of groups within its budget, with closed forms",
)
def refill() -> Iterator[Check | Fact]:
    """With m the chance of a mixed group and a budget of B tries for K: filled with P(Binomial(B, m) >= K), and then
    every kept group is of kind k with p_k / m."""
    tries = 5
    for wanted, chance_filled in (
        (1, 1 - (1 - MIXED) ** tries),
        (2, 1 - (1 - MIXED) ** tries - tries * MIXED * (1 - MIXED) ** (tries - 1)),
    ):
        filled = 0.0
        kept = dict.fromkeys(KINDS, 0.0)
        wrong = {
            "groups in another order than tried": 0,
            "groups too few or too many": 0,
            "tries after the step was full": 0,
        }
        tried = 0.0
        for script in itertools.product(KINDS, repeat=tries):
            prob = 1.0
            for kind in script:
                prob *= KINDS[kind]
            found = collected(script, wanted)
            if found is None:
                continue
            filled += prob
            tried += prob * len(found.attempted)
            for group in found.kept:
                kept[rewards(group)] += prob / wanted
            first = [g for g in found.attempted if mixed(g)][:wanted]
            wrong["groups in another order than tried"] += [id(g) for g in found.kept] != [id(g) for g in first]
            wrong["groups too few or too many"] += len(found.kept) != wanted
            before = found.attempted[:-wanted]  # the last tries are never more than what was wanted
            wrong["tries after the step was full"] += sum(mixed(g) is not None for g in before) >= wanted
        label = f"{wanted} of at most {tries}"
        yield equal(f"{label}: the chance to fill the step", filled, chance_filled)
        for kind, prob in KINDS.items():
            if kind[0] == kind[1]:
                yield vanishes(f"{label}: rewards {kind} among the kept", kept[kind])
            else:
                yield equal(f"{label}: rewards {kind} among the kept: p / m", kept[kind] / filled, prob / MIXED)
        for what, num in wrong.items():
            yield vanishes(f"{label}: {what}", float(num))
        yield Fact(f"{label}: groups tried for a step that was filled", tried / filled)
    yield from what_is_mixed()


def what_is_mixed() -> Iterator[Check | Fact]:
    """Mixed means unequal, whatever the sign: penalties tell attempts apart as rewards do."""
    for given_rewards, differs in (
        ((-1.0, 0.0), True),
        ((-1.0, -0.5), True),
        ((0.5, 1.0), True),
        ((-1.0, -1.0), False),
        ((1.0, 1.0), False),
        ((0.0, 0.0), False),
    ):
        rollouts = tuple(
            Rollout("signs", i, (1,), (2,), (True,), (0.0,), 0, "stop", "", Score(r))
            for i, r in enumerate(given_rewards)
        )
        found = mixed(Group(Problem("signs", ()), rollouts))
        yield equal(f"rewards {given_rewards}: kept (1) or not (2)", 1.0 + (found is None), 1.0 + (not differs))
