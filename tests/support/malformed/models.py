"""Directories of models that are damaged, or no models: a tiny one is made once, and every case damages a copy."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from malformed.case import TINY, Case, Make, junk, unique
from upslope.model.pocket import build_model, build_tokenizer

UP = "model.layers.1.mlp.up_proj.weight"
OSC = "\x1b]52;c;aGk=\x07"
CONFIGS: dict[str, Any] = {
    "num_hidden_layers": (99, -1, 0, "x", None, 1.5, [], 10**12),
    "hidden_size": (128, 0, "x", None),
    "vocab_size": (10, 0, -1, "x", 10**9),
    "num_attention_heads": (0, -3, 7, "x"),
    "num_key_value_heads": (0, 3, "x"),
    "head_dim": (0, -1, 7),
    "intermediate_size": (7, 0, "x"),
    "max_position_embeddings": (0, -1, "x", 1, [], 1.5),
    "rope_theta": ("x", 0, -1, [], "nan", float("nan")),
    "rope_parameters": (
        *("x", [], {"rope_type": OSC}, {"rope_type": "yarn"}),
        *({"rope_type": "default", "rope_theta": theta} for theta in ("x", 0, -1, [], float("nan"), float("inf"))),
    ),
    "rope_scaling": ("x", {"type": "linear", "factor": "x"}),
    "rms_norm_eps": ("x", None),
    "hidden_act": ("x", 3, OSC),
    "model_type": ("x", "", 3, [], OSC, "bert"),
    "architectures": (OSC,),
    "tie_word_embeddings": (False,),
    "eos_token_id": ("x", [[]], 1.5),
    "pad_token_id": (10**6, "x"),
    "dtype": ("x", "float8"),
    "quantization_config": ("x", {}, {"quant_method": "gptq", "bits": 4}),
    "auto_map": ({"AutoModelForCausalLM": "x.Y"},),
}
"""Keys of config.json, and what stands there."""
FILES = (
    *("config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
)


def cases() -> list[Case]:
    return unique([*configs(), *files(), *weights(), *tokenizers(), *adapters(), *generation()])


@functools.cache
def model() -> Path:
    """The tiny model, in a folder that goes with this process."""
    place = Path(tempfile.mkdtemp())
    build_model(0).save_pretrained(place)
    build_tokenizer().save_pretrained(place)
    return place


def copied(change: Callable[[Path], object]) -> Make:
    """A copy of the model under ``model``, changed."""

    def make(folder: Path) -> None:
        shutil.copytree(model(), folder / "model")
        change(folder / "model")

    return make


def trained(*more: str) -> tuple[str, ...]:
    return ("train", "--plain", "--model", "./model", *TINY, "seed=1", *more)


def edited(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        file = place / name
        told = json.loads(file.read_text())
        if "rope_theta" in changes:  # where older files have it, and nowhere else
            told.pop("rope_parameters")
        file.write_text(json.dumps(told | changes))

    return change


def content(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda place: (place / name).write_bytes(data) and None


def configs() -> Iterator[Case]:
    for key, values in CONFIGS.items():
        for value in values:
            name = f"config: {key} = {value!a}"
            make = copied(edited("config.json", **{key: value}))
            code = 3 if value == 10**9 else 2  # no machine has that memory
            yield Case(name, trained(), "model", make=make, accepted=name in ACCEPTED, code=code)


def files() -> Iterator[Case]:
    """Files that are gone, empty, junk, cut, or folders."""
    for file in FILES:
        damages: dict[str, Callable[[Path], object]] = {
            "gone": lambda place, file=file: (place / file).unlink(),
            "empty": content(file, b""),
            "junk": content(file, junk(file)),
            "cut": lambda place, file=file: os.truncate(place / file, (place / file).stat().st_size // 2),
            "a list": content(file, b"[]"),
            "deep": content(file, b"[" * 100_000),
            "a folder": lambda place, file=file: ((place / file).unlink(), (place / file).mkdir()),
            "a link to itself": lambda place, file=file: ((place / file).unlink(), (place / file).symlink_to(file)),
        }
        for damage, change in damages.items():
            name = f"model: {file} is {damage}"
            if name in HARMLESS:
                continue
            yield Case(name, trained(), "model", make=copied(change), accepted=name in ACCEPTED)
    others: dict[str, Make] = {
        "nothing": lambda folder: None,
        "an empty folder": lambda folder: (folder / "model").mkdir(),
        "a file": lambda folder: (folder / "model").write_text("a"),
        "a broken link": lambda folder: (folder / "model").symlink_to("nowhere"),
        "a link to itself": lambda folder: (folder / "model").symlink_to("model"),
        "a run without checkpoints": lambda folder: (folder / "model" / "checkpoints").mkdir(parents=True),
    }
    for name, make in others.items():
        yield Case(f"model: {name}", trained(), "model", make=make)


def rewritten(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(place: Path) -> None:
        found = load_file(place / "model.safetensors")
        change(found)
        save_file(found, place / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def weights() -> Iterator[Case]:
    changes: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
        "one less": lambda w: w.pop(UP),
        "none": lambda w: w.clear(),
        "another shape": lambda w: w.update({UP: w[UP][:5].clone()}),
        "another number of dimensions": lambda w: w.update({UP: w[UP].flatten()}),
        "NaN": lambda w: w[UP].fill_(float("nan")),
        "one NaN": lambda w: w[UP][0].fill_(float("nan")),
        "infinite": lambda w: w[UP].fill_(float("inf")),
        "huge": lambda w: w[UP].fill_(3e38),
        "whole numbers": lambda w: w.update({UP: w[UP].to(torch.int64)}),
        "another name": lambda w: w.update({OSC: w.pop(UP)}),
    }
    for name, change in changes.items():
        yield Case(
            f"weights: {name}",
            trained(),
            SAYS.get(name, "model"),
            make=copied(rewritten(change)),
            accepted=name == "whole numbers",
        )

    def sharded(index: bytes) -> Callable[[Path], None]:
        def change(place: Path) -> None:
            (place / "model.safetensors").unlink()
            (place / "model.safetensors.index.json").write_bytes(index)

        return change

    indices = {
        "no JSON": b"{",
        "a list": b"[]",
        "nothing": b"{}",
        "an empty map": b'{"metadata": {}, "weight_map": {}}',
        "a map of numbers": b'{"metadata": {}, "weight_map": {"a": 3}}',
        "a map of text": b'{"metadata": {}, "weight_map": "a"}',
        "files that are not there": b'{"metadata": {}, "weight_map": {"a": "model-1.safetensors"}}',
        "files elsewhere": b'{"metadata": {}, "weight_map": {"a": "../../none.safetensors"}}',
    }
    for name, index in indices.items():
        yield Case(f"shards: {name}", trained(), "model", make=copied(sharded(index)))

    def pickled(data: bytes) -> Callable[[Path], None]:
        def change(place: Path) -> None:
            (place / "model.safetensors").unlink()
            (place / "pytorch_model.bin").write_bytes(data)

        return change

    for name, data in {
        "junk": b"junk",
        "nothing": b"",
        "code": b"cos\nsystem\n(S'true'\ntR.",
        "a zip": b"PK\x03\x04" * 9,
    }.items():
        yield Case(f"a pickle: {name}", trained(), "model", make=copied(pickled(data)))


SAYS = {"NaN": "finite", "one NaN": "finite", "infinite": "finite", "huge": "finite"}
TEMPLATES = {
    "a syntax error": "{% for",
    "an unknown name": "{{ nothing.at.all }}",
    "an exception": "{{ raise_exception('" + OSC + "') }}",
    "nothing": " ",
    "a huge loop": "{% for i in range(99999999) %}{% endfor %}",
    "an attack": "{{ ''.__class__.__mro__ }}",
    "a number's method": "{{ messages.x() }}",
    "division by zero": "{{ 1 / 0 }}",
    "an unknown filter": "{{ messages | nonsense }}",
    "an unknown test": "{% if messages is nonsense %}{% endif %}",
    "text times text": "{{ 'a' * 'b' }}",
    "an index": "{{ messages[99].content }}",
}


def tokenizers() -> Iterator[Case]:
    for name, template in TEMPLATES.items():
        for place in ("chat_template.jinja",):
            change = content(place, template.encode())
            yield Case(f"template: {name}", trained(), "chat template", make=copied(change))
    for key, values in {
        "eos_token": (3, [], {"content": 3}),
        "chat_template": (3, [{"name": "a"}], {"a": 3}),
        "tokenizer_class": (3, OSC),
        "model_max_length": ("x", []),
        "added_tokens_decoder": (3, {"x": 3}, {"0": {"content": 3}}),
        "pad_token": (3, []),
    }.items():
        for value in values:
            name = f"tokenizer: {key} = {value!a}"
            change = edited("tokenizer_config.json", **{key: value})

            def both(place: Path, change: Callable[[Path], None] = change, key: str = key) -> None:
                change(place)
                if key == "chat_template":
                    (place / "chat_template.jinja").unlink(missing_ok=True)

            yield Case(name, trained(), SAYS.get(name, "model"), make=copied(both), accepted=name in ACCEPTED)
    for name, model_part in {
        "no model": None,
        "a model of text": "x",
        "no vocabulary": {"type": "BPE"},
        "another kind": {"type": OSC},
    }.items():
        change = edited("tokenizer.json", model=model_part)
        yield Case(f"tokenizer.json: {name}", trained(), "model", make=copied(change))


def adapters() -> Iterator[Case]:
    """Adapter directories whose config, weights or base is none."""
    fine = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    configs: dict[str, Any] = {
        "no JSON": "{",
        "nothing": "",
        "a list": "[]",
        "an empty object": {},
        "an unknown type": fine | {"peft_type": OSC, "base_model_name_or_path": "model"},
        "no base": fine,
        "a base of a number": fine | {"base_model_name_or_path": 3},
        "a base that is not there": fine | {"base_model_name_or_path": "./nowhere"},
        "itself as its base": fine | {"base_model_name_or_path": "./adapter"},
        "no weights": fine | {"base_model_name_or_path": "./model"},
        "unknown targets": fine | {"base_model_name_or_path": "./model", "target_modules": ["x"]},
        "a rank of 0": fine | {"base_model_name_or_path": "./model", "r": 0},
        "a rank of text": fine | {"base_model_name_or_path": "./model", "r": "x"},
        "an unknown key": fine | {"base_model_name_or_path": "./model", "nonsense": 3},
    }
    for name, config in configs.items():

        def make(folder: Path, config: Any = config) -> None:
            shutil.copytree(model(), folder / "model")
            (folder / "adapter").mkdir()
            text = config if isinstance(config, str) else json.dumps(config)
            (folder / "adapter" / "adapter_config.json").write_text(text)

        words = ("train", "--plain", "--model", "./adapter", *TINY)
        yield Case(f"adapter: {name}", words, "model", make=make)
    for name, data in {"nothing": b"", "junk": junk("adapter"), "no tensors": b"\x02\0\0\0\0\0\0\0{}"}.items():

        def broken(folder: Path, data: bytes = data) -> None:
            shutil.copytree(model(), folder / "model")
            (folder / "adapter").mkdir()
            config = json.dumps(fine | {"base_model_name_or_path": "./model"})
            (folder / "adapter" / "adapter_config.json").write_text(config)
            (folder / "adapter" / "adapter_model.safetensors").write_bytes(data)

        yield Case(
            f"adapter: weights of {name}", ("train", "--plain", "--model", "./adapter", *TINY), "adapter", make=broken
        )


def generation() -> Iterator[Case]:
    for key, values in {"eos_token_id": ("x", -1, 10**6, [[]], {}), "temperature": ("x",)}.items():
        for value in values:
            name = f"generation: {key} = {value!a}"
            change = edited("generation_config.json", **{key: value})
            yield Case(name, trained(), "model", make=copied(change), accepted=name in ACCEPTED)
    yield Case(
        "model: an odd place",
        ("eval", "./model", "--task", "pocket"),
        "model",
        make=copied(lambda p: (p / "config.json").unlink()),
    )


HARMLESS = {
    *(f"model: generation_config.json is {damage}" for damage in ("gone", "empty", "junk", "cut", "a folder")),
    *(f"model: tokenizer_config.json is {damage}" for damage in ("gone", "a folder", "a link to itself")),
    *(
        f"model: chat_template.jinja is {damage}"
        for damage in ("gone", "empty", "a list", "a folder", "a link to itself")
    ),
    "model: generation_config.json is a link to itself",
}
"""What transformers does without, or takes for another template."""
ACCEPTED = {
    f"config: architectures = {OSC!a}",
    "config: auto_map = {'AutoModelForCausalLM': 'x.Y'}",
    "weights: whole numbers",
    f"tokenizer: tokenizer_class = {OSC!a}",
    "generation: temperature = 'x'",
}
"""What it takes, and is no harm."""
