"""A model's directory that is damaged, or of another model: one line, and never a random weight."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from upslope.errors import UserError
from upslope.model.load import load
from upslope.model.pocket import build_model, build_tokenizer

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    build_model(0).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def config(**changes: Any) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        file = place / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def content(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda place: (place / name).write_bytes(data) and None


def weights(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def rewrite(place: Path) -> None:
        found = load_file(place / "model.safetensors")
        change(found)
        save_file(found, place / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def cut(place: Path) -> None:
    file = place / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def torch_file(place: Path) -> None:
    (place / "model.safetensors").unlink()
    (place / "pytorch_model.bin").write_bytes(b"junk")


MISSING = r"weights are missing in its files: \S+"
SHAPE = r"weights have another shape in its files: \S+"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "more layers": (config(num_hidden_layers=99), MISSING + " and 863 more; they would be random"),
    "a weight less": (weights(lambda w: w.pop(UP)), f"weights are missing in its files: {UP};"),
    "no tie": (config(tie_word_embeddings=False), r"weights are missing in its files: lm_head.weight;"),
    "another shape": (weights(lambda w: w.update({UP: w[UP][:5].clone()})), f"another shape in its files: {UP};"),
    "wider": (config(hidden_size=128), SHAPE + " and 28 more"),
    "fewer words": (config(vocab_size=10), SHAPE),
    "config: a list": (content("config.json", b"[]"), "cannot be loaded"),
    "config: no JSON": (content("config.json", b"{"), "cannot be loaded"),
    "config: no UTF-8": (content("config.json", b"\xff\xfe"), "cannot be loaded"),
    "config: no heads": (config(num_attention_heads=0), "cannot be loaded"),
    "config: fewer than no heads": (config(num_attention_heads=-3), "cannot be loaded: .* not a multiple"),
    "config: code of its own": (config(model_type="x", auto_map={"AutoModelForCausalLM": "x.Y"}), "cannot be loaded"),
    "config: a strange type": (config(model_type="\x1b]52;c;aGk=\x07"), "cannot be loaded"),
    "weights: junk": (content("model.safetensors", b"junk" * 100), "cannot be loaded: SafetensorError"),
    "weights: none": (content("model.safetensors", b""), "cannot be loaded: SafetensorError"),
    "weights: cut": (cut, "cannot be loaded: SafetensorError"),
    "weights: a junk pickle": (torch_file, "cannot be loaded"),
    "tokenizer: a list": (content("tokenizer.json", b"[]"), "cannot be loaded"),
    "tokenizer config: a list": (content("tokenizer_config.json", b"[]"), "cannot be loaded"),
    "generation config: a list": (content("generation_config.json", b"[]"), "cannot be loaded"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_damaged_is_refused_in_one_line(place: Path, capfd: pytest.CaptureFixture[str], what: str) -> None:
    damage, why = DAMAGE[what]
    damage(place)
    with pytest.raises(UserError, match=why):
        load(str(place))
    said = "".join(capfd.readouterr())
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n" for c in said), "nothing raw from a file"


def test_a_sound_one_is_loaded_and_ties_are_not_missing(place: Path) -> None:
    model, _ = load(str(place))
    assert model.config.tie_word_embeddings and "lm_head.weight" not in load_file(place / "model.safetensors")


def test_weights_without_a_place_are_told_of(place: Path) -> None:
    config(num_hidden_layers=2)(place)
    with pytest.warns(UserWarning, match=r"no place for 'model.layers.2.input_layernorm.weight' and 8 more, left out"):
        load(str(place))
