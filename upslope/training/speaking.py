"""A model that speaks for a while and learns nothing: to be evaluated, or only sampled from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from upslope.model.chat_renderer import reading
from upslope.model.load import pick_device
from upslope.model.policy import Policy
from upslope.model.precision import cast_weights, pick_dtype
from upslope.rollout.base import Progress, Sampler
from upslope.rollout.local import LocalSampler
from upslope.tasks.at_work import WATCH
from upslope.tasks.base import Task
from upslope.training.chosen import chosen_problems
from upslope.training.evaluate import Evaluation, evaluate
from upslope.training.fitting import fit_held_out
from upslope.training.prompt_notes import SpecialWatch, prompt_notes
from upslope.training.session import process_state
from upslope.training.settings import RunSettings
from upslope.training.shares import share_memory
from upslope.training.start import MakeView, resolve_model, with_max_tokens


@contextlib.contextmanager
def speaking(settings: RunSettings, make_view: MakeView, given: tuple[Any, Any] | None = None) -> Iterator[Policy]:
    """A policy for a while: of the model that the settings name, in their precision; or of ``given`` (a model and its
    tokenizer), which computes as it is and is afterwards as it was. How it is run is said first."""
    device = pick_device(settings.device)
    with process_state(settings, device):
        if given is None:
            model, tokenizer = resolve_model(settings, make_view)
            cast_weights(model, pick_dtype(settings.learn.dtype, model, device))
            model = model.to(device)
        else:
            model, tokenizer = given
        training = model.training
        policy = Policy(model, tokenizer)
        try:
            share_memory(policy, settings)
            for note in policy.notes:
                WATCH.say(note)
            yield policy
        finally:
            policy.release()
            model.train(training)


def evaluate_on(
    task: Task,
    settings: RunSettings,
    policy: Policy,
    progress: Progress | None = None,
    keep: Callable[[Sampler], Sampler] = lambda sampler: sampler,
) -> Evaluation:
    """The policy's accuracy on the task's held-out problems, as ``settings.eval`` says. ``keep`` may put something
    around the sampler."""
    settings = with_max_tokens(settings, task, policy.max_positions)
    fitted = fit_held_out(task, settings, policy)
    task = fitted.task
    there = task.problems("test")
    problems = chosen_problems(task, settings.eval.problems)
    for note in (*fitted.lines, *prompt_notes(problems, policy.renderer)):
        WATCH.say(note)
    found = evaluate(
        task,
        keep(LocalSampler(policy, max_rows=settings.sample.max_rows)),
        policy.renderer,
        problems,
        replace(settings.sample.sampling(), temperature=settings.eval.temperature),
        samples=settings.eval.samples,
        seed=settings.seed,
        progress=progress,
        by=settings.eval.by,
        num_there=len(there),
    )
    SpecialWatch()(found.greedy, reading(policy.renderer, special=task.keep_special))
    return found
