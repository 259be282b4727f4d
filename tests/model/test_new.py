"""Models made from nothing: their shape, their weights, what they take of a tokenizer, and what a run keeps of them."""

from __future__ import annotations

import copy
import json
import math
import os
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, GPT2Config, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

from upslope.cli import main
from upslope.config import load_settings
from upslope.errors import UserError
from upslope.model.byte_pairs import learn_tokenizer
from upslope.model.new import end_ids_of, new_model, num_tokens, resolved_new
from upslope.model.pocket import build_tokenizer
from upslope.model.policy import Policy
from upslope.model.settings import NewModelSettings
from upslope.model.shape import derived_shape, num_weights, require_memory
from upslope.native import build
from upslope.record.checkpoint import newest
from upslope.record.load import load_model
from upslope.training.assemble import saved_in
from upslope.training.start import launch, with_rate
from upslope.training.tables import to_settings
from upslope.training.view import NullView

SMALL = NewModelSettings(tokenizer="pocket", layers=3, width=96, heads=6, kv_heads=2, ffn=160)
TEXTS = ["The cat sat on the mat, and the dog saw that the cat sat there.\n"] * 20


def llama(seed: int = 0, **changes: Any) -> Any:
    return new_model("new:llama", NewModelSettings(**asdict(SMALL) | changes), seed)[0]


@pytest.fixture(scope="module")
def chat_tokenizer() -> PreTrainedTokenizerFast:
    return learn_tokenizer(TEXTS, 270)


@pytest.fixture
def chat_folder(tmp_path: Path, chat_tokenizer: PreTrainedTokenizerFast) -> Path:
    chat_tokenizer.save_pretrained(tmp_path / "chat")
    return tmp_path / "chat"


def config_folder(folder: Path, config: Any, tokenizer: Any = None) -> str:
    """A directory with a config, and with a tokenizer beside it if there is one."""
    folder.mkdir()
    config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return f"new:{folder}"


def tiny_gpt2(**changes: Any) -> GPT2Config:
    small = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2Config(**small | changes)


def same(one: Any, other: Any) -> bool:
    weights = other.state_dict()
    return all(torch.equal(weight, weights[name]) for name, weight in one.state_dict().items())


def test_all_of_a_shape_follows_from_one_number() -> None:
    found = derived_shape(NewModelSettings(depth=5))
    # 5 layers, 64 x 5 wide, a head for every 64, 8/3 x 320 = 853.3 up to 14 x 64
    assert (found.layers, found.width, found.heads, found.kv_heads, found.ffn) == (5, 320, 5, 5, 896)
    assert (found.tied, found.positions) == (True, 2048)
    assert found.init_std == pytest.approx(math.sqrt(2 / 1600))
    # What is derived says the same again, so that a run's own run.toml repeats it.
    assert derived_shape(found) == found


def test_a_width_that_eight_thirds_leave_whole_is_not_rounded_up() -> None:
    assert derived_shape(NewModelSettings(layers=1, width=192)).ffn == 512  # 8/3 x 192 = 512 = 8 x 64
    assert derived_shape(NewModelSettings(layers=1, width=256)).ffn == 704  # 682.7, up to 11 x 64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "new:llama has no shape: set new.depth, for example new.depth=6, or new.layers and new.width"),
        ({"layers": 4}, "or new.width"),
        ({"depth": 6, "layers": 8}, "new.depth = 6 means new.layers = 6, and new.layers = 8 says otherwise"),
        ({"depth": 6, "width": 512}, "new.depth = 6 means new.width = 384, and new.width = 512 says otherwise"),
        ({"layers": 2, "width": 100}, "new.width = 100 is no multiple of 64, so set new.heads as well"),
        ({"layers": 2, "width": 96, "heads": 5}, "new.width = 96 makes no 5 heads of an even width"),
        ({"layers": 2, "width": 96, "heads": 32}, "new.width = 96 makes no 32 heads of an even width"),
        ({"depth": 6, "kv_heads": 4}, "new.kv_heads = 4 must divide new.heads = 6"),
        ({"layers": 20_000, "width": 64}, "new.layers = 20,000 must be at most 10,000"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_in_a_line(given: dict[str, int], message: str) -> None:
    with pytest.raises(UserError) as refused:
        resolved_new("new:llama", NewModelSettings(tokenizer="pocket", **given))  # type: ignore[arg-type]
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_model_larger_than_the_machine_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"3\d,\d{3},\d{3},\d{3},\d{3} weights, .* GB in float32, and this machine has"):
        new_model("new:llama", NewModelSettings(tokenizer="pocket", depth=900), 0)


