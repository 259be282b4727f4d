"""``upslope data``: what a run would find in a data set, before it begins."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from upslope.errors import UserError
from upslope.inspect.data_stream import data_stream
from upslope.inspect.words import visible
from upslope.lab.dataset.alike import Alike, shared_problems
from upslope.lab.dataset.judged import Judged, odd_rewards, rewards_known
from upslope.lab.dataset.lengths import TokenLengths, of_demonstrations, of_prompts
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.names import is_new, is_pocket
from upslope.model.renderer import prompt_of
from upslope.record.load import load_model_positions
from upslope.tasks.base import Task
from upslope.training.named import open_run_task
from upslope.training.prompt_lengths import with_prompt_lengths
from upslope.training.prompt_notes import prompt_notes
from upslope.training.settings import RunSettings
from upslope.training.start import resolve_words
from upslope.types import Problem

MOST_NAMED = 3


def data_command(settings: RunSettings, row: int, *, as_json: bool) -> None:
    """Print it. Raises UserError where the data cannot be read, or has fewer problems than ``row``."""
    task = open_run_task(settings.task, settings.seed)
    renderer = ChatRenderer.of(*resolve_words(settings))
    task = with_prompt_lengths(task, settings.task, renderer)
    train, held_out = _problems(task, "train"), _problems(task, "test")
    if row > max(len(train), 1):
        raise UserError(f"--row {row}: there are {len(train)} training problems")
    longest = settings.sample.max_tokens or task.max_tokens or 256
    positions = (
        sys.maxsize if is_new(settings.model) or is_pocket(settings.model) else load_model_positions(settings.model)
    )
    shown = list(task.demonstrations())
    lengths = {
        "prompts": of_prompts(train, renderer, positions - longest),
        "held-out prompts": of_prompts(held_out, renderer, positions - longest),
        "demonstrations": of_demonstrations(shown, renderer, positions),
    }
    notes = prompt_notes(train, renderer)
    same, rewards = shared_problems(train, held_out), rewards_known(task, shown)
    if as_json:
        told: dict[str, Any] = {"train": len(train), "held_out": len(held_out), "demonstrations": len(shown)}
        told |= {"lengths": {name: asdict(found) | {"spread": found.spread} for name, found in lengths.items()}}
        told |= {"alike": [asdict(pair) for pair in same], "rewards": [asdict(judgement) for judgement in rewards]}
        told |= {"notes": notes}
        print(json.dumps(told, indent=1), file=data_stream())
        return
    console = Console()
    lines = [f"{len(train)} training problems, {len(held_out)} held out, {len(shown)} demonstrations"]
    lines += [f"LOOK: {note}" for note in notes]
    lines += _of_lengths(lengths, longest, positions) + _of_alike(same, len(held_out)) + _of_rewards(rewards)
    for line in lines:
        console.print(Text(visible(line)), soft_wrap=True)
    if train:
        _show(console, renderer, train[row - 1])


def _problems(task: Task, split: Any) -> Sequence[Problem]:
    try:
        return task.problems(split)
    except UserError:
        return ()


def _of_lengths(lengths: dict[str, TokenLengths], longest: int, positions: int) -> list[str]:
    lines = []
    for name, found in lengths.items():
        if found.tokens:
            least, median, most_of_them, most = found.spread
            lines.append(f"tokens of {name}: {least} to {most}, half up to {median}, 95 % up to {most_of_them}")
        if found.too_long:
            what = "of them" if name == "demonstrations" else f"of them with {longest} tokens for an attempt"
            named = ", ".join(found.too_long[:MOST_NAMED])
            lines.append(f"  TOO LONG: {len(found.too_long)} {what}, for the model's {positions} positions: {named}")
        lines += [f"  REFUSED: {line}" for line in found.refused[:MOST_NAMED]]
        if len(found.refused) > MOST_NAMED:
            lines.append(f"  and {len(found.refused) - MOST_NAMED} more are refused")
    return lines


def _of_alike(same: list[Alike], num: int) -> list[str]:
    exact = sum(pair.exact for pair in same)
    if not same:
        return [f"none of the {num} held-out problems is in the training data, or nearly"] if num else []
    lines = [f"{exact} of {num} held-out problems are in the training data, {len(same) - exact} more nearly:"]
    return lines + [f"  {pair.held_out} is {pair.train} ({100 * pair.share:.0f} %)" for pair in same[:MOST_NAMED]]


def _of_rewards(rewards: list[Judged]) -> list[str]:
    if not rewards:
        return []
    told = ", ".join(f"{judgement.kind} {judgement.mean:.3g}" for judgement in rewards)
    lines = [f"mean reward over {len(rewards[0].rewards)} problems: {told}"]
    return lines + [f"  LOOK: {line}" for line in odd_rewards(rewards)]


def _show(console: Console, renderer: ChatRenderer, problem: Problem) -> None:
    """A prompt as the model reads it, special tokens spelled out, and where the policy begins to write."""
    prompt = prompt_of(renderer, problem)
    console.print(Text(f"{visible(problem.id)}, {len(prompt)} tokens, as the model reads it:", "bold"))
    text = Text(visible(renderer.spelled(prompt)), "bright_black")
    text.append("▶ here the policy begins to write", "bold green")
    console.print(text, soft_wrap=True)
