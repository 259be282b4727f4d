"""What a pipeline does and leaves alone, with stages that only write a file: each line holds what it was made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from upslope.errors import Stopped, Unavailable, UserError
from upslope.model.turns import Refused
from upslope.record.claim import Taken, claimed
from upslope.training.ending import AtOnce
from upslope.training.pipeline.performing import Orders, perform_stages
from upslope.training.pipeline.plan import Pipeline, to_pipeline
from upslope.training.view import NullView, View


class Words:
    """A kind of stage: it writes what it read and what the one before wrote. ``fail`` names what happens to a stage."""

    takes_model = leaves_model = True

    def __init__(self) -> None:
        self.did: list[str] = []
        self.checked: list[str] = []
        self.fail: dict[str, BaseException | int] = {}
        self.data = "data"
        self.version = "1"

    def reads(self, key: str) -> bool:
        return key in ("model", "word", "quiet", "other")

    def matters(self, key: str) -> bool:
        return key not in ("quiet",)

    def settings(self, table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        return {"model": "", **table, "folder": str(folder)}

    def check(self, settings: Any) -> None:
        self.checked.append(Path(settings["folder"]).name)
        if settings.get("word") == "wrong":
            raise UserError("word = 'wrong' is no word")

    def document(self, settings: Any) -> dict[str, Any]:
        found = {key: value for key, value in settings.items() if key != "folder"}
        return found | {"model": str(Path(found["model"]).resolve()) if found["model"] else ""}

    def made_with(self, settings: Any) -> dict[str, str]:
        return {"its data": self.data, "numpy": self.version}

    def begun(self, folder: Path) -> bool:
        return (folder / "begun").exists()

    def left(self, folder: Path) -> str:
        file = folder / "done"
        return file.read_text() if file.exists() else ""

    def perform(self, settings: Any, make_view: Callable[[], View], *, resume: bool) -> int | None:
        folder = Path(settings["folder"])
        self.did.append(f"{folder.name}{'+' if resume else ''}")
        folder.mkdir(exist_ok=True)
        (folder / "begun").touch()
        wrong = self.fail.pop(folder.name, None)
        if isinstance(wrong, BaseException):
            raise wrong
        before = (Path(settings["model"]) / "done").read_text() if settings["model"] else ""
        (folder / "done").write_text(f"{before}{settings.get('word', '')};")
        return wrong


@pytest.fixture
def kind() -> Words:
    return Words()


@pytest.fixture
def doing(kind: Words, tmp_path: Path) -> Callable[..., list[str]]:
    """Do the pipeline a, b, c with these words; returns what was said."""

    def do(words: tuple[str, ...] = ("1", "2", "3"), *, quiet: bool = False, **orders: Any) -> list[str]:
        kind.did.clear()
        said: list[str] = []
        perform_stages(plan(kind, tmp_path, words, quiet), {"train": kind}, NullView, Orders(say=said.append, **orders))
        return said

    return do


def plan(kind: Words, place: Path, words: tuple[str, ...] = ("1", "2", "3"), quiet: bool = False) -> Pipeline:
    rows = [{"name": name, "word": word} for name, word in zip("abc", words, strict=True)]
    return to_pipeline({"quiet": quiet, "stage": rows}, {"train": kind}, place / "it")


def test_each_stage_begins_where_the_last_ended_and_is_done_once(kind, doing, tmp_path):
    assert doing() == ["stage 1 of 3: a", "stage 2 of 3: b", "stage 3 of 3: c"]
    assert kind.did == ["a", "b", "c"]
    assert (tmp_path / "it/c/done").read_text() == "1;2;3;"
    assert doing() == [f"stage {i} of 3: {name}, done before" for i, name in enumerate("abc", 1)]
    assert kind.did == []


@pytest.mark.parametrize("at", "abc")
def test_a_stage_that_fails_is_named_and_goes_on_by_the_same_command(kind, doing, tmp_path, at):
    kind.fail[at] = Unavailable("no room")
    with pytest.raises(Unavailable, match=f"^stage {at}: no room$"):
        doing()
    assert kind.did == list("abc")[: "abc".index(at) + 1]
    doing()
    assert kind.did == [f"{at}+", *"abc"["abc".index(at) + 1 :]]
    assert (tmp_path / "it/c/done").read_text() == "1;2;3;"


def test_an_error_that_is_made_in_another_way_is_told_with_its_stage(kind, doing):
    kind.fail["b"] = Refused("the template takes no system turn", "no system turn")
    with pytest.raises(Refused, match=r"^stage b: the template takes no system turn$") as told:
        doing()
    assert told.value.cause == "no system turn"


def reading(kind: Words, place: Path, words: tuple[str, ...]) -> Pipeline:
    """Stages a to d, of which b reads what a leaves, beside a model of its own."""
    rows: list[dict[str, Any]] = [{"name": name, "word": word} for name, word in zip("abcd", words, strict=True)]
    rows[1] |= {"model": "", "other": "stage:a"}
    return to_pipeline({"stage": rows}, {"train": kind}, place / "it")


def test_nothing_is_written_or_done_before_a_refusal_that_can_be_foreseen(kind, tmp_path):
    def do(words: tuple[str, ...], **orders: Any) -> None:
        kind.did.clear()
        perform_stages(reading(kind, tmp_path, words), {"train": kind}, NullView, Orders(**orders))

    do(("1", "2", "3", "4"))
    written = (tmp_path / "it/pipeline.toml").read_bytes()
    for words in (("1", "2", "4", "4"), ("1", "4", "3", "4")):
        with pytest.raises(UserError, match="word is"):
            do(words)
        assert kind.did == [] and (tmp_path / "it/pipeline.toml").read_bytes() == written
    with pytest.raises(UserError, match=r"^stage b: word = 'wrong' is no word$"):
        do(("1", "wrong", "3", "4"))
    # What b reads is made first; then all the others are compared, before b is made.
    with pytest.raises(UserError, match=r"^stage c is done .*word is .*stage b is another one"):
        do(("9", "2", "4", "4"), redo=True, only=["a", "b", "d"])
    assert kind.did == ["a"]
    do(("9", "2", "4", "4"), redo=True)
    assert kind.did == ["b", "c", "d"]


def test_what_changed_is_named_in_a_line_before_anything_is_done(kind, doing):
    doing()
    with pytest.raises(UserError) as told:
        doing(("1", "9", "3"))
    line = str(told.value)
    assert line.startswith("stage b is done in ") and 'and word is "9" now, it was "2"; give --redo' in line
    assert kind.did == []


def test_a_stage_that_is_half_done_is_not_mixed_with_other_settings(kind, doing):
    kind.fail["b"] = UserError("no")
    with pytest.raises(UserError):
        doing()
    with pytest.raises(UserError, match=r"^stage b is begun in .* give --redo"):
        doing(("1", "9", "3"))
    assert kind.did == []


def test_redo_sets_aside_what_changed_and_what_begins_with_it(kind, doing, tmp_path):
    doing()
    said = doing(("1", "9", "3"), redo=True)
    assert kind.did == ["b", "c"]
    assert [line for line in said if "is in" in line] == [
        f"stage {name}: what was in {tmp_path / 'it' / name} is in {tmp_path / 'it' / name}.set-aside now"
        for name in "bc"
    ]
    assert (tmp_path / "it/c.set-aside/done").read_text() == "1;2;3;"
    assert (tmp_path / "it/c/done").read_text() == "1;9;3;"
    doing(("1", "2", "3"), redo=True)
    assert (tmp_path / "it/b.set-aside1/done").read_text() == "1;9;"


def test_from_a_stage_it_and_all_later_ones_are_done_anew(kind, doing, tmp_path):
    doing()
    doing(since="b")
    assert kind.did == ["b", "c"]
    assert (tmp_path / "it/b.set-aside/done").read_text() == "1;2;"
    assert not (tmp_path / "it/a.set-aside").exists()
    doing()
    assert kind.did == []


def test_nothing_is_moved_where_an_earlier_stage_is_another_one(kind, doing, tmp_path):
    doing()
    with pytest.raises(UserError, match=r"^stage a is done"):
        doing(("9", "2", "3"), since="b")
    assert (tmp_path / "it/b/done").exists()


def test_what_does_not_matter_changes_nothing(kind, doing):
    doing()
    doing(quiet=True)
    assert kind.did == []


def test_changed_data_counts_and_another_version_is_told(kind, doing):
    doing()
    kind.version = "2"
    assert doing()[0] == "stage 1 of 3: a, done before with other versions (numpy 2, then 1)"
    kind.data = "other"
    with pytest.raises(UserError, match="its data is not what it was"):
        doing()


def test_a_setting_that_an_older_version_did_not_have_undoes_nothing(kind, doing, monkeypatch):
    kind.fail["c"] = UserError("no")
    with pytest.raises(UserError):
        doing()
    documented = kind.document
    monkeypatch.setattr(kind, "document", lambda settings: documented(settings) | {"new": 1, "word": settings["word"]})
    assert doing() == ["stage 1 of 3: a, done before", "stage 2 of 3: b, done before", "stage 3 of 3: c"]
    assert kind.did == ["c+"]
    monkeypatch.setattr(kind, "document", documented)
    assert doing()[-1] == "stage 3 of 3: c, done before"


def test_a_setting_that_mattered_to_an_older_version_alone_undoes_nothing(kind, doing, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(kind, "matters", lambda key: True)
        doing()
    assert doing(quiet=True) == [f"stage {n} of 3: {name}, done before" for n, name in enumerate("abc", 1)]


def test_a_setting_that_the_user_gives_counts_where_there_was_none(kind, doing, tmp_path):
    doing()
    rows = [{"name": name, "word": word} for name, word in zip("abc", "123", strict=True)]
    rows[1]["other"] = "new"
    with pytest.raises(UserError, match=r'^stage b is done .* other is "new" now, it was none; give --redo'):
        perform_stages(
            to_pipeline({"stage": rows}, {"train": kind}, tmp_path / "it"), {"train": kind}, NullView, Orders()
        )


def test_a_folder_that_was_changed_since_is_seen(kind, doing, tmp_path):
    doing()
    (tmp_path / "it/b/done").write_text("1;other;")
    with pytest.raises(UserError, match=r"^stage b is done .* its folder is not as it was when it was done"):
        doing()
    doing(redo=True)
    assert kind.did == ["b"]


def test_a_folder_that_is_gone_is_made_again(kind, doing, tmp_path):
    doing()
    (tmp_path / "it/b").rename(tmp_path / "away")
    doing()
    assert kind.did == ["b"]


def test_one_stage_alone_needs_those_before_it(kind, doing):
    with pytest.raises(UserError, match=r"^stage a is needed and not done"):
        doing(only=["b"])
    doing(only=["a"])
    doing(only=["b"])
    assert kind.did == ["b"]
    with pytest.raises(UserError, match="has no stage 'd'"):
        doing(only=["d"])
    with pytest.raises(UserError, match=r"^stage a is done"):
        doing(("9", "2", "3"), only=["b"])


def test_mistakes_in_later_stages_are_told_first(kind, doing, tmp_path):
    with pytest.raises(UserError, match=r"^stage c: word = 'wrong'"):
        doing(("1", "2", "wrong"))
    assert kind.did == [] and not (tmp_path / "it").exists()


def test_a_stop_says_how_to_go_on(kind, doing):
    for stop in (Stopped("of the run", 15), AtOnce(2, "of the run")):
        kind.fail["b"] = stop
        with pytest.raises(type(stop), match=r"^go on so$"):
            doing(again="go on so")
    doing()
    assert kind.did == ["b+", "c"]


def test_a_signal_that_came_too_late_for_a_stage_keeps_the_next_one_from_beginning(kind, doing):
    kind.fail["a"] = 2
    with pytest.raises(Stopped) as stopped:
        doing()
    assert stopped.value.signal == 2 and kind.did == ["a"]
    doing()
    assert kind.did == ["b", "c"]


def test_one_process_works_in_a_folder(kind, doing, tmp_path):
    doing()
    with claimed(tmp_path / "it", resume=True), pytest.raises(Taken, match="belongs to process"):
        doing()


def test_a_folder_in_use_is_not_set_aside(kind, doing, tmp_path):
    doing()
    with claimed(tmp_path / "it/b", resume=True), pytest.raises(Taken, match="belongs to process"):
        doing(since="b")
    assert (tmp_path / "it/b/done").exists()


@pytest.mark.parametrize("file", ["run.toml", "notes.txt"])
def test_a_folder_of_something_else_is_left_alone(kind, doing, tmp_path, file):
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / file).write_text("x = 1")
    with pytest.raises(Taken, match="choose another name"):
        doing()
    assert [p.name for p in (tmp_path / "it").iterdir()] == [file]


def test_a_run_that_lies_where_a_stage_would_go_is_not_taken_over(kind, doing, tmp_path):
    doing(only=["a"])
    (tmp_path / "it/b").mkdir()
    (tmp_path / "it/b/begun").touch()
    with pytest.raises(UserError, match="was not made by this pipeline"):
        doing()


def test_notes_that_are_damaged_are_one_line(kind, doing, tmp_path):
    doing()
    (tmp_path / "it/stages.json").write_text("[")
    with pytest.raises(UserError, match=r"stages\.json cannot be read"):
        doing()


def test_notes_survive_a_folder_that_moves(kind, doing, tmp_path):
    """Stages are named in them, not the paths of their folders."""
    doing()
    assert str(tmp_path) not in json.dumps(json.loads((tmp_path / "it/stages.json").read_text()))
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "it").rename(moved / "it")
    kind.did.clear()
    perform_stages(plan(kind, moved), {"train": kind}, NullView)
    assert kind.did == []


@pytest.mark.parametrize("orders", [{"redo": True}, {"since": "a"}])
def test_what_reads_a_stage_that_is_set_aside_falls_with_it_so_that_the_same_command_goes_on(kind, tmp_path, orders):
    def do(words: tuple[str, ...], **orders: Any) -> list[str]:
        kind.did.clear()
        said: list[str] = []
        pipeline = reading(kind, tmp_path, words)
        perform_stages(pipeline, {"train": kind}, NullView, Orders(say=said.append, **orders))
        return said

    do(("1", "2", "3", "4"))
    words = ("9", "2", "3", "4") if "redo" in orders else ("1", "2", "3", "4")
    kind.fail["a"] = Stopped("again")
    with pytest.raises(Stopped):
        do(words, **orders)
    assert sorted(path.name for path in (tmp_path / "it").glob("*.set-aside*")) == [f"{n}.set-aside" for n in "abcd"]
    do(words)
    assert kind.did == ["a+", "b", "c", "d"]
