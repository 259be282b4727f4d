"""A checkpoint is opened by programs that know nothing of upslope: nothing but the model is where they look."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import tiny
import torch
from in_process import upslope_says
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from upslope.inspect.card import model_card
from upslope.record.checkpoint import CRITIC, ONCE, OPTIMIZER, STATE, newest, save, why_not_complete
from upslope.record.manifest import MANIFEST

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
"""What vLLM, SGLang, TGI, LMDeploy and llama.cpp's converter take for weights, each in the folder itself."""
ROWS = [{"prompt": f"{name} has {i} apples."} for i, name in enumerate(["Tom", "Sam", "Eva", "Leo"] * 3)]
REWARD = "def odd(completions, **_):\n    return [float(sum(map(ord, c)) % 2) for c in completions]\n"
RUN = [
    *("--data", "data.jsonl", "--reward", "mine.py:odd", "--plain", "problems=2", "recipe.sample.group_size=4"),
    *("eval.problems=1", "sample.max_tokens=4", "learn.warmup=0", "save.every=1", "device=cpu", "threads=1"),
]


@pytest.fixture
def upslope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path("mine.py").write_text(REWARD)

    def call(*words: str) -> tuple[int, str]:
        code, out, err = upslope_says(monkeypatch, capsys, *words)
        return code, out + err

    return call


def as_it_was(folder: Path) -> None:
    """A checkpoint as earlier versions wrote it."""
    for now, before in ONCE.items():
        if (folder / now).exists():
            (folder / now).rename(folder / before)
    (folder / OPTIMIZER).parent.rmdir()
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST]
    hashes = {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    (folder / MANIFEST).write_text(json.dumps(hashes))


def logits(folder: Path, **how: object) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, **how)(torch.tensor([[5, 6, 7, 8, 9]])).logits


def test_the_only_weights_in_a_checkpoint_are_the_models(tmp_path: Path) -> None:
    subject = tiny.policy(dtype=torch.float32)
    moments = {f"exp_avg/{name}": torch.zeros(1) for name in subject.weights()}
    folder = save(tmp_path, 3, subject, subject.weights(), moments, {}, {"critic/x": torch.ones(2)})
    found = [path for pattern in WEIGHTS for path in folder.rglob(pattern)]
    assert found == [folder / "model.safetensors"]
    with safe_open(found[0], "pt") as file:
        assert {*file.keys()} == {*subject.model.state_dict()}
    there = newest(tmp_path)
    assert there is not None and there.optimizer().keys() == moments.keys() and there.critic().keys() == {"critic/x"}


def test_whoever_may_read_the_config_may_read_the_weights(tmp_path: Path) -> None:
    subject = tiny.policy(dtype=torch.float32)
    folder = save(tmp_path, 3, subject, subject.weights(), {"x": torch.zeros(1)}, {})
    assert len({path.stat().st_mode for path in folder.rglob("*") if path.is_file()}) == 1


def test_a_checkpoint_says_how_its_model_is_used(tmp_path: Path) -> None:
    subject = tiny.policy(dtype=torch.bfloat16)
    folder = save(tmp_path, 3, subject, {n: w.float() for n, w in subject.weights().items()}, {}, {})
    assert AutoConfig.from_pretrained(folder).dtype == torch.float32  # what the file holds, for `dtype="auto"`
    assert AutoTokenizer.from_pretrained(folder).chat_template == subject.tokenizer.chat_template
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    assert {*(ends if isinstance(ends, list) else [ends])} == {*subject.end_ids}


def test_a_run_of_an_earlier_version_goes_on(upslope) -> None:
    ppo = ("train", "--model", "pocket:blank", "--recipe", "ppo", "recipe.critic.warmup=1", *RUN)
    assert upslope(*ppo, "--name", "whole", "steps=2")[0] == 0
    assert upslope(*ppo, "--name", "parts", "steps=1")[0] == 0
    old = Path("runs/parts/checkpoints/step-000001")
    assert (old / CRITIC).is_file()
    as_it_was(old)
    assert upslope("train", "--resume", "runs/parts", "steps=2")[0] == 0
    for name in ("model.safetensors", OPTIMIZER, CRITIC):
        same = [Path("runs", run, "checkpoints/step-000002", name).read_bytes() for run in ("whole", "parts")]
        assert same[0] == same[1], name


