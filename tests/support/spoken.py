"""Attempts at one problem whose turns are given, written character by character as no tokenizer would."""

from __future__ import annotations

from typing import Any

import templated

from upslope.model.chat_renderer import ChatRenderer
from upslope.rollout.address import Address
from upslope.rollout.base import Request
from upslope.rollout.groups import sample_groups
from upslope.rollout.scripted import ScriptedSampler
from upslope.types import Problem, Rollout, Sampling


def spoken(
    task: Any, problem: Problem, *turns: str, family: str = "qwen2.5", most: int = 900, num: int = 1
) -> tuple[list[Rollout], list[tuple[int, ...]]]:
    """(the attempts, the tokens of each turn)."""
    subject = ChatRenderer.of(templated.tokenizer(family))
    written = [(*(i for c in turn for i in subject.ids(c)), subject.turn_end_id) for turn in turns]
    left = {n: list(written) for n in range(num)}
    sampling = Sampling(max_tokens=most)

    def write(request: Request) -> tuple[tuple[int, ...], list[float]]:
        ids = left[request.sample].pop(0)[: request.turn(sampling).max_tokens]
        return ids, [-0.5] * len(ids)

    sampler = ScriptedSampler(write, end_ids=subject.end_ids)
    (found,) = sample_groups(sampler, subject, [problem], num, sampling, Address(0, "sample"), episode=task.episode)
    return found, written
