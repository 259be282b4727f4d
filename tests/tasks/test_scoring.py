"""``upslope score``: the same lines, in order, with their rewards; bad lines are named and lose nothing.

Below: reward functions that crash, wait or scribble.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.tasks import awaited, grade_school
from upslope.tasks.base import Split, Task
from upslope.tasks.registry import load_rewards
from upslope.tasks.reward_calls import RewardFunction
from upslope.tasks.scoring import BATCH, score_file
from upslope.tasks.user import UserTask
from upslope.types import Problem, Score

GOOD = {"answer": "3*6 = <<3*6=18>>18\n#### 18", "response": "#### 18"}


class NoData(grade_school.GSM8K):
    """GSM8K that fails the test if any data set is loaded."""

    def __init__(self) -> None:
        super().__init__((), False, load_rewards([]))

    def problems(self, split: Split) -> Any:
        raise AssertionError("the data set was loaded")


class Flushes(io.StringIO):
    """Counts the lines that were written when each flush came."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []

    def flush(self) -> None:
        self.lines.append(self.getvalue().count("\n"))


def run(task: Task, *rows: Any) -> tuple[list[dict[str, Any]], str]:
    out, err = io.StringIO(), io.StringIO()
    score_file(task, io.StringIO("".join(json.dumps(row) + "\n" for row in rows)), out, err)
    return [json.loads(line) for line in out.getvalue().splitlines()], err.getvalue()


def test_own_columns_need_no_data_set() -> None:
    rows = [GOOD, {"x": [1, "é"], **GOOD, "response": "#### 1,8"}, {**GOOD, "response": "#### 17", "question": "q"}]
    lines, summary = run(NoData(), *rows)
    assert [(line.pop("reward"), line.pop("extracted")) for line in lines] == [(1.0, "18"), (0.0, None), (0.0, "17")]
    assert lines == rows
    assert [list(line) for line in lines] == [list(row) for row in rows]
    assert summary == "3 responses, mean reward 0.3333, 1 without an answer\n"


def test_ids_of_either_split(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "q", "answer": "#### 1"}\n')
    (tmp_path / "test.jsonl").write_text('{"question": "q", "answer": "#### 2"}\n')
    rows = [{"id": f"gsm8k/{split}/0", "response": "#### 2"} for split in ("train", "test", "train")]
    lines, _ = run(grade_school.open(str(tmp_path)), *rows)
    assert [line["reward"] for line in lines] == [0.0, 1.0, 0.0]


def test_ids_where_one_split_is_missing(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"question": "q", "answer": "#### 2"}\n')
    lines, _ = run(grade_school.open(str(tmp_path)), {"id": "gsm8k/test/0", "response": "#### 2"})
    assert lines[0]["reward"] == 1.0


class Plain:
    """A task with the Task protocol and no more, as generated tasks are."""

    name = "plain"

    def problems(self, split: Split) -> list[Problem]:
        return [Problem(f"plain/{split}", ({"role": "user", "content": "?"},), truth=split)]

    def demonstrations(self) -> list[Problem]:
        return []

    def documents(self) -> list[str]:
        return []

    def score(self, problems: Any, responses: Any) -> list[Score]:
        return [Score(float(p.truth == r), r or None) for p, r in zip(problems, responses, strict=True)]

    def fingerprint(self) -> str:
        return ""


def test_any_task_can_score_by_id() -> None:
    lines, summary = run(Plain(), {"id": "plain/test", "response": "test"}, {"id": "plain/train", "response": ""})
    assert [line["reward"] for line in lines] == [1.0, 0.0]
    assert summary == "2 responses, mean reward 0.5000, 1 without an answer\n"


def test_several_rewards_show_their_parts_and_none_is_kept() -> None:
    def right(completions: list[str], answer: list[str]) -> list[float | None]:
        return [None if a is None else float(a in c) for c, a in zip(completions, answer, strict=True)]

    def short(completions: list[str]) -> list[float]:
        return [0.5] * len(completions)

    task = UserTask((), load_rewards([right, short]))
    lines, summary = run(task, {"prompt": "q", "answer": "7", "response": "7!"}, {"prompt": "q", "response": "8"})
    assert [line["reward"] for line in lines] == [1.5, 0.5]
    assert [line["parts"] for line in lines] == [{"right": 1.0, "short": 0.5}, {"right": None, "short": 0.5}]
    assert summary == "2 responses, mean reward 1.0000\n"  # nothing reads answers here


def test_one_reward_has_no_parts() -> None:
    lines, _ = run(NoData(), GOOD)
    assert "parts" not in lines[0]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"answer": "#### 1"}, "needs a string 'response'"),
        ({"answer": "#### 1", "response": None}, "needs a string 'response'"),
        ({"response": "r", "answer": "1"}, "does not end with '#### <number>'"),
        ({"response": "r"}, "needs the 'id' of a gsm8k problem, or the data set's own columns"),
        ({**GOOD, "reward": 1.0}, "already has 'reward'"),
        ({**GOOD, "extracted": None}, "already has 'extracted'"),
        ([1], "a list, not an object"),
    ],
)
def test_a_bad_line_is_named_and_the_lines_before_it_are_out(row: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [GOOD, GOOD, row, GOOD]))
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(UserError) as caught:
        score_file(NoData(), path, out, err)
    assert str(caught.value).startswith(f"{path} row 3: ")
    assert says in str(caught.value)
    assert [json.loads(line)["reward"] for line in out.getvalue().splitlines()] == [1.0, 1.0]
    assert err.getvalue() == ""


