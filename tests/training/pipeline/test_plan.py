"""A pipeline's file: what is shared, what a stage says itself, and what it begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.lab.pipeline.kinds import KINDS
from upslope.lab.pipeline.report import PICTURE, REPORT
from upslope.training.pipeline.notes import NOTES
from upslope.training.pipeline.performing import PIPELINE
from upslope.training.pipeline.plan import KEPT, Pipeline, to_pipeline
from upslope.training.pocket_start import pocket_stage
from upslope.training.settings import RunSettings

FOLDER = Path("runs/p")


def made(*rows: dict[str, Any], changes: dict[str, list[dict[str, Any]]] | None = None, **shared: Any) -> Pipeline:
    return to_pipeline({**shared, "stage": list(rows)}, KINDS, FOLDER, changes)


def test_a_stage_is_merged_over_what_is_shared():
    one, two = made(
        {"name": "a", "learn": {"lr": 0.1}},
        {"name": "b", "steps": 7},
        steps=3,
        learn={"lr": 0.2, "warmup": 5},
        model="pocket:blank",
    ).stages
    assert (one.settings.steps, one.settings.learn.lr, one.settings.learn.warmup) == (3, 0.1, 5)
    assert (two.settings.steps, two.settings.learn.lr) == (7, 0.2)
    assert (one.settings.model, one.start) == ("pocket:blank", "")
    assert (two.settings.model, two.start, two.needs) == ("runs/p/a", "a", ("a",))
    assert (two.settings.out, two.settings.name) == ("runs/p", "b")


def test_naming_a_recipe_starts_from_it_afresh_in_a_stage_too():
    shared = {"name": "grpo", "surrogate": {"low": 0.1}}
    one, two = made(
        {"name": "a", "recipe": "sft"}, {"name": "b", "recipe": {"surrogate": {"high": 0.3}}}, recipe=shared
    ).stages
    assert one.settings.recipe == {"name": "sft"}
    assert two.settings.recipe == {"name": "grpo", "surrogate": {"low": 0.1, "high": 0.3}}


def test_changes_for_one_stage_hold_over_those_for_all_and_these_over_the_file():
    changes = {"": [{"steps": 5}, {"recipe": {"sample": {"replay": 0.5}}}], "b": [{"steps": 6}]}
    one, two = made(
        {"name": "a", "steps": 1, "recipe": "sft"}, {"name": "b", "steps": 2, "recipe": "sft"}, changes=changes
    ).stages
    assert (one.settings.steps, two.settings.steps) == (5, 6)
    assert one.settings.recipe == two.settings.recipe == {"name": "sft", "sample": {"replay": 0.5}}


def test_a_stage_may_begin_with_any_earlier_one_or_with_a_model_of_its_own():
    _, _, three, four = made(
        {"name": "a"}, {"name": "b"}, {"name": "c", "from": "a"}, {"name": "d", "model": "pocket:blank"}
    ).stages
    assert (three.settings.model, three.start) == ("runs/p/a", "a")
    assert (four.settings.model, four.start, four.needs) == ("pocket:blank", "", ())


def test_a_setting_may_name_the_folder_of_an_earlier_stage():
    _, _, three = made({"name": "a"}, {"name": "b"}, {"name": "c", "reference": {"model": "stage:a"}}).stages
    assert three.settings.reference.model == "runs/p/a"
    assert (three.start, set(three.needs)) == ("b", {"a", "b"})


def test_an_evaluation_reads_what_it_needs_of_what_is_shared_and_leaves_no_model():
    _, two, three = made(
        {"name": "a"},
        {"name": "look", "kind": "eval", "eval": {"samples": 2}},
        {"name": "b"},
        steps=3,
        learn={"lr": 0.1, "dtype": "float32"},
        changes={"": [{"problems": 2}]},
    ).stages
    assert (two.settings.model, two.settings.eval.samples, two.settings.learn.dtype) == ("runs/p/a", 2, "float32")
    assert two.settings.learn.lr is None and two.settings.problems == 64
    assert three.start == "a"
    document = KINDS["eval"].document(two.settings)
    assert "lr" not in document["learn"] and "steps" not in document and document["eval"]["samples"] == 2


WRONG: dict[str, tuple[tuple[dict[str, Any], ...], dict[str, Any], str]] = {
    "no stage": ((), {}, "a pipeline has a table"),
    "no name": (({"steps": 3},), {}, "stage 1: name = None should be"),
    "a name that leads elsewhere": (({"name": "../x"},), {}, r"stage 1: name = '\.\./x' should be"),
    "a name that the pipeline keeps": (
        ({"name": "stages.json"},),
        {},
        "stage 1: the pipeline itself writes stag",
    ),
    "a setting's name": (({"name": "learn"},), {}, "'learn' is the name of a setting"),
    "a name twice": (({"name": "a"}, {"name": "a"}), {}, "stage 2: another one is called 'a' too"),
    "no such kind": (({"name": "a", "kind": "trane"},), {}, "stage a: kind = 'trane' .* did you mean 'train'"),
    "no such setting": (({"name": "a", "stps": 3},), {}, "stage a: there is no setting stps; did you mean 'steps'"),
    "no such shared one": (({"name": "a"},), {"stps": 3}, "stage a: there is no setting stps"),
    "no such value": (({"name": "a"}, {"name": "b", "steps": "many"}), {}, "stage b: steps = 'many' should be int"),
    "a start that comes later": (({"name": "a", "from": "b"}, {"name": "b"}), {}, "stage a: from = 'b' is no earlier"),
    "a start where there is none": (({"name": "a", "from": "a"},), {}, "'a' is no earlier stage that leaves a model$"),
    "two starts": (({"name": "a"}, {"name": "b", "from": "a", "model": "x"}), {}, "stage b: from = 'a': it names a"),
    "a folder of no stage": (({"name": "a", "model": "stage:z"},), {}, "stage a: 'stage:z' is no earlier stage"),
    "out in a stage": (({"name": "a", "out": "x"},), {}, "stage a: out is the pipeline's"),
    "what an evaluation ignores": (
        ({"name": "a"}, {"name": "b", "kind": "eval", "learn": {"lr": 1.0}}),
        {},
        r"stage b: a stage of kind eval does not read learn\.lr",
    ),
    "nothing to evaluate": (({"name": "b", "kind": "eval"},), {}, "stage b: no stage before it leaves a model"),
    "what nobody reads": (
        ({"name": "b", "kind": "eval"},),
        {"model": "pocket", "steps": 3},
        "no stage reads steps, which is set for all",
    ),
}


def test_no_stage_takes_the_place_of_what_a_pipeline_writes():
    assert set(KEPT) == {NOTES, PIPELINE, REPORT, PICTURE}


@pytest.mark.parametrize("case", WRONG)
def test_a_pipeline_that_is_none_is_named_in_a_line(case):
    rows, shared, told = WRONG[case]
    with pytest.raises(UserError, match=f"^.*{told}"):
        made(*rows, **shared)


def test_a_stages_length_stands_in_the_place_of_the_shared_one_and_a_model_in_that_of_a_new_ones_shape():
    one, two = made({"name": "a", "epochs": 2, "recipe": "sft"}, {"name": "b"}, steps=9).stages
    assert (one.settings.epochs, two.settings.steps) == (2, 9)
    (last,) = made({"name": "a", "steps": 9, "recipe": "sft"}, changes={"a": [{"epochs": 3}]}).stages
    assert last.settings.epochs == 3
    with pytest.raises(UserError, match="both the length"):
        made({"name": "a", "epochs": 2, "steps": 3, "recipe": "sft"})

    shape = {"depth": 2, "tokenizer": "pocket"}
    rows = ({"name": "a", "recipe": "pretrain"}, {"name": "b", "kind": "eval"}, {"name": "c", "model": "pocket:sft"})
    first, second, third = made(*rows, model="new:llama", new=shape).stages
    assert (first.settings.new.depth, second.settings.new, third.settings.new) == (
        2,
        RunSettings().new,
        second.settings.new,
    )
    (other,) = made({"name": "a"}, model="new:llama", new=shape, changes={"a": [{"model": "pocket"}]}).stages
    assert other.settings.new == RunSettings().new


def test_changes_of_no_stage_are_refused():
    with pytest.raises(UserError, match="there is no stage 'rll'; did you mean 'rl'"):
        made({"name": "rl"}, changes={"rll": [{"steps": 3}]})


def test_the_packaged_pocket_is_what_it_was():
    """Each of these numbers decides the weights of the start that docs/results.md measures from."""
    one, two = pocket_stage("pretrained"), pocket_stage("sft")
    assert (one.recipe, one.steps, one.problems) == ({"name": "pretrain"}, 2500, 16)
    learn = one.learn
    assert (learn.dtype, learn.lr, learn.warmup, learn.decay, learn.weight_decay) == (
        *("float32", 5e-3, 40, "cosine", 0.01),
    )
    assert (two.recipe, two.steps, two.problems) == ({"name": "sft", "sample": {"replay": 0.2}}, 235, 40)
    learn = two.learn
    assert (learn.dtype, learn.lr, learn.warmup, learn.decay, learn.weight_decay) == (
        *("float32", 1e-3, 10, "linear", 0.0),
    )
