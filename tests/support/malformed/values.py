"""Values that a setting does not take, as TOML writes them, for every setting that there is."""

from __future__ import annotations

import random
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from upslope.training.settings import RunSettings

ODD = '"\\u001b]52;c;aGk=\\u0007\\u202e"'
"""Text that acts on a terminal."""
EVERYWHERE = ("1979-05-27", "[[[]]]", "{a = {b = 1}}", "nan", ODD)
HUGE = "1" + "0" * 30
NUMBER = ('"many"', "true", "[1]", "-1", HUGE, "inf", "-inf", '""', '"1e400"')
WORDS = ("3", "true", '[""]', "-0.0", '"\\u0000"', f'"{"x" * 5000}"')
WRONG: dict[str, tuple[str, ...]] = {
    "number": NUMBER,
    "text": WORDS,
    "bool": ('"yes"', "2", "[true]", '""'),
    "list": ('"mine.py:fine"', "3", "[3]", "[[]]", '[""]'),
    "table": ("3", '"x"', "[]", '{"" = 3}'),
}

TAKES_HUGE = {
    "steps",
    "tokens",
    "minutes",
    "eval.every",
    "eval.text_tokens",
    "eval.temperature",
    "sample.temperature",
    "learn.lr",
} | {
    *("learn.weight_decay", "learn.clip", "learn.lora_alpha", "learn.measure_every", "save.keep", "save.rollouts"),
    *("save.every", "learn.eps", "learn.warmup", "learn.micro_batch", "eval.problems", "sample.max_rows"),
}
"""Numbers of which more than anybody needs is in order."""
TAKEN = {(key, '"yes"') for key in ("learn.checkpoint_activations", "deterministic", "task.keep_special")} | {
    ("seed", "-1"),
    ("learn.lora_targets", ODD),  # nothing asks for an adapter
    ("out", ODD),
}
SAYS = {"task.name": "task", "task.rewards": "reward", "task.reward_weights": "reward", "task.options": "option"} | {
    "task.eval_data": "data",
    "reference.model": "reference",
    "reference.every": "reference",
}


def is_taken(key: str, value: str) -> bool:
    """Whether the value is in order after all."""
    return (key, value) in TAKEN or (value == HUGE and key in TAKES_HUGE)


def says(key: str) -> str:
    """What the error must name."""
    return SAYS.get(key, key.rpartition(".")[2])


def keys(kind: Any = RunSettings, above: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, which sort of value) of every setting."""
    hints = typing.get_type_hints(kind)
    for f in fields(kind):
        hint = hints[f.name]
        if is_dataclass(hint):
            yield from keys(hint, f"{above}{f.name}.")
        else:
            yield f"{above}{f.name}", sort_of(hint)


def sort_of(hint: Any) -> str:
    inside = set(typing.get_args(hint)) | {hint}
    if bool in inside:
        return "bool"
    if int in inside or (float in inside and typing.get_origin(hint) is not tuple):
        return "number"
    return {tuple: "list", dict: "table"}.get(typing.get_origin(hint), "text")


def wrong(key: str, sort: str) -> list[str]:
    """The values, in an order of the key's own."""
    values = [*EVERYWHERE, *WRONG[sort]]
    random.Random(key).shuffle(values)
    return values
