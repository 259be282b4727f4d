"""``upslope pipeline`` as a user meets it, with stages of a step or two."""

from __future__ import annotations

import hashlib
import io
import json
import tomllib
from pathlib import Path

import pytest
from pipelines import said_by
from rich.console import Console

import upslope as up
from upslope.config import load_pipeline, load_settings
from upslope.errors import UserError
from upslope.lab.pipeline.command import how_to_repeat
from upslope.lab.pipeline.kinds import KINDS
from upslope.lab.pipeline.report import facts_of, table_of, write_pipeline_report
from upslope.tasks.registry import open_task
from upslope.training import pocket_start
from upslope.training.pipeline.made_of import content_of, reads_of
from upslope.training.pocket_start import pocket_model, pocket_stage
from upslope.training.settings import RunSettings
from upslope.training.start import TrainStage, launch
from upslope.training.view import NullView

ROOT = Path(__file__).resolve().parents[3]
TINY = ("steps=2", "problems=2", "eval.problems=2", "sample.max_tokens=4", "learn.warmup=0", "device=cpu")
FILE = """
name = "it"

[task]
name = "pocket"

[[stage]]
name = "read"
model = "pocket:blank"
recipe = "pretrain"

[[stage]]
name = "try"
recipe = { name = "grpo", sample = { group_size = 2 } }

[[stage]]
name = "test"
kind = "eval"
eval = { samples = 2 }
"""


@pytest.fixture(autouse=True)
def folder(place: Path) -> Path:
    Path("it.toml").write_text(FILE)
    return place


def weights(run: Path) -> str:
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return hashlib.sha256((newest / "model.safetensors").read_bytes()).hexdigest()


def do(*settings: str, **more: object) -> list[str]:
    return said_by("it.toml", *TINY, *settings, **more)


def test_a_pipeline_does_what_its_runs_would_do_one_by_one():
    stages = up.pipeline("it.toml", TINY, progress=False, say=lambda line: None)
    launch(
        load_settings(None, [*TINY, "model=pocket:blank", "recipe=pretrain", "task.name=pocket", "name=a"]), NullView
    )
    alone = ["model=runs/a", "recipe=grpo", "recipe.sample.group_size=2", "task.name=pocket", "name=b"]
    launch(load_settings(None, [*TINY, *alone]), NullView)
    assert weights(Path("runs/it/read")) == weights(Path("runs/a"))
    assert weights(Path("runs/it/try")) == weights(Path("runs/b"))
    assert [(s.name, s.what, s.steps) for s in stages] == [
        ("read", "pretrain", 2),
        ("try", "grpo", 2),
        ("test", "eval", 0),
    ]
    assert all(s.tokens > 0 for s in stages[:2])
    (row,) = map(json.loads, Path("runs/it/test/journal.jsonl").read_text().splitlines())
    assert row["greedy"]["num_problems"] == 2 and row["pass_at"]["2"]["num_samples"] == 2
    assert len(Path("runs/it/test/attempts.jsonl").read_text().splitlines()) == 2 * (1 + 2)
    page = Path("runs/it/report.md").read_text()
    assert "| stage | recipe | steps | tokens | time | held-out accuracy |" in page
    assert "| try | grpo | 2 |" in page and "0.0 % → 0.0 %" in page
    assert Path("runs/it/report.png").stat().st_size > 1000 and Path("runs/it/try/report.png").exists()
    # It is done: nothing is done again, by what the folder says as well.
    before = {path: path.stat().st_mtime_ns for path in Path("runs/it").rglob("*.safetensors")}
    assert do() == [f"stage {i} of 3: {name}, done before" for i, name in enumerate(("read", "try", "test"), 1)]
    written = load_pipeline(Path("runs/it/pipeline.toml"), KINDS)
    assert [(s.name, s.start, s.kind) for s in written.stages] == [
        ("read", "", "train"), ("try", "read", "train"), ("test", "try", "eval")
    ]  # fmt: skip
    up.pipeline("runs/it/pipeline.toml", progress=False, say=lambda line: None)
    assert {path: path.stat().st_mtime_ns for path in Path("runs/it").rglob("*.safetensors")} == before
    with pytest.raises(UserError, match=r"stage try is done .* learn\.lr is 0\.5 now, it was none"):
        do("try.learn.lr=0.5")


