"""Rewards in other processes: the same scores, and what hangs or ends its process takes nothing with it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from upslope.config import load_settings
from upslope.errors import Unavailable, UserError
from upslope.record.journal import read_journal
from upslope.tasks import at_work
from upslope.tasks.base import Task
from upslope.tasks.elsewhere import Elsewhere
from upslope.tasks.registry import open_task
from upslope.tasks.scoring import score_file
from upslope.training import ending
from upslope.training.ending import ASKING, AtOnce, Signals
from upslope.training.start import launch
from upslope.training.tally import of_clocks, solved
from upslope.training.view import NullView
from upslope.types import Problem, Rollout

REWARDS = r"""
import os, re, subprocess, sys, time

def judge(completions, **_):
    return [judge_one(text) for text in completions]

def judge_one(text):
    if text == "sleep":
        time.sleep(60)
    if text == "regex":
        re.match(r"(a+)+$", "a" * 60 + "b")  # holds Python's lock for years
    if text == "deaf":
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    if text == "child":
        open("child", "w").write(str(subprocess.Popen(["sleep", "60"]).pid))
        time.sleep(60)
    if text == "exit":
        os._exit(0)
    if text == "kill":
        os.kill(os.getpid(), 9)
    if text == "crash":
        raise ValueError("no good")
    if text == "print":
        print("hello from afar \ud800")
        print("aside", file=sys.stderr)
        sys.stdout.buffer.write(b"bytes\n")
        subprocess.run(["true"], stdout=sys.stderr)
    if text == "signal 40":
        os.kill(os.getpid(), 40)
    if text == "interrupt":
        raise KeyboardInterrupt
    if text == "memory":
        raise MemoryError
    return float(len(text))

def late(completions, **_):
    time.sleep(0.4)
    return [0.0 for _ in completions]

def process(completions, **_):
    open(f"seen-{os.getpid()}", "w").close()
    while len([name for name in os.listdir() if name.startswith("seen-")]) < 2:
        time.sleep(0.01)  # until the other one is at work too
    return [float(os.getpid()) for _ in completions]