def test_a_config_larger_than_the_machine_is_refused_at_once(tmp_path: Path, chat_tokenizer: Any) -> None:
    name = config_folder(tmp_path / "conf", tiny_gpt2(n_embd=1 << 18, n_layer=9), chat_tokenizer)
    with pytest.raises(UserError, match=r"conf' has \d,\d{3},\d{3},\d{3},\d{3} weights, .* GB in float32"):
        new_model(name, NewModelSettings(), 0)


def test_a_system_that_does_not_say_its_memory_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    require_memory("a model", 1)
    monkeypatch.delattr(os, "sysconf_names")
    require_memory("a model", 1 << 60)


@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"kv_heads": 6}, {"ffn": None}])
def test_weights_are_counted_as_they_are_made(changes: dict[str, Any]) -> None:
    model = llama(**changes)
    shape = derived_shape(NewModelSettings(**asdict(SMALL) | changes))
    assert num_weights(shape, model.config.vocab_size) == model.num_parameters()
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == shape.tied


def test_the_same_seed_makes_the_same_weights_whatever_was_drawn_before() -> None:
    first = llama()
    torch.rand(3)
    before = torch.get_rng_state()
    again, other = llama(), llama(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again)
    assert not torch.equal(first.model.embed_tokens.weight, other.model.embed_tokens.weight)


def test_a_matrix_is_drawn_by_its_name_alone() -> None:
    shallow, deep = (llama(layers=n, init_std=0.05).state_dict() for n in (2, 3))
    assert torch.equal(shallow["model.embed_tokens.weight"], deep["model.embed_tokens.weight"])
    assert torch.equal(
        shallow["model.layers.1.self_attn.q_proj.weight"], deep["model.layers.1.self_attn.q_proj.weight"]
    )
    drawn = [weight.flatten()[:64] for weight in deep.values() if weight.dim() == 2]
    assert len({tuple(row.tolist()) for row in drawn}) == len(drawn) - 1  # the tied head is the embedding


def test_initial_weights_have_the_deviation_that_is_said() -> None:
    """3 layers, so what writes to the residual stream is divided by sqrt(6)."""
    model = llama(width=192, ffn=512, tied=False)
    std, num = math.sqrt(2 / (5 * 192)), 0
    for name, weight in model.state_dict().items():
        if weight.dim() == 1:
            assert torch.equal(weight, torch.ones_like(weight))
            continue
        wanted = std / math.sqrt(6) if "o_proj" in name or "down_proj" in name else std
        assert float(weight.std()) == pytest.approx(wanted, rel=0.03), name
        assert abs(float(weight.mean())) < 0.03 * wanted, name
        num += 1
    assert num == 3 * 7 + 2


def test_a_new_model_guesses_evenly() -> None:
    tokenizer = build_tokenizer()
    logits = llama()(torch.tensor([tokenizer.encode("Tom has 2 books.")])).logits
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    assert entropy.min().item() > 0.95 * math.log(len(tokenizer))


@pytest.mark.skipif(bool(build.why_not()), reason=build.why_not())
@pytest.mark.parametrize("changes", [{}, {"tied": False}])
def test_a_new_llama_runs_on_the_fast_trunk(changes: dict[str, Any]) -> None:
    policy = Policy(llama(**changes), build_tokenizer())
    assert policy.packs and policy.native and policy.fast_trunk is not None
    policy.release()


def test_vocabulary_and_ends_are_the_tokenizers(chat_folder: Path, chat_tokenizer: Any) -> None:
    model, tokenizer = new_model("new:llama", NewModelSettings(tokenizer=str(chat_folder), depth=1), 0)
    assert model.config.vocab_size == len(tokenizer) == 270
    ends = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert end_ids_of(tokenizer) == ends == model.config.eos_token_id == model.generation_config.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    policy = Policy(model, tokenizer)
    assert set(policy.end_ids) == set(ends)
    policy.release()


