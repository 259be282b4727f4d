"""A run on a task of the user's own: from the command line, from its run.toml in another folder, and resumed."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from upslope.config import load_settings
from upslope.errors import UserError
from upslope.lab.bench.word_problems import WordProblems
from upslope.tasks.registry import open_task
from upslope.training.checks import check_run as check
from upslope.training.named import open_run_task, resolve_recipe
from upslope.training.start import launch, with_max_tokens
from upslope.training.view import NullView

MINE = '''
from upslope.tasks.pocket_problems import open_pocket
from upslope.types import Score

class Letters:
    """Pocket's problems; a letter more makes an attempt better or worse."""
    max_tokens = 6

    def __init__(self, seed, num=8):
        self.pocket, self.num = open_pocket(seed), num

    def problems(self, split):
        return self.pocket.problems(split)[: self.num]

    def demonstrations(self):
        return self.pocket.demonstrations()[:8]

    def score(self, problems, responses):
        return [Score(len(r) % 2) for r in responses]
'''
SMALL = ["problems=2", "recipe.sample.group_size=2", "eval.problems=2", "learn.lr=0.01", "learn.warmup=0", "device=cpu"]
SFT = ["recipe=sft", "eval.problems=0", "device=cpu"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UPSLOPE_CACHE", str(tmp_path / "cache"))
    Path("mine.py").write_text(MINE)
    Path("elsewhere").mkdir()
    return tmp_path


def run(name: str, steps: int, *, resume: bool = False) -> Path:
    options = {"task.name": "mine.py:Letters", "task.options.num": 4, "name": name, "steps": steps}
    settings = load_settings(None, ["model=pocket:blank", *SMALL], options)
    return launch(settings, NullView, resume=resume)


def test_a_run_says_where_its_task_is_and_goes_on_with_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("whole", 3)
    table = tomllib.loads((whole / "run.toml").read_text())
    assert table["task"]["name"] == f"{folder / 'mine.py'}:Letters"
    assert table["task"]["options"] == {"num": 4}
    assert table["sample"]["max_tokens"] == 6  # as the task suggests
    stopped = run("stopped", 2).resolve()
    monkeypatch.chdir("elsewhere")  # whoever resumes it stands in another folder
    settings = replace(load_settings(stopped / "run.toml"), out=str(stopped.parent), steps=3)
    launch(settings, NullView, resume=True)
    weights = [(each.resolve() / "checkpoints/step-000003/model.safetensors") for each in (folder / whole, stopped)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_folder_is_called_by_the_task(folder: Path) -> None:
    settings = load_settings(
        None, ["model=pocket:blank", *SFT, "steps=1", "problems=2"], {"task.name": "mine.py:Letters"}
    )
    assert launch(settings, NullView).name == "Letters-sft-0"


def test_a_task_in_a_run_file_is_looked_for_beside_it(folder: Path) -> None:
    Path("elsewhere/own.py").write_text(MINE)
    Path("elsewhere/run.toml").write_text('[task]\nname = "own.py:Letters"\n')
    settings = load_settings(Path("elsewhere/run.toml"))
    assert settings.task.name == "elsewhere/own.py:Letters"
    assert open_run_task(settings.task, 0).name == "Letters"
    Path("elsewhere/pocket").mkdir()  # a task's name is no path
    Path("elsewhere/run.toml").write_text('[task]\nname = "pocket"\n')
    assert load_settings(Path("elsewhere/run.toml")).task.name == "pocket"


def test_what_the_task_suggests_is_the_limit_where_none_is_set() -> None:
    settings = load_settings(None, [])
    limits = [
        with_max_tokens(settings, open_task(name), 10**9).sample.max_tokens for name in ("pocket", "gsm8k", "user")
    ]
    assert limits == [32, 256, 256]
    assert (
        with_max_tokens(load_settings(None, ["sample.max_tokens=9"]), open_task("pocket"), 10**9).sample.max_tokens == 9
    )
    assert WordProblems().max_tokens is None


def test_rewards_are_asked_for_before_a_run_and_never_by_scoring_nothing(folder: Path) -> None:
    judge = "\n    def check_rewards(self):\n        raise UserError('no judge')\n"
    text = "from upslope.errors import UserError\n" + MINE + judge
    Path("mine.py").write_text(text.replace("return [Score(", "assert responses\n        return [Score("))
    settings = load_settings(None, SMALL, {"task.name": "mine.py:Letters"})
    task = open_run_task(settings.task, 0)
    with pytest.raises(UserError, match="no judge"):
        check(settings, resolve_recipe(settings.recipe), task)
    quiet = load_settings(None, SFT, {"task.name": "mine.py:Letters"})
    check(quiet, resolve_recipe(quiet.recipe), task)
