"""What the page is told."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from asked import PORT, ask_app
from made_runs import made_run

from upslope.inspect.look.finding import AttemptQuery, AttemptSearch, SearchPlace
from upslope.inspect.look.serve import make_app
from upslope.inspect.reading.places import RunPlace
from upslope.inspect.why import standing


def ask(app: Any, question: str, **query: Any) -> Any:
    found = ask_app(app, f"/T/api/{question}", query)
    assert found.status == 200, found.body
    return found.told


def app_over(*roots: Path) -> Any:
    return make_app(roots, "T", PORT)[0]


@pytest.fixture
def app(tmp_path: Path) -> Any:
    made_run(tmp_path / "runs" / "deep" / "one", 10)
    made_run(tmp_path / "runs" / "two", 6, settings={"seed": 1})
    return app_over(tmp_path / "runs")


def test_runs_say_what_a_table_needs(app: Any) -> None:
    rows = {row["name"]: row for row in ask(app, "runs")}
    assert set(rows) == {"deep/one", "two"}
    one = rows["deep/one"]
    assert (one["recipe"], one["task"], one["model"], one["seed"]) == ("grpo", "gsm8k", "small", 0)
    assert (one["steps"], one["total"], one["tokens"], one["seconds"]) == (10, 10, 12800, 15)
    assert [found["value"] for found in one["accuracy"]] == [0.2, 0.7]
    assert one["lineage"]["parent"] == "grpo" and one["lineage"]["changes"]["regulariser"][1] == "no_penalty"
    assert one["trouble"] == ""


def test_runs_that_differ_in_their_seed_alone_are_one_family(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 3, settings={"seed": 0})
    made_run(tmp_path / "b", 3, settings={"seed": 1})
    made_run(tmp_path / "c", 3, settings={"learn": {"lr": 1.0}})
    family = {row["name"]: row["family"] for row in ask(app_over(tmp_path), "runs")}
    assert family["a"] == family["b"] != family["c"]


def test_a_folder_that_is_a_run_is_one(tmp_path: Path) -> None:
    run = made_run(tmp_path / "alone", 3)
    assert [row["name"] for row in ask(app_over(run), "runs")] == ["alone"]


def test_two_folders_keep_their_names_apart(tmp_path: Path) -> None:
    for side in ("left", "right"):
        made_run(tmp_path / side / "runs" / "same", 3)
    rows = ask(app_over(tmp_path / "left" / "runs", tmp_path / "right" / "runs"), "runs")
    assert len({row["name"] for row in rows}) == 2


def test_a_run_has_its_columns_with_their_meaning(app: Any) -> None:
    told = ask(app, "run", run="deep/one")
    columns = {column["key"]: column for column in told["columns"]}
    assert columns["entropy"]["group"] == "policy" and columns["entropy"]["words"]
    assert columns["seconds.update"]["group"] == "time"
    assert told["recorded"] == {"first": 0, "last": 9, "num": 10}
    assert told["evaluated"] == [0, 10]
    assert told["settings"]["learn"]["lr"] == 1e-4
    assert told["why"] == []


def test_curves_have_the_points_that_are_asked_for(app: Any) -> None:
    told = ask(app, "curves", run="deep/one", keys="reward,nothing", points=5, axis="tokens")
    assert len(told["curves"]["reward"]["x"]) == 5
    assert told["curves"]["reward"]["x"][-1] == 12800
    assert told["curves"]["nothing"]["y"] == [None] * 5
    assert [(row["x"], row["value"]) for row in told["accuracy"]] == [(0.0, 0.2), (12800, 0.7)]


def test_mixed_problems_come_first(app: Any) -> None:
    told = ask(app, "step", run="deep/one", step=4)
    assert [problem["kind"] for problem in told["problems"]] == ["mixed", "mixed", "mixed", "equal"]
    assert told["problems"][0]["mean"] == 0.25
    assert [attempt["reward"] for attempt in told["problems"][0]["attempts"]] == [1, 0, 0, 0]
    assert told["problems"][0]["attempts"][0]["num_tokens"] == 10  # 12, of which every sixth is the world's
    assert (told["before"], told["after"]) == (3, 5)
    assert told["row"]["reward"] == pytest.approx(0.2 + 0.5 * 4 / 9 + 0.02 * -0.7568, abs=1e-4)


def test_what_was_tried_and_left_out_comes_last(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 3, kept=lambda number: number >= 8)  # the first two problems of four
    told = ask(app_over(tmp_path), "step", run="a", step=0)
    assert [problem["kind"] for problem in told["problems"]] == ["mixed", "equal", "left out", "left out"]


def test_an_attempt_has_all_of_its_tokens_and_its_siblings(app: Any) -> None:
    told = ask(app, "attempt", run="deep/one", step=2, place=5)
    attempt = told["attempt"]
    assert (attempt["problem"], attempt["sample"]) == ("p9", 1)
    for column in ("response_pieces", "sampler_logp", "learner_logp", "push", "ratio", "reference_logp", "top_logp"):
        assert len(attempt[column]) == 12
    assert [sibling["place"] for sibling in told["siblings"]] == [4, 5, 6, 7]


@pytest.mark.parametrize(("found", "extracts"), [({}, True), ({"extracted": None}, False)])
def test_that_no_answer_is_found_is_said_only_where_answers_are_looked_for(
    tmp_path: Path, found: dict[str, None], extracts: bool
) -> None:
    made_run(tmp_path / "one", 3, **found)
    assert ask(app_over(tmp_path), "attempt", run="one", step=2, place=5)["extracts"] is extracts


def test_an_evaluation_can_be_looked_at(app: Any) -> None:
    told = ask(app, "step", run="two", kind="eval", step=6)
    assert [len(problem["attempts"]) for problem in told["problems"]] == [1] * 4
    assert ask(app, "attempt", run="two", kind="eval", step=6, place=0)["attempt"]["response_pieces"]


@pytest.mark.parametrize(
    ("question", "query", "words"),
    [
        ("step", {"run": "two", "step": 99}, "no attempts of step 99 were kept"),
        ("step", {"run": "two", "step": "x"}, "step='x' is no whole number"),
        ("step", {"run": "two", "step": "-1"}, "step='-1' is no whole number"),
        ("attempt", {"run": "two", "step": 0, "place": 99}, "has no attempt number 99"),
        ("curves", {"run": "two", "axis": "years"}, "none of step, tokens, seconds"),
        ("search", {"run": "two", "least_reward": "much"}, "least_reward='much' is no number"),
        ("run", {"run": "three"}, "there is no run 'three'"),
    ],
)
def test_a_wrong_question_has_one_line(app: Any, question: str, query: dict[str, Any], words: str) -> None:
    found = ask_app(app, f"/T/api/{question}", query)
    assert found.status == 404
    assert words in found.told["error"]


def test_a_broken_run_says_what_is_wrong_and_the_others_are_shown(tmp_path: Path) -> None:
    made_run(tmp_path / "good", 6)
    broken = made_run(tmp_path / "broken", 6)
    (broken / "run.toml").write_text("name = ")
    with (broken / "journal.jsonl").open("ab") as file:
        file.write(b"no line\n")
    (broken / "rollouts" / "step-000003.parquet").write_bytes(b"PAR1 and nothing more")
    (tmp_path / "empty" / "rollouts").mkdir(parents=True)
    (tmp_path / "empty" / "run.toml").write_text('name = "empty"\n')
    app = app_over(tmp_path)
    rows = {row["name"]: row for row in ask(app, "runs")}
    assert set(rows) == {"good", "broken", "empty"}
    assert "run.toml" in rows["broken"]["trouble"] and "row 9" in rows["broken"]["trouble"]
    assert rows["empty"]["trouble"] == "there is no journal yet"
    assert ask(app, "run", run="broken")["steps"] == 6
    found = ask_app(app, "/T/api/step", {"run": "broken", "step": 3})
    assert found.status == 404 and "cannot read the attempts" in found.told["error"]
    assert "\n" not in found.told["error"]
    assert ask(app, "search", run="broken", text="attempt")["troubles"]


def numbered(step: str) -> bytes:
    return b'{"kind": "step", "step": ' + step.encode() + b', "reward": 1}\n'


@pytest.mark.parametrize(
    "line",
    [numbered("1" + "0" * 30), numbered("-1" + "0" * 30), numbered(str(2**63)), b'{"kind": "eval", "step": 1e3}\n',
     b"[" * 100_000 + b"\n", b"null\n", b'"step"\n'],
)  # fmt: skip
def test_one_damaged_journal_leaves_the_table_of_runs_as_it_is(tmp_path: Path, line: bytes) -> None:
    made_run(tmp_path / "good", 2, attempts=False)
    with (made_run(tmp_path / "bad", 2, attempts=False) / "journal.jsonl").open("ab") as file:
        file.write(line)
    rows = {row["name"]: row for row in ask(app_over(tmp_path), "runs")}
    assert {name: row["steps"] for name, row in rows.items()} == {"good": 2, "bad": 2}
    assert (rows["good"]["trouble"], rows["bad"]["trouble"]) == ("", "row 5 of the journal cannot be read")


def test_files_that_lead_to_themselves_are_none(tmp_path: Path) -> None:
    made_run(tmp_path / "good", 2)
    run = made_run(tmp_path / "bad", 2)
    for name in ("run.toml", "rollouts/step-000001.parquet", "journal.jsonl"):
        (run / name).unlink()
        (run / name).symlink_to(run / name)
    app = app_over(tmp_path)
    assert {row["name"]: row["steps"] for row in ask(app, "runs")} == {"good": 2, "bad": 0}
    assert ask_app(app, "/T/api/step", {"run": "bad", "step": 1}).status == 404


def test_names_that_are_no_text_have_addresses_of_their_own(tmp_path: Path) -> None:
    for end in (b"\xff", b"\xfe"):
        place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run" + end))
        try:
            made_run(tmp_path / "run", 6).rename(place)
        except OSError:
            pytest.skip("this file system has no such names")
    app = app_over(tmp_path)
    names = [row["name"] for row in ask(app, "runs")]
    assert len(set(names)) == 2 and all("run�" in name for name in names)
    for name in names:
        assert ask(app, "run", run=name)["steps"] == 6
        assert "cannot read the attempts" in ask_app(app, "/T/api/step", {"run": name, "step": 1}).told["error"]


def test_a_problem_that_was_tried_once_is_of_its_own_kind(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 1, samples=1)
    assert {problem["kind"] for problem in ask(app_over(tmp_path), "step", run="a", step=0)["problems"]} == {"single"}


def test_the_page_sees_a_run_grow(tmp_path: Path) -> None:
    run = made_run(tmp_path / "a", 3)
    app = app_over(tmp_path)
    assert ask(app, "run", run="a")["steps"] == 3
    with (run / "journal.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "step", "step": 3, "reward": 1.0}) + "\n")
    told = ask(app, "run", run="a")
    assert (told["steps"], told["last"]) == (4, {"reward": 1.0})


def test_search_finds_by_text_reward_length_and_problem(app: Any) -> None:
    def places(before: Any = "", **query: Any) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        while before is not None:  # an answer ends after a fraction of a second, wherever it is then
            told = ask(app, "search", run="deep/one", before=before, **query)
            found += [(row["step"], row["place"]) for row in told["found"]]
            before = told["next"]
        return found

    assert places(text="ATTEMPT 7 of step 3") == [(3, 7)]
    assert places(text="what is 2 + 9") == [(9, place) for place in range(8, 12)]
    assert places(problem="p-again", least_reward=0.5) == [(step, 0) for step in reversed(range(10))]
    assert places(text="step 3", ended="length") == [(3, 0), (3, 5), (3, 10), (3, 15)]
    assert places(least_length=11) == []
    assert len(places(most_length=10, before=3)) == 48  # three steps of sixteen
    assert places(text="step 3", kind="eval") == []


def test_search_goes_on_where_it_stopped(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 12)
    app = app_over(tmp_path)
    found: list[dict[str, Any]] = []
    before, asked = None, 0
    while asked == 0 or before is not None:
        told = ask(app, "search", run="a", **({} if before is None else {"before": before}))
        found += told["found"]
        before, asked = told["next"], asked + 1
    assert asked > 1
    assert len(found) == len({(row["step"], row["place"]) for row in found}) == 12 * 16


def test_one_answer_has_fifty_attempts_even_of_one_step(tmp_path: Path) -> None:
    made_run(tmp_path / "a", 2, problems=20, samples=8)  # 160 attempts a step, in row groups of 64
    app, found, before = app_over(tmp_path), [], ""
    while before is not None:
        told = ask(app, "search", run="a", text="in attempt", before=before)
        assert len(told["found"]) <= 50
        found += [(row["step"], row["place"]) for row in told["found"]]
        before = told["next"]
    assert found == [(step, place) for step in (1, 0) for place in range(160)]


def test_a_search_goes_no_further_than_its_time(tmp_path: Path) -> None:
    place = RunPlace("a", made_run(tmp_path / "a", 3, problems=20, samples=8))
    times = itertools.count()
    looking = AttemptSearch(AttemptQuery(text="nowhere to be found"), 1.5, lambda: next(times))
    goes_on = looking.look_through(place, "step", [2, 1, 0], SearchPlace())
    assert goes_on == SearchPlace(3, 128)  # the clock says 0 first, 1 after the first row group, 2 after the second
    assert AttemptSearch(AttemptQuery(), 1e9, lambda: 0.0).look_through(place, "step", [0], SearchPlace(1, 128)) is None


@pytest.mark.parametrize("before", ["x", "1.", ".5", "1.2.3", "-1", "²"])
def test_where_a_search_goes_on_is_a_step_and_a_place(app: Any, before: str) -> None:
    found = ask_app(app, "/T/api/search", {"run": "two", "before": before})
    assert found.status == 404 and "is no step" in found.told["error"]


def test_a_diagnosis_is_made_anew_only_when_the_run_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[int] = []
    monkeypatch.setattr(standing, "diagnose", lambda run: judged.append(len(run.tail.steps)) or [])
    run = made_run(tmp_path / "a", 6)
    app = app_over(tmp_path)
    for _ in range(3):
        ask(app, "run", run="a")
    assert judged == [6]
    with (run / "journal.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "step", "step": 6, "reward": 1.0}) + "\n")
    ask(app, "run", run="a")
    assert judged == [6, 7]


HOSTILE = ["<script>alert(1)</script>", "</pre><img src=x onerror=alert(1)>", "\ud800", "\x00", "{{7*7}}", "‮txet"]


@pytest.mark.parametrize("words", HOSTILE)
def test_what_a_model_wrote_is_told_as_text(tmp_path: Path, words: str) -> None:
    made_run(tmp_path / "a", 2, words=words.encode("utf-8", "replace").decode())
    told = ask_app(app_over(tmp_path), "/T/api/attempt", {"run": "a", "step": 0, "place": 0})
    assert told.headers["content-type"] == "application/json"
    assert told.told["attempt"]["response_text"].startswith(words.encode("utf-8", "replace").decode())
