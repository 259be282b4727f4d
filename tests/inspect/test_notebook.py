"""A run in a notebook."""

from __future__ import annotations

from pathlib import Path

import pytest

import upslope as up
from upslope.inspect.why.finding import Diagnoses, Diagnosis


@pytest.fixture(scope="module", params=["memory", "folder"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Six steps that nothing comes of: a new model's attempts, each cut after four tokens."""
    folder = tmp_path_factory.mktemp("run") / "short" if request.param == "folder" else None
    settings = {"problems": 2, "sample": {"max_tokens": 4}, "eval": {"problems": 2}, "folder": folder, "name": "short"}
    recipe = {"name": "reinforce", "sample": {"group_size": 2}}
    return up.train("pocket:blank", task="pocket", recipe=recipe, steps=6, progress=False, **settings)


def test_why_is_what_the_command_says(run: up.Run) -> None:
    found = run.why()
    assert found[0].rule == "limit too short"
    assert repr(found).startswith("1. Most attempts are cut off before they end.")
    assert "<li><b>Most attempts are cut off" in found._repr_html_()


def test_a_plot_is_a_picture(run: up.Run, tmp_path: Path) -> None:
    drawn = run.plot()
    assert drawn._repr_png_().startswith(b"\x89PNG")
    drawn.save(tmp_path / "run.svg")
    assert "<svg" in (tmp_path / "run.svg").read_text()[:500]


def test_a_run_says_in_a_line_what_it_is(run: up.Run) -> None:
    told = repr(run)
    assert told.startswith("<Run short, 6 of 6 steps, reward 0, held out 0.0 % -> 0.0 %")
    assert told.endswith("in memory>") == (run.folder is None)
    assert run._repr_html_().startswith("<p>Run short, 6 of 6 steps")


def test_what_is_found_is_text_in_a_notebook() -> None:
    found = Diagnoses([Diagnosis("x", "<script>", "a & b", "y")])
    assert "&lt;script&gt;" in found._repr_html_() and "a &amp; b" in found._repr_html_()
    assert repr(Diagnoses()) == "Nothing looks wrong."