"""
TEXTS = ["a", "bb", "ccc", "dddd", "eeeee"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("rewards.py").write_text(REWARDS)
    Path("rows.jsonl").write_text("".join(f'{{"prompt": "{i}?"}}\n' for i in range(30)))
    return tmp_path


def task(*names: str, **settings: object) -> Task:
    rewards = [f"rewards.py:{name}" for name in names or ["judge"]]
    return open_task("user", data="rows.jsonl", rewards=rewards, **settings)  # type: ignore[arg-type]


def asked(*texts: str) -> tuple[list[Problem], list[str]]:
    return [Problem(f"p/{i}", ({"role": "user", "content": "?"},), plain=True) for i in range(len(texts))], list(texts)


@pytest.mark.parametrize("settings", [{"reward_workers": 2}, {"reward_timeout": 20.0, "reward_workers": 2}])
@pytest.mark.parametrize("names", [("judge",), ("judge", "late")])
def test_the_scores_are_the_same_and_in_order(settings: dict[str, object], names: tuple[str, ...]) -> None:
    elsewhere, here = task(*names, **settings), task(*names)
    assert [Elsewhere in (type(of), type(getattr(of, "_inner", None))) for of in (elsewhere, here)] == [True, False]
    for texts in (TEXTS, TEXTS[:1], TEXTS[::-1], []):  # the processes are kept
        assert elsewhere.score(*asked(*texts)) == here.score(*asked(*texts))


def test_several_processes_work_none_of_them_this_one() -> None:
    found = {score.reward for score in task("process", reward_workers=2).score(*asked(*TEXTS * 8))}
    assert len(found) == 2 and os.getpid() not in found


@pytest.mark.parametrize("settings", [{"reward_workers": 1}, {"reward_workers": 2}])
def test_threads_that_ask_at_once_get_their_own_scores(settings: dict[str, object]) -> None:
    """An evaluation comes while what a sampler has written ahead is scored."""
    elsewhere = task(**settings)
    wrong: list[object] = []

    def ask(first: int) -> None:
        for length in range(first, first + 40):
            texts = ["x" * length, "y" * (length + 100)]
            try:
                found = [score.reward for score in elsewhere.score(*asked(*texts))]
            except BaseException as error:  # told by the thread that looks
                found = [error]
            if found != [float(length), float(length + 100)]:
                wrong.append((length, found))

    threads = [threading.Thread(target=ask, args=(first,)) for first in (1, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == [] and not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("text", ["sleep", "regex", "deaf", "child"])
def test_what_hangs_is_masked_and_the_others_are_scored(text: str) -> None:
    start = time.monotonic()
    found = task(reward_timeout=1.0, on_timeout="mask").score(*asked("a", text, "ccc"))
    assert [score.timed_out for score in found] == [False, True, False]
    assert [score.reward for score in found] == [1.0, 0.0, 3.0]
    assert time.monotonic() - start < 30  # not sixty
    if text == "child":
        wait_for_the_end_of(int(Path("child").read_text()))


def wait_for_the_end_of(process: int) -> None:
    """Until it is no more, or a corpse that its new parent has not buried yet."""
    for _ in range(100):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
            os.kill(process, 0)
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.05)
    raise AssertionError("it is still there")


def test_what_hangs_stops_with_function_problem_and_time() -> None:
    why = r"reward function 'judge' on p/1 took longer than task.reward_timeout = 0.5 s; .*task.on_timeout=mask"
    with pytest.raises(UserError, match=why):
        task(reward_timeout=0.5).score(*asked("a", "sleep"))


@pytest.mark.parametrize(
    ("text", "why"), [("exit", "exit code 0"), ("kill", "killed by SIGKILL"), ("signal 40", "killed by signal 40")]
)
def test_the_end_of_its_process_is_one_line(text: str, why: str) -> None:
    opened = task(reward_workers=1)
    with pytest.raises(UserError, match=rf"reward function 'judge' on p/0 \(a batch of 2\) ended its process \({why}"):
        opened.score(*asked("a", text))
    assert opened.score(*asked("a"))[0].reward == 1.0  # and the next finds another one


def test_a_crash_says_what_it_says_in_this_process() -> None:
    said = []
    for opened in (task(), task(reward_workers=1)):
        with pytest.raises(UserError) as error:
            opened.score(*asked("crash"))
        said.append(str(error.value))
    assert said[0] == said[1] and "crashed on p/0: ValueError: no good at" in said[0]


def test_what_it_prints_is_printed_here(capsys: pytest.CaptureFixture[str]) -> None:
    task(reward_workers=1).score(*asked("print"))
    said = capsys.readouterr()
    assert (said.out, said.err) == ("hello from afar \\ud800\nbytes\n", "aside\n")


def test_nobody_has_to_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    assert task(reward_workers=1).score(*asked("print", "aa"))[1].reward == 2.0


def test_what_the_machine_lacks_is_no_mistake() -> None:
    for opened in (task(), task(reward_workers=1)):
        with pytest.raises(UserError) as error:
            opened.score(*asked("memory"))
        assert isinstance(error.value, Unavailable) or isinstance(error.value.__cause__, MemoryError)


def test_an_interrupt_of_its_own_is_a_crash() -> None:
    with pytest.raises(UserError, match="reward function 'judge' on p/0 crashed: KeyboardInterrupt"):
        task(reward_workers=1).score(*asked("interrupt"))


def test_what_cannot_be_handed_over_is_one_line() -> None:
    problem = Problem("p/0", (), columns={"f": lambda: 0})
    with pytest.raises(UserError, match=r"cannot be handed to another process .*set task\.reward_workers=0"):
        task(reward_workers=1).score([problem], ["a"])


def test_a_process_ends_with_its_run(tmp_path: Path) -> None:
    """Killed without a word, while a worker of its own holds Python's lock."""
    code = (
        "import os; from upslope.tasks.registry import open_task; from upslope.types import Problem\n"
        "opened = open_task('user', data='rows.jsonl', rewards=['rewards.py:judge'], reward_workers=1)\n"
        "problem = Problem('p', ({'role': 'user', 'content': '?'},), plain=True)\n"
        "opened.score([problem], ['a'])\n"
        "print(opened._workers._workers[0]._process.pid, flush=True)\n"
        "opened.score([problem], ['regex'])\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    worker = int(run.stdout.readline())
    time.sleep(0.5)
    run.kill()
    run.wait()
    run.stdout.close()
    wait_for_the_end_of(worker)


def test_what_cannot_be_named_is_refused() -> None:
    def own(completions: list[str], **_: object) -> list[float]:
        return [0.0 for _ in completions]

    with pytest.raises(UserError, match=r"need rewards that are named, FILE.py:FUNCTION; put own into a file"):
        open_task("user", data="rows.jsonl", rewards=[own], reward_workers=1)


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("task.on_timeout=mask", "nothing times out: set reward_timeout"),
        ("task.on_timeout=skip", "stop"),
        ("task.reward_timeout=-1", "at least 0"),
        ("task.reward_timeout=inf", "finite"),
        ("task.reward_timeout=1e30", "at most 86400 seconds"),
        ("task.reward_workers=100000", "at most 256"),
    ],
)
def test_settings_that_mean_nothing_are_refused(setting: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        load_settings(None, [setting])


RUN = """
import time

def slow_on_some(completions, **_):
    if any(len(text) % 5 == 1 for text in completions):
        time.sleep(60)
    return [float(len(text) % 2) for text in completions]
"""


def test_a_run_learns_from_the_others(folder: Path) -> None:
    Path("some.py").write_text(RUN)
    settings = load_settings(
        None,
        [
            *("model=pocket:blank", "recipe=grpo", "recipe.regulariser=no_penalty", "steps=2", "problems=3"),
            *("recipe.sample.group_size=6", "sample.max_tokens=6", "eval.problems=2", "device=cpu", "name=some"),
            *("task.data=rows.jsonl", 'task.rewards=["some.py:slow_on_some"]', "task.reward_timeout=0.2"),
            *("task.on_timeout=mask", "task.reward_workers=2"),
        ],
    )
    run = launch(settings, NullView)
    steps = read_journal(run).steps
    assert any(row.get("timed_out", 0) > 0 for row in steps)
    for row in steps:
        assert row["num_rollouts"] + row.get("timed_out", 0) == 18


OWN = """
import time
from upslope.types import Problem, Score

class Own:
    def problems(self, split):
        return [Problem(f"{split}/{i}", ({"role": "user", "content": "?"},)) for i in range(3)]

    def score(self, problems, responses):
        if "sleep" in responses:
            time.sleep(60)
        return [Score(float(len(r)), extracted=r, steps=((1, 0.5),)) for r in responses]
"""


def test_a_task_of_ones_own() -> None:
    Path("own.py").write_text(OWN)
    here, elsewhere = open_task("own.py:Own"), open_task("own.py:Own", reward_timeout=0.5)
    assert elsewhere.score(*asked("a", "bb")) == here.score(*asked("a", "bb"))
    with pytest.raises(UserError, match=r"task own.py:Own: score\(\) on p/1 took longer than task.reward_timeout"):
        elsewhere.score(*asked("a", "sleep"))


def test_a_task_of_the_packages() -> None:
    here, elsewhere = open_task("pocket"), open_task("pocket", reward_workers=2)
    problems = list(here.problems("test")[:6])
    texts = [f"#### {p.truth if i % 2 else 0}" for i, p in enumerate(problems)]
    assert elsewhere.score(problems, texts) == here.score(problems, texts)


def test_an_evaluation_counts_them() -> None:
    scores = task(reward_timeout=0.2, on_timeout="mask").score(*asked("sleep", "aa"))
    rollouts = [Rollout("p/0", i, (1,), (2,), (True,), (0.0,), 0, "stop", "", score) for i, score in enumerate(scores)]
    assert of_clocks(rollouts) == {"timed_out": 1} and of_clocks(rollouts[1:]) == {}
    assert [solved(rollout) for rollout in rollouts] == [False, True]


def test_lines_that_are_scored_say_so(tmp_path: Path) -> None:
    out, err = io.StringIO(), io.StringIO()
    lines = [{"prompt": "?", "response": text} for text in ("sleep", "aa")]
    source = io.StringIO("".join(json.dumps(line) + "\n" for line in lines))
    score_file(task(reward_timeout=0.2, on_timeout="mask"), source, out, err)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(row["reward"], row.get("timed_out")) for row in rows] == [(None, True), (2.0, None)]
    assert err.getvalue() == "2 responses, mean reward 2.0000, 1 timed out\n"