def test_a_stage_whose_reward_fails_is_named_and_goes_on_when_it_is_mended(folder):
    Path("data.jsonl").write_text('{"prompt": "Tom has 2 books."}\n{"prompt": "Eva has 3 books."}\n')
    Path("mine.py").write_text("def odd(completions, **columns):\n    return [1 / 0]\n")
    own = ["try.task.name=user", "try.task.data=data.jsonl", 'try.task.rewards=["mine.py:odd"]', "try.eval.problems=0"]
    with pytest.raises(UserError, match=r"^stage try: .*ZeroDivisionError.*mine\.py:2"):
        do(*own, only=["read", "try"])
    made = weights(Path("runs/it/read"))
    Path("mine.py").write_text(
        "def odd(completions, **columns):\n    return [float(len(c) % 2) for c in completions]\n"
    )
    with pytest.raises(UserError, match=r"stage try is begun .* the user's code is not what it was; give --redo"):
        do(*own, only=["read", "try"])
    assert do(*own, only=["read", "try"], redo=True)[-2:] == ["stage 1 of 3: read, done before", "stage 2 of 3: try"]
    assert weights(Path("runs/it/read")) == made


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_model_that_was_trained_on_under_its_name_is_another_one():
    launch(
        load_settings(None, [*TINY, "model=pocket:blank", "recipe=pretrain", "task.name=pocket", "name=a"]), NullView
    )
    do("read.model=runs/a", only=["read"])
    more = load_settings(Path("runs/a/run.toml"), ["steps=3", "name=a"])
    launch(more, NullView, resume=True)
    with pytest.raises(UserError, match=r"stage read is done .* what model names is not what it was"):
        do("read.model=runs/a", only=["read"])


def test_a_folder_that_happens_to_be_called_as_a_model_is_counts_for_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama/config.json").write_text("{}")
    task = open_task("pocket")
    for settings in (RunSettings(model="new:llama"), RunSettings(model="pocket")):
        assert "what model names" not in reads_of(settings, task)
    assert "what model names" in reads_of(RunSettings(model="new:./llama"), task)


