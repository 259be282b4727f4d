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
    "learn.decay_share=2": "decay_share",
    "learn.optimizer=sgd": "optimizer",
    "learn.activations_share=0.2": "activations_share",
    "learn.logits_share=0.2": "logits_share",
    "sample.cache_share=0.2": "cache_share",
    "sample.order=random": "sample.order",
    'sample.stop=[""]': "stop",
    "sample.stop=a": "sample.stop",
    "epochs=3": "epochs",
    "epochs=1e30": "epochs",
    "epochs=many": "epochs",
    "eval.patience=2": "eval.patience",
    "eval.every=-1": "every",
    "save.best=true": "save.best",
    "save.top_logps=-1": "top_logps",
    'track=["paper"]': "track",
    'track=["tensorboard", "tensorboard"]': "track",
    "new.width=64": "new",
    "cluster.engine=trt": "engine",
    "cluster.most_gap=-1": "most_gap",
    "cluster.vllm_url=http://a": "vllm",
    'task.also=["data.jsonl"]': "also",
    "task.weights=[1]": "weights",
    "task.template=never": "template",
    "task.chat_template_kwargs=3": "chat_template_kwargs",
    "task.right=nan": "right",
    "task.right=inf": "right",
    "task.too_long=shorten": "too_long",
    "task.reward_timeout=100000": "reward_timeout",
    "task.on_timeout=mask": "on_timeout",
    "task.on_timeout=skip": "on_timeout",
    "task.reward_workers=999": "reward_workers",
    'task.tools=["mine.py:fine"]': "task.tools",
    "task.environment=mine.py:fine": "task.environment",
    "task.max_turns=2": "max_turns",
    "task.max_seconds=2": "max_seconds",
    "task.tool_seconds=2": "tool_seconds",
    'task.text=["none.txt"]': "none.txt",
    "task.text_weights=[1]": "text_weights",
    "task.text_column=x": "text_column",
    "task.text_held_out=0.5": "text_held_out",
}
OF_ROWS: dict[tuple[str, ...], str] = {
    ("task.min_prompt_tokens=9999",): "min_prompt_tokens",
    ("task.max_prompt_tokens=1",): "max_prompt_tokens",
    ('task.tools=["none.py:add"]',): "none.py",
    ('task.tools=["mine.py:none"]',): "none",
    ('task.tools=["pyton"]',): "pyton",
    ('task.tools=["mine.py:fine", "mine.py:fine"]',): "fine",
    ('task.tools=["mine.py:fine"]', "task.reward_workers=1"): "reward_workers",
    ("task.environment=none.py:Game",): "none.py",
    ("task.environment=mine.py:none",): "none",
    ("task.environment=mine.py:fine",): "environment",
    ('task.also=["none.jsonl"]', "recipe=sft"): "none.jsonl",
    ('task.also=["data.jsonl"]',): "task.also",
    ('task.also=["data.jsonl"]', "task.weights=[1]"): "weights",
    ('task.also=["data.jsonl"]', "task.weights=[1, 0]"): "weights",
    ("task.min_prompt_tokens=9", "task.max_prompt_tokens=3"): "min_prompt_tokens",
    ("task.max_prompt_tokens=1", "task.too_long=drop"): "max_prompt_tokens",
    ("task.too_long=drop", "sample.max_tokens=9999"): "task.too_long",
    ("task.too_long=truncate", "sample.max_tokens=9999"): "task.too_long",
    ("sample.order=file", "recipe.sample.kind=learnable"): "sample.order",
    ("recipe=sft", "task.columns.completion=answer", 'sample.stop=["a"]'): "sample.stop",
    ("task.template=raw", "task.right=x"): "right",
    ("eval.every=1", "eval.patience=1"): "eval.patience",
}
"""Settings of a run on rows of the user's, together."""
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
    for words, named in OF_ROWS.items():
        others = (*("recipe.sample" for word in words if word == "recipe=sft"), *(w.partition("=")[0] for w in words))
        train = (word for word in TRAIN if not word.startswith(others))
        yield Case(f"settings: {' '.join(words)}", (*train, "--data", "data.jsonl", *USER, *words), named)
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
