"""A model's directory that is damaged, or of another model: one line, and never a random weight."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from upslope.errors import UserError
from upslope.model.directory import require_config
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


def cut_archive(place: Path) -> None:
    torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    (place / "pytorch_model.bin").write_bytes((place / "pytorch_model.bin").read_bytes()[:2000])


def empty_archive(place: Path) -> None:
    (place / "model.safetensors").unlink()
    (place / "pytorch_model.bin").touch()


def renamed(mark: str, at: str = "") -> Callable[[Path], None]:
    """A mark that is put into the names of weights, before ``at``."""

    def change(found: dict[str, Any]) -> None:
        for name in [n for n in found if n.startswith(at)]:
            found[at + mark + name.removeprefix(at)] = found.pop(name)

    return weights(change)


def without(*names: str) -> Callable[[Path], None]:
    return lambda place: [(place / name).unlink() for name in names] and None


def index(place: Path) -> None:
    (place / "model.safetensors").rename(place / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def other_form(place: Path) -> None:
    (place / "model.safetensors").rename(place / "model-q4.gguf")


def headless(place: Path) -> None:
    """As ``AutoModel`` saves a model whose head is its own."""
    config(architectures=["LlamaModel"], tie_word_embeddings=False)(place)


def nothing_named(place: Path) -> None:
    found = json.loads((place / "config.json").read_text())
    del found["model_type"]
    (place / "config.json").write_text(json.dumps(found))


def adapter(place: Path) -> None:
    (place / "adapter_config.json").write_text(
        json.dumps(
            {"peft_type": "LORA", "base_model_name_or_path": "/nowhere/base", "r": 2, "target_modules": ["q_proj"]}
        )
    )


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
MISSING = r"weights are missing in its files: \S+"
SHAPE = r"weights have another shape in its files: \S+"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "more layers": (config(num_hidden_layers=99), MISSING + " and 863 more; they would be random"),
    "a weight less": (weights(lambda w: w.pop(UP)), f"weights are missing in its files: {UP};"),
    "no tie": (config(tie_word_embeddings=False), r"weights are missing in its files: lm_head.weight;"),
    "another shape": (
        weights(lambda w: w.update({UP: w[UP][:5].clone()})),
        UP + " .5 x 64 there, 192 x 64 here.; they would be",
    ),
    "wider": (config(hidden_size=128), SHAPE + r" .* and 28 more"),
    "fewer words": (config(vocab_size=10), SHAPE),
    "config: a list": (content("config.json", b"[]"), "cannot be loaded"),
    "config: no JSON": (content("config.json", b"{"), "cannot be loaded"),
    "config: no UTF-8": (content("config.json", b"\xff\xfe"), "cannot be loaded"),
    "config: no heads": (config(num_attention_heads=0), "cannot be loaded"),
    "config: fewer than no heads": (config(num_attention_heads=-3), "cannot be loaded: .* not a multiple"),
    "config: code of its own": (config(model_type="x", auto_map={"AutoModelForCausalLM": "x.Y"}), "cannot be loaded"),
    "config: a strange type": (config(model_type="\x1b]52;c;aGk=\x07"), "cannot be loaded"),
    "weights: junk": (
        content("model.safetensors", b"junk" * 100),
        "cannot be loaded: model.safetensors is no safetens",
    ),
    "weights: none": (content("model.safetensors", b""), "cannot be loaded: model.safetensors is no safetensors file"),
    "weights: cut": (cut, "cannot be loaded: model.safetensors was cut off: it has 5,000 bytes"),
    "weights: a pointer": (content("model.safetensors", POINTER), "model.safetensors is a pointer of git-lfs"),
    "weights: not there": (without("model.safetensors"), "no weights .*: they may not have been downloaded"),
    "weights: of another form": (other_form, r"model-q4.gguf is in llama.cpp's form"),
    "weights: a shard less": (index, "names model-00002-of-00002.safetensors, and there is no such file"),
    "weights: of one byte": (
        weights(lambda w: w.update({UP: w[UP].to(torch.int8)})),
        r"one byte \(I8\): its weights are",
    ),
    "weights: fp8": (weights(lambda w: w.update({UP: w[UP].to(torch.float8_e4m3fn)})), r"up_proj\.weight in .*F8_E4M3"),
    "weights: quantized": (config(quantization_config={"quant_method": "gptq", "bits": 4}), r"quantized \(gptq\)"),
    "weights: too many": (
        config(num_hidden_layers=2),
        r"no place for 'model.layers.2.input_layernorm.weight' and 8 more",
    ),
    "weights: without a head": (headless, r"lm_head.weight; .* it is a LlamaModel, which has no head for tokens"),
    "names: torch.compile": (
        renamed("_orig_mod."),
        r"named with '_orig_mod.', such as .* as torch.compile leaves them",
    ),
    "names: compiled layers": (
        renamed("_orig_mod.", "model.layers.0."),
        r"named with '_orig_mod.', such as 'model.lay",
    ),
    "names: DDP": (renamed("module."), r"named with 'module.', such as .* DDP and DataParallel leave them"),
    "names: peft": (renamed("base_model.model."), r"named with 'base_model.model.'.* peft leaves them"),
    "names: somebody's": (renamed("policy."), r"named with 'policy.' before what they are"),
    "names: a value head": (weights(lambda w: w.update({"v_head.w": w[UP].clone()})), r"'v_head.w' \(another head's"),
    "config: no type": (nothing_named, "its config.json has no model_type"),
    "tokenizer: none": (without("tokenizer.json", "tokenizer_config.json"), "the directory holds no tokenizer"),
    "tokenizer: a pointer": (content("tokenizer.json", POINTER), "tokenizer.json is a pointer of git-lfs"),
    "an adapter to nowhere": (adapter, r"is an adapter to '/nowhere/base', and there is no such directory"),
    "weights: a junk pickle": (torch_file, "cannot be loaded: its pytorch_model.bin holds something else than weights"),
    "weights: a cut archive": (cut_archive, r"pytorch_model.bin was cut off \(2,000 bytes are there\)"),
    "weights: an empty archive": (empty_archive, r"pytorch_model.bin was cut off \(0 bytes"),
    "config: an encoder": (
        config(model_type="t5", architectures=["T5ForConditionalGeneration"], d_model=32),
        r"an encoder-decoder \(T5ForConditionalGeneration\)",
    ),
    "config: a masked model": (
        config(model_type="modernbert", architectures=["ModernBertForMaskedLM"], rope_parameters=None),
        r"no causal language model of its kind \(ModernBertForMaskedLM\)",
    ),
    "config: no keys": (config(num_key_value_heads=0), "its config.json has num_key_value_heads = 0"),
    "tokenizer: cut": (content("tokenizer.json", b'{"version": '), r"tokenizer.json \(12 bytes\) is no JSON"),
    "tokenizer config: nothing": (content("tokenizer_config.json", b""), r"tokenizer_config.json \(0 bytes\) is no"),
    "tokenizer: half": (without("tokenizer.json"), "its tokenizer's files are not all there"),
    "generation config: cut": (
        content("generation_config.json", b'{"eos'),
        r"generation_config.json \(5 bytes\) is no",
    ),
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


def test_a_processors_chat_template_is_the_models(place: Path) -> None:
    """Processors of older versions kept it in a file that tokenizers do not read."""
    (place / "chat_template.jinja").unlink(missing_ok=True)
    file = place / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": None}))
    (place / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages[0]['content'] }}!"}))
    _, tokenizer = load(str(place))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "a!"


def test_a_sound_one_is_loaded_and_ties_are_not_missing(place: Path) -> None:
    model, _ = load(str(place))
    assert model.config.tie_word_embeddings and "lm_head.weight" not in load_file(place / "model.safetensors")


def test_a_buffer_that_older_versions_wrote_is_no_surplus(place: Path) -> None:
    weights(lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": w[UP][0].clone()}))(place)
    assert load(str(place))


def test_files_of_torch_and_shards_are_read(place: Path) -> None:
    whole = load(str(place))[0]
    found = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    torch.save(found, place / "pytorch_model.bin")
    from_torch = load(str(place))[0]
    (place / "pytorch_model.bin").unlink()
    from_torch.save_pretrained(place, max_shard_size="100KB")
    assert len(list(place.glob("*.safetensors"))) > 1
    for other in (from_torch, load(str(place))[0]):
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("pipeline.toml", "it is a pipeline's, so name one of its stages, .*STAGE$"),
        ("tokenizer.json", "it holds a tokenizer, which is for a new model: new:llama with new.tokenizer="),
        ("notes.txt", "so it is no Hugging Face model$"),
    ],
)
def test_a_directory_without_a_model_is_told_for_what_it_is(tmp_path: Path, file: str, told: str) -> None:
    (tmp_path / file).touch()
    with pytest.raises(UserError, match=told):
        require_config(tmp_path)
