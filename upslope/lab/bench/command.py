"""``upslope bench``: what this machine can do, and how much of it sampling and learning use."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from upslope.algo.check import check as check_recipe
from upslope.algo.recipe import Recipe
from upslope.errors import UserError
from upslope.inspect.terminal import TerminalView
from upslope.lab.bench.ceiling import measure_ceiling
from upslope.lab.bench.figures import (
    ceiling_figures,
    kernels_of,
    learn_figures,
    machine_figures,
    rollout_figures,
    step_figures,
)
from upslope.lab.bench.flops import forward_flop
from upslope.lab.bench.measure import Work, timed_step
from upslope.lab.bench.shape import Shape
from upslope.lab.bench.table import show
from upslope.lab.bench.word_problems import WordProblems
from upslope.model.load import pick_device
from upslope.model.policy import Policy
from upslope.record.recorder import MemoryRecorder
from upslope.rollout.local import LocalSampler
from upslope.tasks.base import Task
from upslope.training.assemble import assemble
from upslope.training.memory import bound_kernel_caches, keep_freed_memory, peak_gb
from upslope.training.session import repeat_bits
from upslope.training.settings import RunSettings
from upslope.training.start import num_trainable, open_run_task, resolve_model, resolve_recipe, with_rate
from upslope.types import Problem

POCKET_SHAPE, SHAPE = "64x8x32", "4x8x128"

Say = Callable[[str], None]


def bench_command(settings: RunSettings, shape: str | None, repeat: int, *, as_json: bool) -> None:
    """Measure, and print a table or one JSON object; what is under way goes to standard error."""
    found = bench(settings, shape, repeat, lambda text: print(f"upslope bench: {text}", file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(found, allow_nan=False))
    else:
        show(found, Console())


def bench(settings: RunSettings, shape_text: str | None, repeat: int, say: Say) -> dict[str, Any]:
    """All figures: each the best of ``repeat`` steps, after one that warms up."""
    shape = Shape.parse(shape_text or (POCKET_SHAPE if is_pocket(settings.model) else SHAPE))
    recipe = acting(resolve_recipe(settings.recipe))
    task = prompts_for(settings)
    problems = first_problems(task, shape)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    if device.type == "cpu":
        repeat_bits()  # as in training
        bound_kernel_caches()
        keep_freed_memory()
    sample = replace(settings.sample, min_tokens=shape.tokens, max_tokens=shape.tokens)
    settings = replace(settings, sample=sample, problems=shape.problems)
    model, tokenizer = resolve_model(settings, lambda: TerminalView(Console(stderr=True)))
    settings = with_rate(settings, num_trainable(model, settings.learn))
    learner = assemble(model.to(device), tokenizer, recipe, settings, MemoryRecorder(), None)
    check_room(learner.policy, problems, shape)
    work = Work(shape, task, problems, recipe, LocalSampler(learner.policy), learner)
    steps = []
    for turn in range(repeat + 1):
        say(f"step of {shape} tokens, " + (f"{turn} of {repeat}" if turn else "to warm up"))
        steps.append(timed_step(work, turn))
    steps, peak = steps[1:], peak_gb(device)  # before the ceilings' own memory
    say("ceilings: products of matrices, memory")
    model, dtype = learner.policy.model, next(learner.policy.model.parameters()).dtype
    ceiling = measure_ceiling(device, list(dict.fromkeys((torch.float32, torch.bfloat16, dtype))))
    return {
        "model": settings.model,
        "recipe": settings.recipe["name"],
        "task": task.name,
        "shape": asdict(shape),
        "repeat": repeat,
        "flop_per_token": forward_flop(model),
        "machine": machine_figures(device, dtype) | {"kernels": kernels_of(learner.policy)},
        "ceiling": ceiling_figures(ceiling),
        "rollout": rollout_figures(steps, model, ceiling.gflops[dtype]),
        "learn": learn_figures(steps, model, ceiling.gflops[dtype]),
        "step": step_figures(steps, peak),
    }


def is_pocket(model: str) -> bool:
    """Whether this names the built-in model."""
    return model.partition(":")[0] == "pocket" and not Path(model).is_dir()


def acting(recipe: Recipe) -> Recipe:
    """The recipe as it is once it is under way: a critic's updates on its own are left out. Raises UserError if it
    imitates, or could not run."""
    check_recipe(recipe)
    if not recipe.acts:
        raise UserError("bench measures recipes whose policy acts; this one imitates given text")
    if hasattr(recipe.critic, "warmup"):
        return recipe.patch(critic=replace(recipe.critic, warmup=0))  # type: ignore[type-var]
    return recipe


def prompts_for(settings: RunSettings) -> Task:
    """The task that the settings name, else one that needs no data and suits the model."""
    if settings.task.name or settings.task.data:
        return open_run_task(settings.task, settings.seed)
    if is_pocket(settings.model):
        return open_run_task(replace(settings.task, name="pocket"), settings.seed)
    return WordProblems()


def first_problems(task: Task, shape: Shape) -> list[Problem]:
    """As many as the shape wants. Raises UserError if there are fewer, or they cannot be scored."""
    task.check_rewards()
    found = list(task.problems("train")[: shape.problems])
    if len(found) < shape.problems:
        raise UserError(f"--shape {shape}: task {task.name} has {len(found)} training problems, not {shape.problems}")
    return found


def check_room(policy: Policy, problems: list[Problem], shape: Shape) -> None:
    """Raise UserError if prompt and response of some problem are longer than the model can be."""
    longest = max(len(policy.renderer.prompt_ids(p.messages)) for p in problems)
    room = policy.max_positions - longest
    if shape.tokens > room:
        raise UserError(
            f"--shape {shape}: a prompt of {longest} tokens and {shape.tokens} to write do not fit the model's "
            f"{policy.max_positions} positions; the last number can be at most {room}"
        )
