"""Whether what a model is to read and to write fits its positions, as far as it can be known before a run begins."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from upslope.algo.recipe import Recipe
from upslope.algo.sample import Attempts, Documents
from upslope.errors import UserError
from upslope.model.known import outgrown
from upslope.model.policy import Policy, num_embedded
from upslope.model.renderer import NOTHING, Renderer, prompt_of
from upslope.rollout.base import Request, require_room
from upslope.tasks.base import Task
from upslope.training.shown import require_shown_room, shown_rows
from upslope.types import Message, Problem, Sampling

T = TypeVar("T")
AROUND_A_TURN, AROUND_TOOLS = 32, 2048
"""Tokens: more than chat templates write around one message, and to say that there are tools."""
MOST_READ = 10_000
"""The longest texts, that many of which are tokenised before a run; a step looks at its own again."""


def require_room_for_run(
    task: Task,
    recipe: Recipe,
    held_out: Sequence[Problem],
    policy: Policy,
    sampling: Sampling,
    *,
    blocks: bool = False,
) -> None:
    """Raise UserError, which names the longest, for a problem, demonstration or document that the model is too short
    for: of what the recipe takes, and of the problems ``held_out`` for evaluation. A text of fewer bytes than there are
    positions is not tokenised: a token takes a byte at least. ``blocks``: documents are cut to fit."""
    sample, renderer, max_positions = recipe.sample, policy.renderer, policy.max_positions
    if outgrown(policy.tokenizer, num_embedded(policy.model)):
        _require_embedded(held_out, renderer)
        _require_embedded(task.problems("train") if isinstance(sample, Attempts) else task.demonstrations(), renderer)
    require_room_for(held_out, renderer, sampling, max_positions)
    if isinstance(sample, Attempts):
        require_room_for(task.problems("train"), renderer, sampling, max_positions)
        return
    if not isinstance(sample, Documents):
        _require_shown(task.demonstrations(), renderer, max_positions)
    if not blocks and (isinstance(sample, Documents) or sample.replay):
        texts = [Problem(f"document {i}", (), demonstration=text) for i, text in enumerate(task.documents())]
        _require_shown(texts, renderer, max_positions)


def require_room_for(problems: Sequence[Problem], renderer: Renderer, sampling: Sampling, max_positions: int) -> None:
    """Raise UserError unless the prompts, and the longest attempts at them, fit the model's positions."""
    most = _MostTokens(renderer)
    for problem in _longest(problems, most, max_positions - sampling.max_tokens):
        require_room([Request(problem.id, 0, prompt_of(renderer, problem))], sampling, max_positions)


def _require_shown(problems: Sequence[Problem], renderer: Renderer, max_positions: int) -> None:
    most = _MostTokens(renderer)
    kinds: set[tuple[object, ...]] = set()
    for problem in problems:  # one conversation of each kind, so that a refusal of the template comes before the run
        if problem.conversation and (kind := _kind(problem)) not in kinds:
            kinds.add(kind)
            shown_rows(renderer, problem)
    for problem in _longest(problems, lambda p: most(p) + _num_shown(p), max_positions):
        for prompt, response, _ in shown_rows(renderer, problem):
            require_shown_room(problem, prompt, response, max_positions)


def _require_embedded(problems: Sequence[Problem], renderer: Renderer) -> None:
    """Raise UserError for the first text with a token that the model has no row for."""
    for problem in problems:
        try:
            if problem.conversation or problem.demonstration is not None:
                shown_rows(renderer, problem)
            elif problem.messages:
                prompt_of(renderer, problem)
        except UserError as error:
            raise UserError(f"{problem.id}: {error}") from error


def _num_shown(problem: Problem) -> int:
    """As many tokens as there can be to imitate, beside the prompt."""
    if not problem.conversation:
        return num_bytes(problem.demonstration or "") + 1
    after = problem.conversation[len(problem.messages) :]
    told = sum(num_bytes(message["content"]) for message in after)
    return told + _num_beside(after) + AROUND_A_TURN * len(after)


def _num_beside(messages: Sequence[Message], options: Mapping[str, Any] = NOTHING) -> int:
    """As many tokens as a template may make of calls and tools: their bytes as JSON of the widest form, and more."""
    beside = [{k: v for k, v in message.items() if k not in ("role", "content", "train")} for message in messages]
    if not any(beside) and not options:
        return 0
    return num_bytes(json.dumps([beside, dict(options)], indent=4, default=str)) + AROUND_TOOLS


def _kind(problem: Problem) -> tuple[object, ...]:
    """What a chat template may refuse: an order of roles, parts of a message, keywords."""
    turns = [(m["role"], *sorted(key for key in m if key != "train")) for m in problem.conversation]
    return (*turns, *sorted(problem.template))


class _MostTokens:
    """As many tokens as a prompt can have: its bytes, and what the chat template adds to a chat of these roles."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._added: dict[tuple[str, ...], int] = {}

    def __call__(self, problem: Problem) -> int:
        roles = tuple(message["role"] for message in problem.messages)
        if roles not in self._added:
            short = [{**message, "content": "a"} for message in problem.messages]
            self._added[roles] = len(self._renderer.prompt_ids(short) if short else self._renderer.start_ids)
        told = sum(num_bytes(message["content"]) for message in problem.messages)
        return self._added[roles] + told + _num_beside(problem.messages, problem.template)


def _longest(items: Iterable[T], most: Callable[[T], int], room: int) -> list[T]:
    """Those that may have more tokens than there is room for, the longest first."""
    doubtful = [(num, item) for item in items if (num := most(item)) > room]
    return [item for _, item in heapq.nlargest(MOST_READ, doubtful, key=lambda pair: pair[0])]


def num_bytes(text: str) -> int:
    """How long a text is in a file."""
    return len(text.encode("utf-8", "replace"))