def test_after_a_while_it_is_said_whose_code_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(at_work, "PATIENCE", 0.05)
    with at_work.said_to(said.append):
        task("late").score(*asked("a", "b"))
    assert len(said) == 1
    assert said[0].startswith("reward function 'late' on p/0 (a batch of 2) has been at work for 0.05 s")
    with at_work.said_to(said.append):
        task("judge").score(*asked("a"))
    assert len(said) == 1


@pytest.fixture
def unignored() -> Iterator[None]:
    before = [(number, signal.signal(number, signal.default_int_handler)) for number in ASKING]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.usefixtures("unignored")
@pytest.mark.parametrize("number", [n for n in ASKING if n != signal.SIGINT])
def test_a_signal_that_a_kill_may_follow_does_not_wait_long_for_a_reward(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "GRACE", 0.2)
    with Signals(lambda text: None) as signals, at_work.at_work("a quick reward"):
        os.kill(os.getpid(), number)
    with signals:
        time.sleep(0.5)  # it has ended, so the step goes on
    assert signals.asked == number
    with Signals(lambda text: None), pytest.raises(AtOnce), at_work.at_work("a reward that never returns"):
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert not at_work.user_code_is_at_work()


def stopped_in(opened: Task, text: str, give_up: Callable[[int], None] | None = None) -> None:
    """SIGTERM before the text is scored ends the scoring, whatever the reward makes of it."""
    with Signals(lambda line: None, give_up), pytest.raises(AtOnce):
        os.kill(os.getpid(), signal.SIGTERM)
        opened.score(*asked(text))