def test_an_unknown_id_names_the_nearest() -> None:
    with pytest.raises(UserError, match="row 1: plain has no problem 'plain/tset'; did you mean 'plain/test'"):
        run(Plain(), {"id": "plain/tset", "response": "r"})


def test_lines_stream_in_batches() -> None:
    out = Flushes()
    rows = json.dumps(GOOD) + "\n"
    score_file(NoData(), io.StringIO(rows * (2 * BATCH + 1)), out, io.StringIO())
    assert out.lines == [BATCH, 2 * BATCH, 2 * BATCH + 1]


def test_a_crashing_reward_is_called_once_and_stops_the_command() -> None:
    calls = []

    def crash(completions: list[str]) -> list[float]:
        calls.append(len(completions))
        raise KeyError("x")

    with pytest.raises(UserError, match=r"'crash' crashed on .* row 1"):
        run(UserTask((), load_rewards([crash])), *[{"prompt": "q", "response": "r"}] * (BATCH + 1))
    assert calls == [BATCH]


def test_nothing_to_score(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to score"):
        run(NoData())
    with pytest.raises(UserError, match="cannot read"):
        score_file(NoData(), tmp_path / "nowhere.jsonl", io.StringIO(), io.StringIO())


def test_a_closed_standard_input_is_one_line() -> None:
    code = "from upslope.cli import main; main()"
    words = [sys.executable, "-c", code, "score", "--task", "gsm8k"]
    done = subprocess.run(["/bin/sh", "-c", '"$@" <&-', "sh", *words], capture_output=True, text=True)
    said = "upslope: standard input is closed: name a file of responses, or pipe them in\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_a_compressed_file_of_responses(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(GOOD) + "\n[]\n").encode()))
    out = io.StringIO()
    with pytest.raises(UserError, match="gz row 2: a list, not an object"):
        score_file(NoData(), path, out, io.StringIO())
    assert json.loads(out.getvalue())["reward"] == 1.0


def test_output_is_ascii_whatever_the_text() -> None:
    out = io.StringIO()
    score_file(NoData(), io.StringIO(json.dumps({**GOOD, "note": "\ud800 ½"}) + "\n"), out, io.StringIO())
    assert out.getvalue().isascii()
    assert json.loads(out.getvalue())["note"] == "\ud800 ½"


PLAIN = [Problem(f"user/train/{i}", ({"role": "user", "content": f"p{i}"},), plain=True) for i in range(3)]


def score(functions: Sequence[RewardFunction], problems: Sequence[Problem], *responses: str) -> list[Score]:
    return load_rewards(functions).score(problems, responses)


def test_a_crash_is_never_a_zero_and_its_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import json\n\ndef f(completions, **kwargs):\n    return json.loads('{')\n")
    (function,) = load_rewards([f"{tmp_path / 'mine.py'}:f"]).functions.values()
    with pytest.raises(UserError) as caught:
        score([function], PLAIN, "a", "b", "c")
    # line 4 is the user's; the crash itself is deeper, inside json
    assert "'f' crashed on user/train/0 (a batch of 3): JSONDecodeError: " in str(caught.value)
    assert f"at {tmp_path / 'mine.py'}:4;" in str(caught.value)


def test_async_functions_are_awaited_also_inside_a_running_loop() -> None:
    async def later(completions: list[str], **kwargs: Any) -> list[float]:
        await asyncio.sleep(0)
        return [2.0] * len(completions)

    async def notebook() -> list[Score]:
        return score([later], PLAIN[:1], "a")

    assert [s.reward for s in score([later], PLAIN[:2], "a", "b")] == [2.0, 2.0]
    assert asyncio.run(notebook())[0].reward == 2.0


def test_a_scribbling_function_does_not_misalign_the_next() -> None:
    def clears(completions: list[str]) -> list[float]:
        completions.reverse()
        return [0.0] * 3

    def long(completions: list[str]) -> list[float]:
        return [float(len(text)) for text in completions]

    assert [s.reward for s in score([clears, long], PLAIN, "a", "bb", "ccc")] == [1.0, 2.0, 3.0]


def test_responses_and_problems_must_match() -> None:
    with pytest.raises(ValueError, match="shorter"):
        score([lambda completions: [1.0]], PLAIN, "a")


def test_threads_that_ask_at_once_get_one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that one of them opens is of no use on another loop."""
    monkeypatch.setattr(awaited, "_LOOPS", {})
    barrier, made = threading.Barrier(4), asyncio.new_event_loop

    def all_at_once() -> asyncio.AbstractEventLoop:
        barrier.wait(5)
        return made()

    async def mine() -> int:
        return id(asyncio.get_running_loop())

    monkeypatch.setattr(asyncio, "new_event_loop", all_at_once)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: awaited.begun_on_loop(mine()).result(5), range(4)))
    assert len(set(found)) == 1
