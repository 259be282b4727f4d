"""From problems to groups of attempts: messages become requests, and what comes back gets its text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from upslope.errors import UserError
from upslope.model.renderer import Renderer, prompt_of
from upslope.rollout.address import Address
from upslope.rollout.base import Progress, Request, Sampler, require_prompt
from upslope.rollout.converse import Attempted, converse
from upslope.rollout.listener import Listeners
from upslope.rollout.stopping import text_read
from upslope.tasks.episode import Episode
from upslope.tasks.response import NO_RUN, Standing
from upslope.types import Problem, Rollout, Sampling

GroupFinished = Callable[[int, list[Rollout]], None]
"""Called with a problem's place among those asked for and all its attempts, once the last of them has ended."""


def no_episode(problem: Problem) -> Episode | None:
    """No world: the policy writes all of an attempt."""
    return None


def sample_groups(
    sampler: Sampler,
    renderer: Renderer,
    problems: Sequence[Problem],
    num_samples: int,
    sampling: Sampling,
    address: Address,
    progress: Progress | None = None,
    finished: GroupFinished | None = None,
    *,
    episode: Callable[[Problem], Episode | None] = no_episode,
    standing: Standing = NO_RUN,
) -> list[list[Rollout]]:
    """``num_samples`` attempts at every problem, with text and without score; the outer list follows ``problems``, an
    inner one its samples. ``episode`` is asked for the world of every attempt (``Task.episode``), which is told the
    run's ``standing`` where it judges.

    ``progress`` and ``finished`` are called in the thread that calls this; what they raise ends the generation.
    """
    attempts = [Attempted(p, sample, episode(p)) for p in problems for sample in range(num_samples)]
    worlds = [attempt.episode for attempt in attempts if attempt.episode is not None]
    if any(world.stops for world in worlds) and not getattr(sampler, "listens", False):
        raise UserError(
            f"the sampler {type(sampler).__name__} does not pause for the task's world (a calculator, say); sample in "
            "this process, or take the world away (gsm8k: calculator=false)"
        )
    converses = any(not world.stops for world in worlds)
    ended: dict[int, Rollout] = {}
    num_left = [num_samples] * len(problems)

    def group(index: int) -> list[Rollout]:
        return [ended[index * num_samples + sample] for sample in range(num_samples)]

    prompts = {} if converses else {p.id: prompt_of(renderer, p) for p in problems}

    def end(place: int, rollout: Rollout) -> None:
        if not converses:
            require_prompt(rollout, prompts[attempts[place].problem.id])
        text = rollout.text if converses else text_read(renderer, rollout, sampling)
        ended[place] = replace(rollout, text=text)
        index = place // num_samples
        num_left[index] -= 1
        if finished is not None and not num_left[index]:
            finished(index, group(index))

    if converses:
        returned = converse(sampler, renderer, attempts, sampling, address, progress, end, standing=standing)
    else:
        listeners = Listeners(renderer)
        requests = [Request(p.id, n, prompts[p.id], listeners.of(world)) for p, n, world in attempts]
        returned = sampler.generate(requests, sampling, address, progress, end)
    if len(returned) != len(attempts):
        who = type(sampler).__name__
        raise UserError(
            f"the sampler {who} returned {len(returned)} rollouts for {len(attempts)} requests; one for each"
        )
    for place, rollout in enumerate(returned):
        if place not in ended:  # a sampler that tells of nothing before it is through
            end(place, rollout)
    return [group(index) for index in range(len(problems))]
