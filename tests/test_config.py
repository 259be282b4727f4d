"""Unknown keys name the nearest; types are checked; a run's own run.toml says the same thing again."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from upslope.algo.family import FAMILY, find
from upslope.algo.sample import Attempts
from upslope.algo.surrogate import ClippedRatio
from upslope.bounds import bounds
from upslope.config import load_settings
from upslope.errors import UserError
from upslope.learn.settings import LearnSettings
from upslope.tasks.registry import open_task
from upslope.training.document import _absolute, to_document
from upslope.training.named import resolve_recipe
from upslope.training.settings import RunSettings
from upslope.training.start import with_max_tokens, with_rate
from upslope.training.tables import to_settings


def test_nothing_given_is_the_defaults() -> None:
    assert load_settings() == RunSettings()
    assert load_settings().recipe == {"name": "reinforce-baseline"}


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("stps=3", "there is no setting stps; did you mean 'steps'?"),
        ("learn.leraning_rate=3", "there is no setting learn.leraning_rate; known: "),
        ("learn.warmpu=3", "there is no setting learn.warmpu; did you mean 'warmup'?"),
        ("tsak.name=gsm8k", "there is no setting tsak; did you mean 'task'?"),
        ("=3", "there is no setting "),
        ("task.text=a.txt", """task.text = 'a.txt' should be a list: ["a.txt"]"""),
        ("task.text_weights=2", "task.text_weights = 2 should be a list: [2]"),
        ("steps", "'steps' is not of the form KEY=VALUE"),
        ("steps=many", "steps = 'many' should be int: "),
        ("steps=1.5", "steps = 1.5 should be int: "),
        ("steps=true", "steps = true should be int"),
        ("steps.x=1", "steps = {'x': 1} should be int: "),
        ("learn.lr=fast", "learn.lr = 'fast' should be float or nothing: "),
        ("learn.decay=slow", "learn.decay = 'slow' should be one of constant, linear, cosine, wsd: "),
        ("task.rewards=r.py:f", "task.rewards = 'r.py:f' should be "),
        ("name=[1]", "name = [1] should be str: "),
        ("learn.decay_share=1.5", "learn: decay_share is a share of all updates, in [0, 1], not 1.5"),
        ("learn.momentum=0.9", "learn: momentum = 0.9 is Muon's, and optimizer = 'adamw'; set optimizer = 'muon', or"),
        ("learn.decay_share=0.3", "learn: decay_share = 0.3 is of decay = 'wsd', and decay = 'constant'; set decay ="),
        ("task.weights=[3]", "task: weights is given, and nothing is mixed: set also as well"),
        ("learn.momentum=1", "learn: momentum is a decay in [0, 1), not 1"),
        ("epochs=inf", "epochs = inf must be a finite number"),
        ("epochs=1e30", "settings: epochs must be at most 1,000,000,000, not 1e+30"),
        ("steps=99999999999999999999", "settings: steps must be at most 1,000,000,000, not 1e+20"),
        ("learn=3", "learn must be a table of keys, not 3"),
        ("recipe=3", "recipe.name = 3 should be "),
        ("recipe.name=3", "recipe.name = 3 should be the name of a recipe"),
        ("sample.temperature=-1", "sample.temperature = -1 must be at least 0"),
        ("learn.lr=nan", "learn.lr = nan must be at least 0"),
        ("sample.top_p=0", "sample: needs temperature >= 0"),
        ("sample.max_rows=-1", "sample: max_rows must be at least 0"),
    ],
)
def test_a_bad_setting_is_named_with_its_mend(override: str, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        load_settings(overrides=[override])
    assert str(error.value).startswith(complaint)
    assert "\n" not in str(error.value)


def floors() -> dict[str, float]:
    """The least value of every bounded setting, by dotted key."""
    inner = {name: type(value) for name, value in vars(RunSettings()).items() if is_dataclass(value)}
    found = {f"{name}.{key}": least for name, kind in inner.items() for key, least in bounds(kind).items()}
    return bounds(RunSettings) | found


LEAST = floors()
BESIDE = {
    "learn.momentum": ["learn.optimizer=muon"],
    "learn.decay_share": ["learn.decay=wsd"],
    "cluster.patience": ["cluster.samplers=1"],
    "cluster.most_gap": ["cluster.engine=vllm"],
    "cluster.vllm_memory": ["cluster.engine=vllm"],
}
"""What has a meaning only with another setting."""


@pytest.mark.parametrize("key", LEAST)
def test_every_number_has_its_floor(key: str) -> None:
    load_settings(overrides=[f"{key}={LEAST[key]}", *BESIDE.get(key, [])])
    with pytest.raises(UserError, match=f"{key} = .* must be at least {LEAST[key]}"):
        load_settings(overrides=[f"{key}={LEAST[key] - 1}"])


def test_python_callers_meet_the_same_floors() -> None:
    with pytest.raises(ValueError, match=r"^lr = -1 must be at least 0$"):
        LearnSettings(lr=-1.0)
    with pytest.raises(ValueError, match=r"^problems = 0 must be at least 1$"):
        RunSettings(problems=0)


def test_every_number_is_bounded_or_known_not_to_be() -> None:
    table = asdict(RunSettings())
    flat = {k: v for k, v in table.items() if not isinstance(v, dict)}
    flat |= {f"{k}.{n}": v for k, inner in table.items() if isinstance(inner, dict) for n, v in inner.items()}
    numbers = {k for k, v in flat.items() if isinstance(v, (int, float)) and not isinstance(v, bool)} | {
        "learn.lr",
        "cluster.most_gap",
        "sample.max_tokens",
        *(f"new.{name}" for name in ("depth", "layers", "width", "heads", "kv_heads", "ffn", "positions")),
    }
    checked_by_sampling = {"sample.top_k", "sample.top_p", "sample.min_tokens", "sample.max_tokens", "sample.max_rows"}
    assert numbers == {*LEAST, *checked_by_sampling, "seed"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", "3"), ("g.jsonl", "g.jsonl"), ('"a b"', "a b"), ("x=y", "x=y"), ("C:/x", "C:/x")],
)
def test_an_override_that_is_no_toml_is_a_string(text: str, value: str) -> None:
    if text == "3":
        assert load_settings(overrides=["seed=3"]).seed == 3
        return
    assert load_settings(overrides=[f"task.data={text}"]).task.data == value


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("steps = 1\nseed = 1\nproblems = 1\n[learn]\nlr = 1e-4\nwarmup = 3\n")
    settings = load_settings(file, ["steps=3", "steps = 4", "learn.lr=0.5"], {"steps": 2, "seed": 2})
    assert (settings.steps, settings.seed, settings.problems) == (4, 2, 1)
    assert (settings.learn.lr, settings.learn.warmup) == (0.5, 3)


def test_a_model_that_is_not_new_takes_the_place_of_all_that_a_file_says_of_a_new_one(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('model = "new:llama"\nnew = { tokenizer = "pocket", depth = 2 }\n')
    assert load_settings(file).new.depth == load_settings(file, ["model=new:llama"]).new.depth == 2
    assert load_settings(file, [], {"model": "runs/x"}).new == load_settings(file, ["model=pocket"]).new
    assert load_settings(file, ["model=pocket"]).new.depth is None
    assert load_settings(file, ["model=pocket", "new.depth=3"]).new.depth == 3  # said by whoever calls: refused later


def test_steps_and_epochs_are_not_both_the_length_of_a_run() -> None:
    with pytest.raises(UserError, match=r"steps = 3 and epochs = 2 are both the length of the run; give one of them"):
        load_settings(overrides=["steps=3", "epochs=2"])
    with pytest.raises(UserError, match="both the length"):
        to_settings({"steps": 3, "epochs": 2})


def test_a_length_from_outside_the_file_replaces_the_one_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("steps = 7\n")
    assert load_settings(file, ["epochs=2"]).epochs == 2
    file.write_text("epochs = 7\n")
    assert (load_settings(file, [], {"steps": 5}).epochs, load_settings(file, [], {"steps": 5}).steps) == (0, 5)
    assert load_settings(file).epochs == 7


@pytest.mark.parametrize("head", ['recipe = "grpo"', '[recipe]\nname = "grpo"', 'recipe.name = "grpo"'])
def test_a_recipe_is_a_name_and_a_patch(tmp_path: Path, head: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(head + "\n")
    plain = load_settings(file)
    assert resolve_recipe(plain.recipe) == find("grpo").recipe
    patched = resolve_recipe(load_settings(file, ["recipe.sample.group_size=3", "recipe.advantage=returns"]).recipe)
    assert patched.sample == Attempts(group_size=3)
    assert patched.advantage is find("reinforce").recipe.advantage
    assert patched.surrogate == find("grpo").recipe.surrogate
    assert load_settings(file, ["recipe=sft"]).recipe == {"name": "sft"}


def test_a_short_slot_in_the_file_can_be_patched_by_field(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[recipe]\nname = "reinforce"\nsurrogate = "clipped_ratio"\n')
    recipe = resolve_recipe(load_settings(file, ["recipe.surrogate.low=0.1"]).recipe)
    assert recipe.surrogate == ClippedRatio(low=0.1)


def test_a_patch_without_a_name_patches_the_default() -> None:
    settings = load_settings(overrides=["recipe.sample.group_size=3"])
    assert settings.recipe == {"name": "reinforce-baseline", "sample": {"group_size": 3}}


def test_relative_paths_are_looked_for_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        (folder / "model").mkdir(parents=True)
    for name in ("data.jsonl", "held.jsonl", "more.jsonl", "mine.py"):
        (there / name).touch()
    for name in ("data.jsonl", "theirs.py"):
        (here / name).touch()
    monkeypatch.chdir(here)
    file = there / "run.toml"
    task: dict[str, Any] = {"data": "data.jsonl", "eval_data": "held.jsonl", "rewards": ["mine.py:f", "theirs.py:g"]}
    task["also"] = ["more.jsonl", "none.jsonl"]
    file.write_text(tomli_w.dumps({"model": "model", "task": task}))
    settings = load_settings(file)
    assert settings.model == str(there / "model")
    assert settings.task.data == str(there / "data.jsonl")  # beside the file, though there is one here too
    assert settings.task.eval_data == str(there / "held.jsonl")
    assert settings.task.rewards == (f"{there / 'mine.py'}:f", "theirs.py:g")  # the second is found here only
    assert settings.task.also == (str(there / "more.jsonl"), "none.jsonl")
    document = to_document(replace(settings, task=replace(settings.task, also=("data.jsonl",))), FAMILY["sft"].recipe)
    assert document["task"]["also"] == [str(here / "data.jsonl")]  # a run goes on from any folder
    # What is typed on the command line is meant as typed.
    typed = load_settings(file, ["task.data=data.jsonl"], {"model": "model"})
    assert (typed.task.data, typed.model) == ("data.jsonl", "model")


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("steps = 3\n", encoding="utf-8-sig")
    assert load_settings(file).steps == 3


def test_a_name_that_is_no_path_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('model = "pocket:blank"\n[task]\ndata = ""\n')
    assert load_settings(file).model == "pocket:blank"
    assert load_settings(file).task.data == ""


@pytest.mark.parametrize("content", [b"steps = ", b"\xff", b"steps = 1\nsteps = 2\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.toml is not TOML: "):
        load_settings(file)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(UserError, match="run file "):
            load_settings(path)


@pytest.mark.parametrize("name", FAMILY)
def test_a_run_file_says_the_same_again(tmp_path: Path, name: str) -> None:
    given = [
        "learn.lr=1e-7",
        "learn.decay=cosine",
        "minutes=1.5",
        "eval.samples=4",
        "sample.temperature=0.7",
        'task.rewards=["r.py:f", "r.py:g"]',
        "task.reward_weights=[1, 0.5]",
        "task.options.keep_annotations=true",
        "recipe.reuse.epochs=2",
    ]
    settings = load_settings(overrides=given, options={"recipe": {"name": name}})
    settings = with_rate(with_max_tokens(replace(settings, name="x"), open_task("pocket"), 10**9), num_parameters=10**9)
    recipe = resolve_recipe(settings.recipe)
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps(to_document(settings, recipe)))
    again = load_settings(file)
    assert replace(again, recipe={}) == replace(settings, recipe={})
    assert again.recipe["name"] == name
    assert resolve_recipe(again.recipe) == recipe
    # Nothing was left to a default that may change: the recipe is whole even without its name.
    assert resolve_recipe({k: v for k, v in again.recipe.items() if k != "name"}) == recipe
    # And writing it once more changes nothing.
    assert tomli_w.dumps(to_document(again, resolve_recipe(again.recipe))) == file.read_text()


def test_defaults_that_depend_on_task_and_model_are_made_explicit() -> None:
    pocket = with_max_tokens(to_settings({}), open_task("pocket"), 10**9)
    user = with_max_tokens(to_settings({}), open_task("user"), 10**9)
    assert (pocket.sample.max_tokens, user.sample.max_tokens) == (32, 256)
    small, large = with_rate(pocket, num_parameters=10**6), with_rate(pocket, num_parameters=10**8)
    assert (small.learn.lr, large.learn.lr) == (3e-4, 1e-5)
    given = to_settings({"learn": {"lr": 0.0}, "sample": {"max_tokens": 7}})
    assert with_rate(with_max_tokens(given, open_task("pocket"), 10**9), num_parameters=1) == given


def test_a_file_of_ones_own_in_a_folder_with_a_colon_is_kept_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:b").mkdir()
    Path("a:b/mine.py").write_text("x = 1\n")
    assert _absolute("a:b/mine.py:x") == f"{tmp_path}/a:b/mine.py:x"


def test_text_beside_the_run_file_is_found_with_brackets_in_its_name(tmp_path: Path) -> None:
    for name in ("data[1].txt", "data2.txt"):
        (tmp_path / name).write_text("text\n")
    file = tmp_path / "run.toml"
    file.write_text('[task]\ntext = ["data[1].txt", "data[2].txt", "elsewhere[1].txt"]\n')
    found = load_settings(file).task.text
    assert found == (str(tmp_path / "data[1].txt"), str(tmp_path / "data[2].txt"), "elsewhere[1].txt")
