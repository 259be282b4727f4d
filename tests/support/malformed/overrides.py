"""Settings as KEY=VALUE: keys that are none, and values that nothing takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from malformed.case import TINY, TRAIN, USER, Case, unique
from malformed.values import is_taken, keys, says, wrong
from upslope.algo.family import find

GPPO = find("ppo").recipe
KEYS: dict[str, str] = {
    "steps": "KEY=VALUE",
    "=3": "setting",
    ".=3": "setting",
    "..a=3": "setting",
    "learn.=3": "learn",
    ".learn=3": "setting",
    "learn..lr=3": "learn",
    "learn.lr.x=3": "learn.lr",
    "steps.x=3": "steps",
    "name.x=3": "name",
    "stps=3": "stps",
    "STEPS=3": "STEPS",
    "learn.lrr=3": "learn.lrr",
    "lern.lr=3": "lern",
    "learn=3": "learn",
    'learn="lr"': "learn",
    "learn=[]": "learn",
    "learn={lrr=1}": "learn.lrr",
    "recipe=": "recipe",
    "recipe=3": "recipe",
    "recipe=[]": "recipe",
    "recipe={}x": "recipe",
    "recipe=nan": "recipe",
    "recipe.name=grop": "grop",
    'recipe={name="grop"}': "grop",
    'recipe={nam="grpo"}': "nam",
    "recipe=none.py:MINE": "none.py",
    "recipe=mine.py:none": "none",
    "recipe=mine.py:fine": "mine.py:fine",
    "recipe.surrogat=x": "surrogat",
    "recipe.surrogate=": "recipe.surrogate",
    "recipe.surrogate=mine.py:none": "none",
    "recipe.surrogate=mine.py:fine": "surrogate",
    "recipe.surrogate.kind=": "surrogate",
    "recipe.surrogate.kind=3": "surrogate",
    "recipe.surrogate.kind.x=3": "surrogate",
    "recipe.sample.keep=3": "keep",
    "recipe.sample.keep=nothing": "keep",
    "recipe.sample.kind=learnabel": "learnabel",
    "recipe.sample.group_size=0": "group_size",
    "recipe.reuse.minibatches=9": "minibatches",
    "seed=" + "1" + "0" * 23: "seed",
    "seed=-1" + "0" * 23: "seed",
    "device=meta": "device",
    "device=gpu": "device",
    "device=cuda:99": "device",
    "device=cpu:x": "device",
    "device=\x1b[2J": "device",
    "threads=100000": "threads",
    "name=..": "name",
    "name=../a": "name",
    "name=/tmp/upslope-none": "name",
    "name=a/../b": "name",
    'name=" "': "name",
    'name="a\\u0000b"': "name",
    'name="\\u001b[2J"': "name",
    "name=\udcff": "name",
    "name=" + "n" * 300: "name",
    "out=\udcff": "out",
    "out=mine.py": "mine.py",
    "out=mine.py/a": "mine.py",
    "model=\udcff": "model",
    "model=": "model",
    "model=.": "model",
    "model=mine.py": "model",
    "model=~/none": "model",
    "model=a/b/c": "model",
    "model=pocket:sf": "sf",
    "model=pocket:\x1b]52;c;aGk=\x07": "pocket",
    "problems=999999999999": "problems",
    "recipe.sample.group_size=999999999999": "group_size",
    "eval.samples=999999999999": "eval.samples",
    "sample.max_tokens=999999999999": "max_tokens",
    "sample.min_tokens=9": "min_tokens",
    "sample.top_k=4": "top_k",
    "sample.top_p=0.5": "top_p",
    "sample.temperature=0": "temperature",
    "task.name=pockt": "pockt",
    "task.name=user": "data",
    "task.where=1 <": "where",
    "task.where=(" + "(" * 5000: "where",
    "task.where=x.y": "where",
    "task.columns.prompt=x": "columns",
    "task.options.x=3": "option",
    "reference.model=nowhere/at/all": "reference",
    "reference.every=3": "reference",
    "learn.lora_rank=2": "lora_rank",
    "learn.dtype=half": "dtype",
    "learn.beta1=1": "beta1",
    "learn.decay=exponential": "decay",
}
ACCEPTED = ("  learn.lr  =  1e-4 ", "seed=-5", "recipe=rft", "device=cpu:0", "sample.max_rows=1", "threads=1")
TAKEN = {"recipe.sample.drop_truncated=true", "recipe.advantage.whiten=true"}
"""What is in order in itself."""


def cases() -> list[Case]:
    return unique([*given(), *settings(), *list(slots())[::2]])


def command(text: str) -> tuple[str, ...]:
    """``upslope train`` with this setting last, and without another of its key."""
    key = text.partition("=")[0]
    return ("train", "--plain", "--model", "pocket:blank", *(t for t in TINY if t.partition("=")[0] != key), text)


def given() -> Iterator[Case]:
    for text, named in KEYS.items():
        words = ("train", "--plain", *TINY, text) if text.startswith("model") else command(text)
        yield Case(f"setting: {text[:60]!a}", words, named)
    for text in ACCEPTED:
        yield Case(f"setting: {text}", command(text), accepted=True)
    yield Case("setting: columns that are none", (*TRAIN, "--data", "data.jsonl", *USER, "task.columns.x=y"), "columns")
    yield Case("setting: a column that is none", (*TRAIN, "--data", "data.jsonl", *USER, "task.columns.truth=y"), "'y'")
    yield Case("setting: where of no column", (*TRAIN, "--data", "data.jsonl", *USER, "task.where=level > 3"), "level")
    yield Case("setting: where of text", (*TRAIN, "--data", "data.jsonl", *USER, "task.where=answer > 3"), "answer")


def settings() -> Iterator[Case]:
    """Every setting with values that it does not take, others than in ``run_files``."""
    for key, sort in keys():
        for value in wrong(key, sort)[3::6]:
            text = f"{key}={value}"
            yield Case(f"setting: {text[:60]}", command(text), says(key), accepted=is_taken(key, value))


def slots() -> Iterator[Case]:
    """Every slot with kinds that are none, and every field of a recipe that has many with values that are none."""
    for slot in (f.name for f in fields(GPPO)):
        for value in ("nonsense", "3", "[]", "true", "{kind = 3}", "{x = 3}", '"\\u001b[2J"'):
            yield Case(f"slot: {slot}={value}", command(f"recipe.{slot}={value}"), slot)
        held = getattr(GPPO, slot)
        for f in fields(held) if is_dataclass(held) else ():
            for value in ('"many"', "[]", "nan", "-7", "true", "1979-05-27"):
                text = f"recipe.{slot}.{f.name}={value}"
                yield Case(
                    f"slot: {text}",
                    (*command("recipe=ppo"), "recipe.critic.warmup=0", text),
                    slot,
                    accepted=text in TAKEN,
                )
