"""Arms that are finished are never run again, half-done ones go on, and a failure is kept as what it is."""

import json
import os
import signal
import sys
import threading

import pytest

from upslope.errors import Stopped, UserError
from upslope.lab.ladder import execute
from upslope.lab.ladder.execute import alone, perform, perform_all, run_process, state
from upslope.lab.ladder.plan import Arm

ARM = Arm("grpo-0", "grpo", 0, 200, ("--recipe", "grpo"), weight=2.0)


def journal(folder, num_steps, *, final=True, end=False):
    """A run of 100 tokens a step."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"kind": "eval", "step": 0, "greedy": {"value": 0.4}}]
    rows += [{"kind": "step", "step": i, "num_tokens": 100} for i in range(num_steps)]
    rows += [{"kind": "eval", "step": num_steps, "greedy": {"value": 0.6}}] if final else []
    rows += [{"kind": "end", "step": num_steps, "cause": "nothing left"}] if end else []
    (folder / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def checkpoint(folder):
    (folder / "checkpoints" / "step-000001").mkdir(parents=True, exist_ok=True)


@pytest.fixture(autouse=True)
def checkpoints_are_folders(monkeypatch):
    monkeypatch.setattr(execute, "has_checkpoint", lambda folder: (folder / "checkpoints" / "step-000001").is_dir())


class Stub:
    """Stands for the processes: notes what it was asked and does what it was told."""

    def __init__(self, runs, code=0, num_steps=2, final=True, says="fine"):
        self.runs, self.code, self.num_steps, self.final, self.says = runs, code, num_steps, final, says
        self.asked = []

    def __call__(self, words, log):
        self.asked.append(list(words))
        log.write_text(f"step 1\nupslope: {self.says}\n")
        folder = self.runs / (words[words.index("--name") + 1] if "--name" in words else ARM.name)
        if self.num_steps is not None:
            journal(folder, self.num_steps, final=self.final)
            checkpoint(folder)
        return self.code


@pytest.mark.parametrize(
    ("num_steps", "final", "end", "saved", "expected"),
    [
        (None, False, False, False, "new"),
        (1, False, False, False, "new"),
        (1, False, False, True, "half"),
        (1, True, False, True, "half"),  # evaluated there, but the budget is not spent
        (2, False, False, True, "half"),  # spent, but not evaluated
        (2, True, False, True, "done"),
        (3, True, False, True, "done"),
        (1, True, True, True, "done"),  # nothing was left to learn from
        (2, True, False, False, "new"),  # its weights are not there
    ],
)
def test_where_an_arm_stands_is_read_from_its_folder(tmp_path, num_steps, final, end, saved, expected):
    folder = tmp_path / ARM.name
    if num_steps is not None:
        journal(folder, num_steps, final=final, end=end)
    if saved:
        checkpoint(folder)
    assert state(folder, ARM) == expected


def test_a_new_arm_runs_once_and_then_never_again(tmp_path):
    stub = Stub(tmp_path)
    assert perform(ARM, tmp_path, stub) == "done"
    assert stub.asked == [["--recipe", "grpo", "--name", "grpo-0", "--out", str(tmp_path)]]
    assert perform(ARM, tmp_path, stub) == "done"
    assert len(stub.asked) == 1


@pytest.mark.parametrize("begun", ["journal.jsonl", "run.toml"])
def test_an_arm_that_was_begun_is_resumed_and_nothing_in_its_folder_is_deleted(tmp_path, begun):
    folder = tmp_path / "grpo-0"
    journal(folder, 1, final=False)
    if not begun.startswith("journal"):
        (folder / "journal.jsonl").unlink()
    (folder / begun).touch()
    (folder / "left.txt").write_text("")
    stub = Stub(tmp_path)
    perform(ARM, tmp_path, stub)
    assert stub.asked[0] == ["--resume", str(folder)] and (folder / "left.txt").exists()


def test_a_folder_of_other_settings_is_refused(tmp_path):
    perform(ARM, tmp_path, Stub(tmp_path))
    with pytest.raises(UserError, match=r"made with other settings .* choose another --out"):
        perform(Arm("grpo-0", "grpo", 0, 400, ("--recipe", "grpo", "lr=2")), tmp_path, Stub(tmp_path))


def test_a_run_that_stops_with_a_message_after_it_learnt_is_a_finding(tmp_path):
    stub = Stub(tmp_path, code=2, num_steps=1, final=False, says="step 1: the loss is nan")
    assert perform(ARM, tmp_path, stub) == "failed"
    assert (tmp_path / "grpo-0" / "failed.txt").read_text() == "step 1: the loss is nan\n"
    assert perform(ARM, tmp_path, stub) == "failed"
    assert len(stub.asked) == 1


@pytest.mark.parametrize(("code", "num_steps"), [(2, None), (1, 1), (-9, 1), (0, 1)])
def test_an_arm_that_cannot_run_or_dies_stops_the_ladder_with_its_last_words(tmp_path, code, num_steps):
    with pytest.raises(UserError, match=r"the arm grpo-0 ended with code .*: there is no such thing"):
        perform(ARM, tmp_path, Stub(tmp_path, code, num_steps, final=False, says="there is no such thing"))


def test_ctrl_c_stops_the_ladder_and_the_next_one_goes_on(tmp_path):
    with pytest.raises(Stopped, match="repeat the same command"):
        perform(ARM, tmp_path, Stub(tmp_path, code=130, num_steps=1, final=False))
    stub = Stub(tmp_path)
    assert perform(ARM, tmp_path, stub) == "done"
    assert stub.asked[0][0] == "--resume"


def test_a_line_an_arm_and_the_time_left_by_weight(tmp_path):
    """Weights 2 and 6: when the first took 10 s, 30 s are left."""
    other = Arm("ppo-0", "ppo", 0, 200, (), weight=6.0)
    times = iter([0.0, 10.0, 10.0, 40.0])
    lines = []
    perform_all([ARM, other], tmp_path, Stub(tmp_path), lines.append, lambda: next(times))
    assert lines == [
        "[1/2] grpo-0 ...",
        "[1/2] grpo-0: 40.0 % -> 60.0 % in 0:10; about 0:30 left",
        "[2/2] ppo-0 ...",
        "[2/2] ppo-0: 40.0 % -> 60.0 % in 0:30",
    ]
    lines.clear()
    perform_all([ARM, other], tmp_path, Stub(tmp_path), lines.append, lambda: 0.0)
    assert lines == [f"[{i}/2] {n}-0: 40.0 % -> 60.0 % (kept from before)" for i, n in ((1, "grpo"), (2, "ppo"))]


def test_a_process_of_its_own_leaves_its_words_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert run_process(["--recip", "grpo"], tmp_path / "log") == 2
    words = execute.last_words(tmp_path / "log")
    assert "No such option" in words and "--recip" in words


def test_ctrl_c_reaches_the_run_and_is_waited_for(tmp_path, monkeypatch, capsys):
    """A stand-in for the run that needs a moment to stop in order."""
    script = tmp_path / "python"
    body = "import signal,sys,time\nsignal.signal(signal.SIGINT, lambda *a: (time.sleep(0.2), sys.exit(130)))\n"
    script.write_text(f"#!{sys.executable}\n{body}print('up', flush=True)\ntime.sleep(30)\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    log = tmp_path / "log"

    def press():
        while not log.exists() or "up" not in log.read_text():
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    assert run_process([], log) == 130
    thread.join()
    assert "stopping after this step" in capsys.readouterr().err


def test_one_ladder_in_a_folder_at_a_time(tmp_path):
    said = []
    with alone(tmp_path, said.append):
        waiting = threading.Event()

        def second():
            with alone(tmp_path, lambda text: (said.append(text), waiting.set())):
                said.append("in")

        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10) and said[-1].startswith("waiting for another ladder")
    thread.join(10)
    assert said[-1] == "in"