@pytest.mark.parametrize("name", [*ONCE.values(), "model.safetensors", STATE])
def test_damage_of_an_earlier_versions_checkpoint_is_seen(tmp_path: Path, name: str) -> None:
    subject = tiny.policy(dtype=torch.float32)
    some = {"x": torch.zeros(1)}
    folder = save(tmp_path, 3, subject, subject.weights(), some, {}, some)
    as_it_was(folder)
    assert why_not_complete(folder) == ""
    (folder / name).unlink()
    assert why_not_complete(folder) == f"{name} is missing"


def test_an_export_is_the_checkpoint_without_what_is_the_runs_alone(upslope) -> None:
    assert upslope("train", "--model", "pocket:blank", *RUN, "--name", "mine", "steps=2")[0] == 0
    assert upslope("export", "runs/mine")[0] == 0
    last, made = Path("runs/mine/checkpoints/step-000002"), Path("runs/mine/model")
    assert {p.name for p in last.iterdir()} - {p.name for p in made.iterdir()} == {"resume", STATE}
    assert (made / "model.safetensors").read_bytes() == (last / "model.safetensors").read_bytes()
    card = (made / "README.md").read_text()
    assert card.startswith("---\n") and "library_name: transformers" in card
    for told in (
        "reinforce-baseline",
        "group_size=4",
        "data.jsonl",
        "mine.py:odd",
        "after 0 and after 2 steps",
        "torch",
    ):
        assert told in card, told
    assert str(Path.cwd()) not in card  # where it lay here is nobody's business
    assert upslope("export", "runs/mine", "--dtype", "bfloat16")[0] == 0  # an unchanged export is replaced
    assert AutoConfig.from_pretrained(made).dtype == torch.bfloat16
    last.rename(last.with_suffix(".replaced"))  # a kill came between the two renames of a checkpoint made anew
    assert upslope("export", "runs/mine")[0] == 0 and (made / "README.md").read_text() == card
    (made / "README.md").write_text("mine")
    code, said = upslope("export", "runs/mine")
    assert code == 2 and "runs/mine/model is in the way" in said and (made / "README.md").read_text() == "mine"


def test_a_merged_adapter_computes_what_the_adapter_does(upslope) -> None:
    tiny.policy(dtype=torch.float32).save(Path("base"))
    lora = ("learn.lora_rank=4", "learn.lr=0.1", "steps=2")
    assert upslope("train", "--model", "base", *RUN, *lora, "--name", "lora")[0] == 0
    assert upslope("export", "runs/lora", "--out", "adapter")[0] == 0
    assert upslope("export", "runs/lora", "--merged")[0] == 0
    made = Path("runs/lora/model")
    assert not list(made.glob("adapter*")) and "whole model" in (made / "README.md").read_text()
    trained, merged, base = logits(Path("adapter")), logits(made), logits(Path("base"))
    assert (trained - base).abs().max() > 0.01  # it has learnt something
    assert (merged - trained).abs().max() < 1e-4 * trained.abs().max()
    ends = GenerationConfig.from_pretrained(made).eos_token_id
    assert {*(ends if isinstance(ends, list) else [ends])} == {*tiny.policy(dtype=torch.float32).end_ids}
    assert AutoTokenizer.from_pretrained(made).chat_template == tiny.TOKENIZER.chat_template


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("nowhere",), "nowhere holds no run"),
        (("runs/mine", "--dtype", "float61"), "did you mean 'float16'"),
        (("runs/mine@best",), "marked no checkpoint as its best"),
        (("runs/mine", "--out", "data.jsonl"), "data.jsonl is in the way"),
    ],
)
def test_what_cannot_be_exported_is_one_line(upslope, given: tuple[str, ...], said: str) -> None:
    assert upslope("train", "--model", "pocket:blank", *RUN, "--name", "mine", "steps=1", "eval.problems=0")[0] == 0
    code, told = upslope("export", *given)
    assert code == 2 and said in told and len(told.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("base", "on_the_hub"),
    [("them/theirs", True), ("first", False), ("first@best", False), ("pocket:blank", False), ("new:llama", False)],
)
def test_a_card_names_a_base_that_the_hub_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, on_the_hub: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("first").mkdir()
    Path("run.toml").write_text(f'model = "{base}"\n')
    Path("journal.jsonl").write_text("")
    assert ("base_model:" in model_card(Path(), 1, adapter=False)) == on_the_hub