@pytest.mark.parametrize("form", ["new:llama", "own", "replaced"])
def test_the_end_token_is_learnt_as_an_input_also_where_it_pads(
    form: str, tmp_path: Path, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer = copy.deepcopy(chat_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "padded")
    end = tokenizer.eos_token_id
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = LlamaConfig(vocab_size=300, pad_token_id=end, eos_token_id=end, tie_word_embeddings=False, **shape)
    name = form if form == "new:llama" else config_folder(tmp_path / "conf", config, tokenizer)
    new = NewModelSettings(tokenizer="" if form == "own" else str(tmp_path / "padded"))
    if form == "new:llama":
        new = replace(new, layers=1, width=32, heads=2, tied=False)
    model, _ = new_model(name, new, 0)
    ids = torch.tensor([[end, 5, 6]])
    model(input_ids=ids, labels=ids).loss.backward()
    gradient = model.get_input_embeddings().weight.grad
    assert gradient[end].norm() > 0 and gradient[5].norm() > 0


def test_an_embedding_has_a_row_for_the_largest_id() -> None:
    class Gaps:
        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": 9}

        def __len__(self) -> int:
            return 2

    assert num_tokens(Gaps()) == 10


def test_any_causal_config_makes_a_model(tmp_path: Path, chat_tokenizer: Any) -> None:
    name = config_folder(tmp_path / "conf", tiny_gpt2(), chat_tokenizer)
    before = torch.get_rng_state()
    first, tokenizer = new_model(name, NewModelSettings(), 0)
    again, other = (new_model(f"{name}/config.json", NewModelSettings(), seed)[0] for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert type(first).__name__ == "GPT2LMHeadModel" and first.dtype == torch.float32
    assert same(first, again) and not same(first, other)
    assert len(tokenizer) == 270 and first.config.vocab_size == 300  # rows to spare, as many models have
    assert saved_in(first) == ""  # no checkpoint may take the directory for that of these weights


def test_a_tokenizer_from_elsewhere_replaces_a_configs_vocabulary(tmp_path: Path, chat_folder: Path) -> None:
    config = Qwen3Config(
        vocab_size=1000, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        intermediate_size=48, bos_token_id=900, eos_token_id=901, pad_token_id=902, dtype="bfloat16",
    )  # fmt: skip
    model, tokenizer = new_model(
        config_folder(tmp_path / "conf", config), NewModelSettings(tokenizer=str(chat_folder)), 0
    )
    assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size == len(tokenizer) == 270
    assert model.config.bos_token_id is None and model.config.pad_token_id == tokenizer.pad_token_id
    assert model.generation_config.eos_token_id == end_ids_of(tokenizer)
    assert model.dtype == torch.float32


def refusals(tmp_path: Path, tokenizer: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    small = config_folder(tmp_path / "small", tiny_gpt2(vocab_size=100), tokenizer)
    yield small, {}, "its config.json has vocab_size = 100, and the tokenizer beside it has 270 tokens"
    yield small, {"depth": 3}, "new.depth is for new:llama;"
    yield small, {"tied": True}, "new.tied is for new:llama;"
    bert = BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    encoder = config_folder(tmp_path / "bert", bert, tokenizer)
    yield encoder, {}, "a BertLMHeadModel sees the tokens it should predict"
    quantized = config_folder(tmp_path / "quantized", tiny_gpt2(), tokenizer)
    file = tmp_path / "quantized" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": "awq"}}))
    yield quantized, {}, "has a quantization_config"
    deep = config_folder(tmp_path / "deep", tiny_gpt2(n_layer=10**6), tokenizer)
    yield deep, {}, "num_hidden_layers = 1000000"
    broken = config_folder(tmp_path / "broken", tiny_gpt2(), tokenizer)
    (tmp_path / "broken" / "config.json").write_text("{")
    yield broken, {}, f"model {broken!r} cannot be loaded"  # and not its tokenizer, for which it is read as well
    yield config_folder(tmp_path / "alone", tiny_gpt2()), {}, "holds no tokenizer (none of tokenizer.json"
    (tmp_path / "empty").mkdir()
    yield f"new:{tmp_path / 'empty'}", {}, "the directory holds no config.json"
    yield "new:nowhere", {}, "there is no such directory or file; give new:llama, new:DIR or new:FILE.json"
    yield "new:", {}, "is no new model; give new:llama"
    yield "new:llama", {"depth": 1}, "new:llama needs a vocabulary: set new.tokenizer"
    yield "new:llama", {"depth": 1, "tokenizer": "./nowhere"}, "tokenizer './nowhere': there is no such directory"
    yield "pocket", {"depth": 1}, "new.depth is for a new model, and model = 'pocket' is none"
    yield str(tmp_path), {"tokenizer": "x"}, "new.tokenizer is for a new model"


def test_what_makes_no_new_model_is_one_line(tmp_path: Path, chat_tokenizer: Any) -> None:
    for name, given, message in refusals(tmp_path, chat_tokenizer):
        with pytest.raises(UserError) as refused:
            settings = NewModelSettings(**given)
            resolved_new(name, settings)
            new_model(name, settings, 0)
        assert message in str(refused.value), name
        assert "\n" not in str(refused.value), name


def test_an_initial_deviation_is_a_number_above_zero() -> None:
    for wrong in ("0", "-0.1", "inf", "nan"):
        with pytest.raises(UserError, match=r"new: init_std = .* must be a finite number above 0"):
            load_settings(overrides=["model=new:llama", f"new.init_std={wrong}"])


def test_whether_it_is_tied_is_a_truth_value() -> None:
    assert load_settings(overrides=["model=new:llama", "new.tied=false"]).new.tied is False
    with pytest.raises(UserError, match=r"new.depth = true should be"):
        load_settings(overrides=["model=new:llama", "new.depth=true"])


def test_configs_and_tokenizers_are_looked_for_beside_the_run_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there" / "conf").mkdir(parents=True)
    (tmp_path / "there" / "words").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = tmp_path / "there" / "run.toml"
    file.write_text('model = "new:conf"\nnew.tokenizer = "words"\n')
    settings = load_settings(file)
    assert settings.model == f"new:{tmp_path / 'there' / 'conf'}"
    assert settings.new.tokenizer == str(tmp_path / "there" / "words")
    file.write_text('model = "new:llama"\nnew.tokenizer = "pocket"\n')
    settings = load_settings(file)
    assert (settings.model, settings.new.tokenizer) == ("new:llama", "pocket")


def test_a_new_models_learning_rate_is_that_of_a_beginning() -> None:
    fresh, further = (to_settings({"model": model}) for model in ("new:llama", "some/model"))
    assert with_rate(fresh, 50_000_000).learn.lr == 3e-4
    assert with_rate(further, 50_000_000).learn.lr == 1e-5


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["upslope", *words])
    with pytest.raises(SystemExit) as end:
        main()
        raise SystemExit(0)
    return int(end.value.code or 0)


FEW = {"recipe": "sft", "problems": 4, "eval": {"problems": 0}, "save": {"every": 1}}


def ran(name: str, **given: Any) -> Path:
    return launch(to_settings(FEW | {"name": name} | given), NullView)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(str(run))[0].state_dict())


def test_a_run_of_a_new_model_says_its_shape_repeats_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    new = {"tokenizer": "pocket", "depth": 1}
    ran("one", model="new:llama", new=new, steps=2)
    said = tomllib.loads(Path("runs/one/run.toml").read_text())
    assert said["model"] == "new:llama"
    shape = {"depth": 1, "layers": 1, "width": 64, "heads": 1, "kv_heads": 1, "ffn": 192, "positions": 2048}
    assert said["new"] == shape | {"tokenizer": "pocket", "tied": True, "init_std": pytest.approx(math.sqrt(2 / 320))}
    assert said["learn"]["lr"] == 3e-4
    launch(load_settings(Path("runs/one/run.toml"), ["name=again"]), NullView)
    ran("short", model="new:llama", new=new, steps=1)
    launch(load_settings(Path("runs/short/run.toml"), ["steps=2"]), NullView, resume=True)
    one, again, short = (weights_of(Path("runs") / name) for name in ("one", "again", "short"))
    start = llama(layers=1, width=64, heads=1, kv_heads=1, ffn=192).state_dict()
    assert all(torch.equal(one[name], again[name]) and torch.equal(one[name], short[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], start["model.embed_tokens.weight"])


def test_a_run_from_a_config_names_it_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=0, max_position_embeddings=256,
    )  # fmt: skip
    config_folder(tmp_path / "conf", config, tokenizer)
    ran("one", model="new:conf", steps=1)
    said = tomllib.loads(Path("runs/one/run.toml").read_text())
    assert said["model"] == f"new:{tmp_path / 'conf'}" and said["new"] == {"tokenizer": ""}
    assert newest(Path("runs/one/checkpoints")) is not None
    with pytest.raises(UserError, match="the model lies in no directory that an adapter's checkpoint could name"):
        ran("two", model="new:conf", steps=1, learn={"lora_rank": 2})


def test_a_new_model_can_be_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["eval", "new:llama", "--task", "pocket", "new.tokenizer=pocket", "new.depth=1", "--problems", "2"]
    assert command(monkeypatch, *words, "--max-tokens", "4", "--json") == 0
    assert json.loads(capsys.readouterr().out)["greedy"]["num_problems"] == 2
    assert command(monkeypatch, "eval", "pocket:blank", "new.depth=1") == 2
    assert "new.depth is for a new model, and model = 'pocket:blank' is none" in capsys.readouterr().err
    assert command(monkeypatch, "train", "new.depth=1", "--name", "none") == 2
    assert not Path("runs").exists()  # refused before a folder was made