def test_the_content_of_a_directory_counts_and_its_hidden_files_do_not(tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text("{}")
    first = content_of(place)
    (place / ".lock").touch()
    assert content_of(place) == first != ""
    (place / "config.json").write_text("{} ")
    assert content_of(place) != first
    assert content_of(tmp_path / "nothing") == ""


def test_each_command_names_the_other_for_the_others_file():
    with pytest.raises(UserError, match=r"^it\.toml is a pipeline, .* upslope pipeline it\.toml$"):
        load_settings(Path("it.toml"))
    Path("run.toml").write_text("steps = 3\n")
    with pytest.raises(UserError, match=r"^run\.toml is no pipeline, .* upslope train run\.toml$"):
        load_pipeline(Path("run.toml"), KINDS)


def test_paths_in_a_stage_are_looked_for_beside_the_file(tmp_path):
    place = tmp_path / "project"
    place.mkdir()
    (place / "mine.py").write_text("")
    (place / "data.jsonl").write_text("")
    (place / "it.toml").write_text(
        '[[stage]]\nname = "a"\nmodel = "pocket:blank"\n[stage.task]\ndata = "data.jsonl"\nrewards = ["mine.py:f"]\n'
    )
    found = load_pipeline(place / "it.toml", KINDS)
    assert found.stages[0].settings.task.data == str(place / "data.jsonl")
    assert found.stages[0].settings.task.rewards == (f"{place / 'mine.py'}:f",)
    assert (found.name, found.folder) == ("it", Path("runs/it"))


@pytest.mark.parametrize("kind", ["train", "eval"])
def test_where_data_lies_does_not_count_but_what_is_in_it(kind):
    paths = ("task.data", "task.eval_data", "task.also", "task.text")
    assert not any(KINDS[kind].matters(key) for key in paths) and KINDS[kind].matters("task.weights")


def test_settings_of_the_command_line_go_to_the_stage_that_is_named():
    rows = [{"name": "v1", "model": "pocket:blank"}, {"name": "v1.2"}]
    found = load_pipeline({"name": "x", "stage": rows}, KINDS, ["v1.2.steps=3", "v1.steps=4", "seed=5"], out="there")
    assert [(s.settings.steps, s.settings.seed) for s in found.stages] == [(4, 5), (3, 5)]
    assert found.folder == Path("there/x")
    given = ["recipe.surrogate.low=0.1", "recipe=grpo"]  # in any order
    found = load_pipeline({"name": "x", "stage": rows}, KINDS, given)
    assert found.stages[1].settings.recipe == {"name": "grpo", "surrogate": {"low": 0.1}}


def test_a_stage_that_is_misspelt_in_a_setting_is_named():
    rows = [{"name": "read", "model": "pocket:blank"}]
    for setting, told in (
        ("raed.steps=3", r"there is no stage or setting 'raed'; did you mean 'read'\?"),
        ("lern.lr=3", r"there is no stage or setting 'lern'; did you mean 'learn'\?"),
    ):
        with pytest.raises(UserError, match=told):
            load_pipeline({"name": "it", "stage": rows}, KINDS, [setting])


def test_how_to_go_on_leaves_out_what_sets_aside():
    assert (
        how_to_repeat("a b.toml", ["x=1"], None, "out", ["sft"])
        == "upslope pipeline 'a b.toml' x=1 --out out --only sft"
    )


def test_a_report_needs_a_pipeline_with_records(tmp_path):
    with pytest.raises(UserError, match=r"pipeline\.toml cannot be read"):
        facts_of(tmp_path)
    (tmp_path / "pipeline.toml").write_text('[[stage]]\nname = "a"\n')
    with pytest.raises(UserError, match="no stage has recorded anything yet"):
        write_pipeline_report(tmp_path)


def test_losses_and_bits_per_byte_are_in_the_table_where_they_were_measured(tmp_path):
    (tmp_path / "pipeline.toml").write_text('[[stage]]\nname = "a"\n[stage.recipe]\nname = "pretrain"\n')
    (tmp_path / "a").mkdir()
    rows = [
        {"kind": "eval", "step": 0, "held_out_loss": 9.25, "bits_per_byte": 3.5},
        {"kind": "step", "step": 0, "num_tokens": 1000, "reward": 1.0, "loss": 9.0, "seconds": {"update": 61.0}},
        {"kind": "eval", "step": 1, "held_out_loss": 4.5, "bits_per_byte": 1.75},
    ]
    (tmp_path / "a/journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_pipeline_report(tmp_path).read_text()
    assert "| stage | recipe | steps | tokens | time | held-out loss | bits per byte |" in page
    assert "| a | pretrain | 1 | 1,000 | 1:01 | 9.25 → 4.5 | 3.5 → 1.75 |" in page


def test_the_main_job_begins_as_the_packaged_pocket_model_does():
    """So that `make train` ends with what `upslope train` with model = "pocket" ends with."""
    found = load_pipeline(ROOT / "examples/pocket.toml", KINDS)
    assert [stage.name for stage in found.stages] == ["pretrain", "sft", "reinforce-baseline"]
    for stage, packaged in zip(found.stages, ("pretrained", "sft"), strict=False):
        kind, other = KINDS[stage.kind], pocket_stage(packaged)
        own, theirs = kind.document(stage.settings), kind.document(other)
        for key in ("name", "out", "model", "save", "eval"):
            del own[key], theirs[key]
        assert own == theirs
    assert found.stages[0].settings.model == "pocket:blank"


@pytest.fixture
def small_pocket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packaged pipeline with a few steps."""
    text = pocket_start.FILE.read_text().replace("steps = 2500", "steps = 3").replace("steps = 235", "steps = 2")
    file = tmp_path / "small.toml"
    file.write_text(text)
    monkeypatch.setattr(pocket_start, "FILE", file)
    return tmp_path / "cache"


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_pocket_model_is_made_once_by_its_pipeline_and_kept(small_pocket):
    wanted = RunSettings(device="cpu")
    model, _ = pocket_model("", wanted, TrainStage(), NullView)
    (made,) = (path for path in small_pocket.glob("pocket-*") if path.is_dir())
    assert {path.name for path in made.iterdir() if path.is_dir()} == {"pretrained", "sft"}
    assert Path(model.name_or_path) == made / "sft/checkpoints/step-000002"
    launch(load_settings(None, ["model=pocket:blank", "recipe=pretrain", "task.name=pocket", "name=a", "steps=3",
        "problems=16", "learn.dtype=float32", "learn.lr=5e-3", "learn.warmup=40", "learn.decay=cosine",
        "learn.weight_decay=0.01", "device=cpu", "eval.problems=0"]), NullView)  # fmt: skip
    assert weights(Path("runs/a")) == weights(made / "pretrained")
    times = {path: path.stat().st_mtime_ns for path in made.rglob("*.safetensors")}
    pocket_model("pretrained", wanted, TrainStage(), NullView)
    pocket_model("sft", wanted, TrainStage(), NullView)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.safetensors")} == times
    # A checkpoint that is damaged is made again, for the cache is ours.
    file = made / "sft/checkpoints/step-000002/model.safetensors"
    kept = file.read_bytes()
    file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    pocket_model("", wanted, TrainStage(), NullView)
    assert file.read_bytes() == kept
    with pytest.raises(UserError, match="pocket has no stage 'sf'; did you mean 'sft'"):
        pocket_model("sf", wanted, TrainStage(), NullView)


def test_the_file_of_the_pocket_model_is_part_of_the_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["upslope"]
    package = Path(up.__file__).parent
    assert pocket_start.FILE in [path for pattern in listed for path in package.glob(pattern)]


def test_the_table_of_stages_says_words_in_brackets_as_they_are_and_a_recipe_that_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text('[[stage]]\nname = "a"\nrecipe = "/home/[old]/mine.py:[/b]"\n')
    (tmp_path / "a").mkdir()
    (tmp_path / "a/journal.jsonl").write_text(json.dumps({"kind": "eval", "step": 0}) + "\n")
    (found,) = facts_of(tmp_path)
    assert found.what == "/home/[old]/mine.py:[/b]"
    screen = Console(width=200, file=io.StringIO())
    screen.print(table_of([found]))
    assert found.what in screen.file.getvalue()  # type: ignore[attr-defined]