@pytest.mark.usefixtures("unignored")
def test_a_reward_that_swallows_the_end_makes_no_answer_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "GRACE", 0.1)

    def bare(completions: list[str], **_: object) -> list[float]:
        try:
            time.sleep(5)
        except BaseException:
            return [-5.0 for _ in completions]
        return [1.0 for _ in completions]

    stopped_in(open_task("user", data="rows.jsonl", rewards=[bare]), "a")


@pytest.mark.usefixtures("unignored")
def test_one_that_goes_on_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "GRACE", 0.05)
    given_up: list[int] = []

    def deaf(completions: list[str], **_: object) -> list[float]:
        until = time.monotonic() + 10
        while not given_up and time.monotonic() < until:
            try:
                time.sleep(5)
            except BaseException:
                continue
        return [1.0 for _ in completions]

    stopped_in(open_task("user", data="rows.jsonl", rewards=[deaf]), "a", given_up.append)
    assert given_up == [signal.SIGTERM]


@pytest.mark.usefixtures("unignored")
def test_a_signal_does_not_wait_long_for_a_reward_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "GRACE", 0.1)
    stopped_in(task(reward_workers=1), "sleep")


@pytest.mark.usefixtures("unignored")
def test_ctrl_c_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "GRACE", 0.01)
    with Signals(lambda text: None) as signals, at_work.at_work("a reward"):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        assert signals.asked == signal.SIGINT
