"""A model that speaks for a while and learns nothing: to be evaluated, or only sampled from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from upslope.errors import UserError
from upslope.model.load import pick_device
from upslope.model.policy import Policy
from upslope.model.precision import cast_weights, pick_dtype
from upslope.rollout.base import Progress, Sampler
from upslope.rollout.local import LocalSampler
from upslope.tasks.base import Task
from upslope.training.evaluate import Evaluation, evaluate
from upslope.training.session import process_state
from upslope.training.settings import RunSettings
from upslope.training.start import MakeView, resolve_model, with_limit


@contextlib.contextmanager
def speaking(settings: RunSettings, make_view: MakeView, given: tuple[Any, Any] | None = None) -> Iterator[Policy]:
    """A policy for a while: of the model that the settings name, in their precision; or of ``given`` (a model and its
    tokenizer), which computes as it is and is afterwards as it was."""
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
            yield policy
        finally:
            policy.release()
            model.train(training)


def require_several(settings: RunSettings) -> None:
    """Raise UserError where several attempts would be one and the same."""
    if settings.eval.samples > 1 and not settings.eval.temperature:
        raise UserError(
            f"eval.samples = {settings.eval.samples} at temperature 0 would be the same attempt every time; raise the "
            "temperature, or take one sample"
        )


def evaluate_on(
    task: Task,
    settings: RunSettings,
    policy: Policy,
    progress: Progress | None = None,
    keep: Callable[[Sampler], Sampler] = lambda sampler: sampler,
) -> Evaluation:
    """The policy's accuracy on the task's held-out problems, as ``settings.eval`` says. ``keep`` may put something
    around the sampler."""
    if not settings.eval.problems:
        raise UserError("eval.problems = 0: an evaluation needs at least one held-out problem")
    require_several(settings)
    settings = with_limit(settings, task, policy.max_positions)
    return evaluate(
        task,
        keep(LocalSampler(policy, max_rows=settings.sample.max_rows)),
        policy.renderer,
        list(task.problems("test"))[: settings.eval.problems],
        replace(settings.sample.sampling(), temperature=settings.eval.temperature),
        samples=settings.eval.samples,
        seed=settings.seed,
        progress=progress,
    )
