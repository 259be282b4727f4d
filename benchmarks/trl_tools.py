"""TRL's side of tools_vs_trl.py: the examples' files in its trainer, with all that is written and called noted."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

PROBLEMS, GROUP, STEPS, TURNS, TOKENS = 4, 4, 2, 3, 400
END = "<|im_end|>"
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}
"""Calls as Qwen and Hermes write them; TRL has the like for the templates that it knows."""


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


ANSWER, SECRET = "ANSWER", -1
"""Stand for what is right in an attempt's row."""
SUM, WRONG_SUM = call("calculate", expression="12+7"), call("calculate", expression="12/0")
LOW, SURE = call("guess", number=1), call("guess", number=SECRET)
SCRIPTS: dict[str, list[list[str]]] = {
    "calculator": [
        [SUM, ANSWER],
        [SUM + call("calculate", expression="3*4"), "12"],
        [WRONG_SUM, SUM, ANSWER],
        [ANSWER],
        [call("add", a=1), "19"],
        [call("calculate", sum="1+1"), ANSWER],
        [SUM, SUM, SUM],
        ["I add. " + SUM, "19"],
    ],
    "room": [
        [LOW, SURE, "Done."],
        [SURE, LOW, "Done."],
        [LOW + LOW + SURE, "Done."],
        [LOW, LOW, SURE],
        ["13"],
        [call("reset", low=1), SURE, "Done."],
    ],
}
"""What the policy writes, one attempt after the other."""


@dataclass
class Attempt:
    """One of TRL's: its prompt and turns as tokens, and what the trainer made of them."""

    prompt: list[int]
    turns: list[list[int]] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    """All that was read or written so far; at the end what the trainer says, without the prompt."""
    problem: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    reward: float = 0.0


class Writer:
    """Stands in for the model's ``generate``: notes what is written, by whom, and writes a script if there is one."""

    def __init__(
        self, model: Any, tokenizer: Any, script: Sequence[Sequence[str]] | None, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """``rows``: of the steps' problems, in their order."""
        self._generate, self._tokenizer, self._script, self._rows = model.generate, tokenizer, script, rows
        self.batches: list[list[Attempt]] = []

    def __call__(self, input_ids: Any, attention_mask: Any, **given: Any) -> Any:
        rows = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        attempts = self._of(rows)
        if self._script is None:
            whole = self._generate(input_ids=input_ids, attention_mask=attention_mask, **given)
            written = [self._to_end(row) for row in whole[:, input_ids.shape[1] :].tolist()]
        else:
            written = [self._told(attempt) for attempt in attempts]
            longest = max(map(len, written))
            padded = [w + [self._tokenizer.pad_token_id] * (longest - len(w)) for w in written]
            whole = torch.cat([input_ids, torch.tensor(padded)], dim=1)
        for attempt, row, turn in zip(attempts, rows, written, strict=True):
            attempt.turns.append(turn)
            attempt.row = row + turn
        return whole

    def _of(self, rows: list[list[int]]) -> list[Attempt]:
        """Whose turn each row is: those that go on with one of the batch, in order, or a new batch."""
        left, found = [*(self.batches[-1] if self.batches else [])], []
        for row in rows:
            fits = [a for a in left if len(row) > len(a.row) and row[: len(a.row)] == a.row]
            if not fits:
                self.batches.append([Attempt(row) for row in rows])
                return self.batches[-1]
            found.append(fits[0])
            left.remove(fits[0])
        return found

    def _to_end(self, row: list[int]) -> list[int]:
        end = self._tokenizer.eos_token_id
        return row[: row.index(end) + 1] if end in row else row

    def _told(self, attempt: Attempt) -> list[int]:
        assert self._script is not None
        batch = self.batches[-1]
        place = sum(map(len, self.batches[:-1])) + [each is attempt for each in batch].index(True)
        row = self._rows[place // GROUP]
        text = self._script[place % len(self._script)][len(attempt.turns)]
        text = text.replace(ANSWER, row.get("answer", "")).replace(str(SECRET), str(row.get("secret")))
        return [*self._tokenizer(text, add_special_tokens=False).input_ids, self._tokenizer.eos_token_id]


def noted(function: Callable[..., Any], calls: list[Any]) -> Any:
    """The same function, whose calls are written down: those that fit its parameters, and so begin it."""

    @functools.wraps(function)
    def noting(*own: Any, **arguments: Any) -> Any:
        inspect.signature(function).bind(*own, **arguments)
        try:
            result = function(*own, **arguments)
        except Exception as error:
            calls.append((function.__name__, arguments, f"{type(error).__name__}: {error}"))
            raise
        calls.append((function.__name__, arguments, result))
        return result

    return noting


@dataclass
class Side:
    """An example: its files, with every call noted in ``calls``."""

    name: str
    data: Path
    calls: list[Any]
    tools: list[Any]
    environment: Any
    reward: Callable[..., list[float]] | None

    def settings(self) -> dict[str, Any]:
        """As upslope's tasks take them."""
        rewards = (self.reward,) if self.reward else ()
        return {"tools": tuple(self.tools), "environment": self.environment or "", "rewards": rewards}


def side(name: str, folder: Path, calls: list[Any]) -> Side:
    module = {"calculator": "calculator", "room": "room"}[name]
    spec = importlib.util.spec_from_file_location(module, folder / f"{module}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    spec.loader.exec_module(loaded)
    if name == "calculator":
        return Side(name, folder / "calculator", calls, [noted(loaded.calculate, calls)], None, loaded.right)
    own = {"reset": noted(loaded.Room.reset, calls), "guess": noted(loaded.Room.guess, calls)}
    room = type("Room", (loaded.Room,), own)
    return Side(name, folder / "guessing", calls, [], room, None)


def trl_steps(of: Side, model: Any, tokenizer: Any, script: Any) -> list[list[Attempt]]:
    """Two steps of TRL's trainer: the attempts of each."""
    rows = [json.loads(line) for line in (of.data / "train.jsonl").read_text().splitlines()[: STEPS * PROBLEMS]]
    writer = Writer(model, tokenizer, script, rows)
    model.generate = writer

    def seen(completions: Any, completion_ids: Any, environments: Any = None, **columns: Any) -> list[float]:
        if of.reward is not None:
            rewards = of.reward(completions=completions, completion_ids=completion_ids, **columns)
        else:
            rewards = [environment.get_reward() for environment in environments]
        for attempt, ids, chat, problem, reward in zip(
            writer.batches[-1], completion_ids, completions, columns["id"], rewards, strict=True
        ):
            attempt.row, attempt.messages, attempt.problem, attempt.reward = list(ids), chat, problem, reward
        return list(rewards)

    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out,
            per_device_train_batch_size=PROBLEMS * GROUP,
            num_generations=GROUP,
            max_completion_length=TOKENS,
            max_tool_calling_iterations=TURNS - 1,
            max_steps=STEPS,
            shuffle_dataset=False,
            learning_rate=1e-5,
            temperature=1.0,
            bf16=False,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=seen,
            args=config,
            train_dataset=Dataset.from_list(rows),
            tools=of.tools or None,
            environment_factory=of.environment,
        )
        trainer.train()
    return writer.batches
