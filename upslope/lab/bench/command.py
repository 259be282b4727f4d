"""``upslope bench``: what this machine can do, and how much of it sampling and learning use."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from rich.console import Console

from upslope.algo.check import check as check_recipe
from upslope.algo.critic import LearnedCritic
from upslope.algo.recipe import Recipe
from upslope.algo.sample import Attempts
from upslope.errors import UserError
from upslope.inspect.data_stream import data_stream
from upslope.inspect.screen import console_aside
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
from upslope.lab.bench.measure import MeasuredRun, timed_steps
from upslope.lab.bench.table import print_figures
from upslope.lab.bench.word_problems import WordProblems
from upslope.lab.bench.workload import Workload
from upslope.model.load import pick_device
from upslope.model.names import is_pocket
from upslope.model.policy import Policy
from upslope.model.renderer import prompt_of
from upslope.record.recorder import MemoryRecorder
from upslope.rollout.local import LocalSampler
from upslope.tasks.base import Task
from upslope.training.assemble import assemble
from upslope.training.memory import keep_freed_memory, peak_gb
from upslope.training.named import open_run_task, resolve_recipe
from upslope.training.session import process_state
from upslope.training.settings import RunSettings
from upslope.training.start import num_trainable, resolve_model, with_rate
from upslope.types import Problem

POCKET_WORK, WORK = "64x8x32", "4x8x128"


def bench_command(settings: RunSettings, shape: str | None, repeat: int, *, as_json: bool) -> None:
    """Measure, and print a table or one JSON object; what is under way goes to standard error."""
    found = bench(settings, shape, repeat, lambda text: print(f"upslope bench: {text}", file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(found, allow_nan=False), file=data_stream())
    else:
        print_figures(found, Console())


def bench(settings: RunSettings, shape: str | None, repeat: int, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures: each the best of ``repeat`` steps, after one that warms up."""
    device = pick_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    with process_state(settings, device):  # as in training
        return _bench(settings, shape, repeat, say, device)


def _bench(
    settings: RunSettings, shape: str | None, repeat: int, say: Callable[[str], None], device: torch.device
) -> dict[str, Any]:
    default = POCKET_WORK if is_pocket(settings.model) else WORK
    work = Workload.parse(default if shape is None else shape)
    recipe = acting(resolve_recipe(settings.recipe), work.samples)
    task = prompts_for(settings)
    problems = first_problems(task, work)
    sample = replace(settings.sample, min_tokens=work.tokens, max_tokens=work.tokens)
    settings = replace(settings, sample=sample, problems=work.problems)
    model, tokenizer = resolve_model(settings, lambda: TerminalView(console_aside()))
    settings = with_rate(settings, num_trainable(model, settings.learn))
    learner = assemble(model.to(device), tokenizer, recipe, settings, MemoryRecorder(), None)
    for note in learner.policy.notes:
        say(note)
    check_room(learner.policy, problems, work)

    def before(step: int) -> None:
        say(f"step of {work} tokens, " + (f"{step} of {repeat}" if step else "to warm up"))

    sampler = LocalSampler(learner.policy)
    steps = timed_steps(MeasuredRun(settings, recipe, task, problems, sampler, learner, repeat + 1, before))
    peak = peak_gb(device)  # before the ceilings' own
    say("ceilings: products of matrices, memory")
    model, dtype = learner.policy.model, next(learner.policy.model.parameters()).dtype
    ceiling = measure_ceiling(device, list(dict.fromkeys((torch.float32, torch.bfloat16, dtype))))
    return {
        "model": settings.model,
        "recipe": settings.recipe["name"],
        "task": task.name,
        "shape": asdict(work),
        "repeat": repeat,
        "flop_per_token": forward_flop(model),
        "machine": machine_figures(device, dtype) | {"kernels": kernels_of(learner.policy)},
        "ceiling": ceiling_figures(ceiling),
        "rollout": rollout_figures(steps, model, ceiling.gflops[dtype]),
        "learn": learn_figures(steps, model, ceiling.gflops[dtype]),
        "step": step_figures(steps, peak),
    }


def acting(recipe: Recipe, num_samples: int) -> Recipe:
    """The recipe as it is once it is under way, with so many samples a problem: a critic's updates on its own are left
    out. Raises UserError if it imitates, or could not run."""
    check_recipe(recipe)
    if not isinstance(recipe.sample, Attempts):
        raise UserError("bench measures recipes whose policy acts; this one imitates given text")
    recipe = recipe.patch(sample=replace(recipe.sample, group_size=num_samples))
    return recipe.patch(critic=replace(recipe.critic, warmup=0)) if isinstance(recipe.critic, LearnedCritic) else recipe


def prompts_for(settings: RunSettings) -> Task:
    """The task that the settings name, else one that needs no data and suits the model."""
    if settings.task.name or settings.task.data:
        return open_run_task(settings.task, settings.seed)
    if is_pocket(settings.model):
        return open_run_task(replace(settings.task, name="pocket"), settings.seed)
    return WordProblems()


def first_problems(task: Task, work: Workload) -> list[Problem]:
    """As many as there is work on. Raises UserError if there are fewer, or they cannot be scored."""
    task.check_rewards()
    found = list(task.problems("train")[: work.problems])
    if len(found) < work.problems:
        raise UserError(f"--shape {work}: task {task.name} has {len(found)} training problems, not {work.problems}")
    return found


def check_room(policy: Policy, problems: list[Problem], work: Workload) -> None:
    """Raise UserError if prompt and response of some problem are longer than the model can be."""
    longest = max(len(prompt_of(policy.renderer, p)) for p in problems)
    room = policy.max_positions - longest
    if work.tokens > room:
        raise UserError(
            f"--shape {work}: a prompt of {longest} tokens and {work.tokens} to write do not fit the model's "
            f"{policy.max_positions} positions; the last number can be at most {room}"
        )
