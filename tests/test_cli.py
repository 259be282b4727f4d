"""The command line as a user meets it: one line for a mistake, a whole run folder, a resume that changes nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tomllib
import unicodedata
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from caches import with_kernels
from in_process import Said, upslope_says
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from upslope.algo.family import FAMILY, find
from upslope.algo.recipe import diff
from upslope.cli import main
from upslope.errors import Stopped, Unavailable, UserError
from upslope.record.checkpoint import newest
from upslope.tasks.registry import open_task

TINY = ["steps=2", "problems=2", "recipe.sample.group_size=2", "eval.problems=4", "sample.max_tokens=4"]
BLANK = ["train", "--model", "pocket:blank", *TINY]

REWARDS = '''
import math, os, signal

seen = 0

def odd(completions, **kwargs):
    """Rewards that differ, and a stop at the chosen attempt: a person pressed Ctrl-C, or the power went."""
    global seen
    seen += len(completions)
    if seen - len(completions) < int(os.environ.get("STOP_AT", 0)) <= seen:
        if os.environ["STOP_BY"] == "crash":
            raise SystemExit(0)
        os.kill(os.getpid(), getattr(signal, os.environ["STOP_BY"]))
    return [float(sum(map(ord, text)) % 2) for text in completions]

def crash(completions, **kwargs):
    return [1 / 0]

def nan(completions, **kwargs):
    return [math.nan] * len(completions)

def short(completions, **kwargs):
    return [1.0]

def nothing(completions, **kwargs):
    return [None] * len(completions)
'''


Command = Callable[..., Said]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with data and rewards; nothing is kept between tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UPSLOPE_CACHE", str(with_kernels(tmp_path / "cache")))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("mine.py").write_text(REWARDS)
    rows = [{"prompt": f"Tom has {i} books and buys 3.", "answer": str(i + 3)} for i in range(8)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("held.jsonl").write_text('{"prompt": "Ann has 2 cards.", "answer": "2"}\n')
    Path("notjson.jsonl").write_text('{"prompt": "Ann"}\n{"prompt": \n')
    Path("bad.toml").write_text("steps = \n")
    Path("broken.py").write_text("def f(completions, **kwargs)\n    return []\n")
    Path("empty").mkdir()
    return tmp_path


@pytest.fixture
def upslope(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process."""

    def run(*words: str, stdin: str = "") -> Said:
        return upslope_says(monkeypatch, capsys, *words, stdin=stdin)

    return run


def shell(*words: str, **environment: str) -> Said:
    """The installed command, in a process of its own."""
    code = "from upslope.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=os.environ | environment, timeout=300
    )
    return Said(done.returncode, done.stdout, done.stderr)


USER = ["--data", "data.jsonl", "--eval-data", "held.jsonl", "--reward"]
MISTAKES: dict[str, tuple[list[str], str]] = {
    "recipe": ([*BLANK, "--recipe", "grop"], "recipe 'grop' is not known; did you mean 'grpo'?"),
    "task": ([*BLANK, "--task", "gsm8"], "there is no task 'gsm8'; did you mean 'gsm8k'?"),
    "key": ([*BLANK, "stps=3"], "there is no setting stps; did you mean 'steps'?"),
    "inner key": ([*BLANK, "learn.lrr=3"], "there is no setting learn.lrr; did you mean 'lr'?"),
    "slot": ([*BLANK, "recipe.surrogat=x"], "recipe.surrogat is not a slot of a recipe; did you mean 'surrogate'?"),
    "kind": ([*BLANK, "recipe.advantage=group_men"], "recipe.advantage = 'group_men' is not known; did you mean"),
    "field": ([*BLANK, "recipe.sample.group_siz=3"], "recipe.sample.group_siz is not a field of Attempts; did you"),
    "no value": ([*BLANK, "steps"], "'steps' is not of the form KEY=VALUE"),
    "type": ([*BLANK, "steps=many"], "steps = 'many' should be int"),
    "range": ([*BLANK, "steps=-1"], "steps = -1 must be at least 0"),
    "problems": ([*BLANK, "problems=0"], "problems = 0 must be at least 1"),
    "two files": (["train", "a.toml", "b.toml"], "one run file at a time, not a.toml and b.toml"),
    "toml": (["train", "bad.toml"], "run file bad.toml is not TOML: "),
    "no toml": (["train", "none.toml"], "run file none.toml: "),
    "model": (["train", "--model", "./nowhere"], "model './nowhere': there is no such directory"),
    "model below": (["train", "--model", "no/such/model"], "model 'no/such/model': there is no such directory"),
    "no model": (["train", "--model", "./empty"], "model 'empty': the directory holds no config.json"),
    "hub": (["train", "--model", "nobody/nothing"], "model 'nobody/nothing' cannot be loaded now: "),
    "stage": (["train", "--model", "pocket:sf"], "pocket has no stage 'sf'; did you mean 'sft'?"),
    "device": ([*BLANK, "device=gpu"], "device 'gpu' cannot be used here: "),
    "out": ([*BLANK, "--out", "mine.py"], "mine.py"),
    "data": ([*BLANK, "--data", "none.jsonl", "--reward", "mine.py:odd"], "there is no data file none.jsonl"),
    "gsm8k data": ([*BLANK, "--task", "gsm8k", "--data", "none.jsonl"], "there is no data file none.jsonl"),
    "rows": ([*BLANK, "--data", "notjson.jsonl", "--reward", "mine.py:odd"], "notjson.jsonl row 2: not JSON"),
    "reward spec": ([*BLANK, *USER, "mine.py"], "reward 'mine.py' is not of the form FILE.py:NAME"),
    "reward file": ([*BLANK, *USER, "none.py:f"], "there is no reward file none.py"),
    "reward name": ([*BLANK, *USER, "mine.py:od"], "reward 'mine.py:od': mine.py has no 'od'; did you"),
    "reward import": ([*BLANK, *USER, "broken.py:f"], "importing broken.py failed: SyntaxError"),
    "reward crash": ([*BLANK, *USER, "mine.py:crash"], "reward function 'crash' crashed on "),
    "reward nan": ([*BLANK, *USER, "mine.py:nan"], "reward function 'nan' returned nan for "),
    "reward none": ([*BLANK, *USER, "mine.py:nothing"], ""),
    "reward count": ([*BLANK, *USER, "mine.py:short", "eval.problems=0"], "reward function 'short' returned 1 "),
    "no reward": ([*BLANK, *USER[:-1]], "task user has no reward"),
    "top-k": ([*BLANK, "sample.top_k=4"], "sample: temperature=1.0, top_k=4, top_p=1.0 cannot be scored exactly"),
    "top-p": ([*BLANK, "sample.top_p=0.9"], "sample: temperature=1.0, top_k=0, top_p=0.9 cannot be scored exactly"),
    "greedy": ([*BLANK, "sample.temperature=0"], "sample: temperature=0.0, "),
    "resume": (["train", "--resume", "nowhere"], "run file nowhere"),
    "resume more": (["train", "--resume", "runs/a", "seed=3"], "--resume continues a run with its own seed; only "),
    "diff": (["diff", "reinforce", "grop"], "recipe 'grop' is not known; did you mean 'grpo'?"),
    "report": (["report", "nowhere"], "nowhere"),
    "eval task": (["eval", "pocket:blank", "--task", "pockt"], "there is no task 'pockt'; did you mean 'pocket'?"),
    "eval model": (["eval", "./nowhere", "--task", "pocket"], "model './nowhere': there is no such directory"),
    "eval samples": (["eval", "pocket:blank", "--samples", "-1"], "eval.samples = -1 must be at least 0"),
    "eval dtype": (["eval", "pocket:blank", "--dtype", "half"], "learn.dtype = 'half' should be one of auto, "),
    "bench shape": (["bench", "--shape", "4x8"], "--shape '4x8' is not of the form PxGxL, for example 4x8x128"),
    "bench words": (["bench", "--shape", "4x8x-1"], "--shape '4x8x-1' is not of the form PxGxL"),
    "bench alone": (["bench", "--shape", "4x1x8"], "--shape 4x1x8: needs at least one problem, two samples"),
    "bench room": (["bench", "--model", "pocket:blank", "--shape", "1x2x256"], "--shape 1x2x256: a prompt of "),
    "bench problems": (["bench", "--model", "pocket:blank", "--shape", "99999x2x1"], "--shape 99999x2x1: task pocket "),
    "bench model": (["bench", "--model", "./nowhere"], "model './nowhere': there is no such directory"),
    "bench imitation": (["bench", "--recipe", "sft"], "bench measures recipes whose policy acts"),
    "bench dtype": (["bench", "--dtype", "half"], "learn.dtype = 'half' should be one of auto, "),
    "score file": (["score", "--task", "pocket", "none.jsonl"], "cannot read none.jsonl"),
    "score nothing": (["score", "--task", "pocket"], "nothing to score"),
    "score no task": (["score"], "no task: name one of code, gsm8k, math, pocket, user"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(upslope: Command, mistake: str) -> None:
    words, complaint = MISTAKES[mistake]
    said = upslope(*words)
    assert said.code == (3 if mistake == "hub" else 2)  # there is none to ask, which no other command would mend
    assert said.err.startswith(f"upslope: {complaint}")
    assert said.err.count("\n") == 1 and said.err.endswith("\n")
    assert "Traceback" not in said.out + said.err


@pytest.mark.parametrize("words", [["trian"], ["train", "--stps", "3"], ["train", "--steps", "many"], ["diff", "sft"]])
def test_a_word_that_is_no_command_or_option_is_a_mistake_too(upslope: Command, words: list[str]) -> None:
    said = upslope(*words)
    assert said.code == 2
    assert said.err.startswith("upslope: ") and said.err.count("\n") == 1 and "--help" in said.err


def test_an_evaluation_needs_problems(upslope: Command) -> None:
    said = upslope("eval", "pocket:blank", "--problems", "0")
    assert said.code == 2 and "--problems" in said.err and "Traceback" not in said.err


def test_a_defect_of_ours_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def defect(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("upslope.config.load_settings", defect)
    monkeypatch.setattr(sys, "argv", ["upslope", "train"])
    with pytest.raises(SystemExit, match="70"):
        main()
    said = capsys.readouterr().err
    assert "Traceback" in said and "in defect" in said
    assert said.endswith("upslope: this is a defect of upslope, not of your command: ZeroDivisionError\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("x"), 2),
        (Unavailable("x"), 3),
        (OSError(errno.ENOSPC, "full"), 3),
        (FileNotFoundError(errno.ENOENT, "no file"), 2),
        (PermissionError(errno.EACCES, "denied"), 2),
        (ConnectionResetError("gone"), 3),
        (MemoryError(), 3),
        (torch.OutOfMemoryError("CUDA out of memory"), 3),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 3),
        (RuntimeError("a shape"), 70),
        (Stopped("x", signal.SIGINT), 130),
        (Stopped("x", signal.SIGTERM), 143),
        (Stopped("x", signal.SIGHUP), 129),
    ],
)
def test_exit_codes(error: Exception, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("upslope.cli.commands.app", fail)
    with pytest.raises(SystemExit, match=str(code)):
        main()


def test_nothing_that_is_quoted_reaches_the_terminal_raw(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise UserError("\x1b]52;c;aGk=\x07 \x9b2J \u202e " + "x" * 100_000 + " the end")

    monkeypatch.setattr("upslope.cli.commands.app", fail)
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert len(said) < 2100 and said.endswith(" the end\n")
    assert not any(unicodedata.category(c) in ("Cc", "Cf") for c in said[:-1])


def test_a_message_of_several_lines_becomes_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UserError("one\n  two")

    monkeypatch.setattr("upslope.config.load_settings", fail)
    monkeypatch.setattr(sys, "argv", ["upslope", "train"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == "upslope: one two\n"


def test_version_and_help(upslope: Command) -> None:
    assert upslope("--version").out.startswith("upslope ")
    for command in ("train", "eval", "score", "recipes", "diff", "report", "prove", "ladder"):
        said = upslope(command, "--help")
        assert said.code == 0 and command in said.out


def test_recipes_shows_the_lineage(upslope: Command) -> None:
    lines = upslope("recipes").out.splitlines()
    assert lines[0].split()[:3] == ["recipe", "patch", "of"]
    assert [line.split()[0] for line in lines[1:]] == list(FAMILY)
    assert [line.split()[1] for line in lines[1:]] == [branch.parent or "-" for branch in FAMILY.values()]


@pytest.mark.parametrize(("first", "second"), [("reinforce", "grpo"), ("grpo", "sft"), ("rft", "rft")])
def test_diff_shows_the_patched_slots_and_no_other(upslope: Command, first: str, second: str) -> None:
    lines = [line.split() for line in upslope("diff", first, second).out.splitlines()]
    assert lines[0] == ["slot", first, second]
    expected = diff(find(first).recipe, find(second).recipe)
    assert [line[0] for line in lines[1:]] == list(expected)
    for line, (old, new) in zip(lines[1:], expected.values(), strict=True):
        assert " ".join(line[1:]) == f"{old} {new}"


def test_diff_names_a_recipe_of_ones_own_as_its_file_is_called(upslope: Command, tmp_path: Path) -> None:
    (tmp_path / "own[b].py").write_text("from upslope.algo.family import GRPO as mine\n")
    said = upslope("diff", "reinforce", f"{tmp_path}/own[b].py:mine")
    assert said.code == 0 and "own[b].py:mine" in "".join(said.out.split())


def test_a_tiny_run_writes_its_folder(upslope: Command, folder: Path) -> None:
    said = upslope(*BLANK, "--name", "a", "eval.every=1", "save.every=1", "save.keep=1")
    assert said.code == 0 and said.err == ""
    run = folder / "runs" / "a"
    assert sorted(p.name for p in run.iterdir()) == [
        ".lock",
        ".made-here",
        "checkpoints",
        "journal.jsonl",
        "report.png",
        "rollouts",
        "run.toml",
    ]
    rows = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert [(r["kind"], r["step"]) for r in rows] == [
        *[("eval", 0), ("step", 0), ("eval", 1), ("step", 1), ("eval", 2)],
    ]
    written = sorted(p.name for p in (run / "rollouts").iterdir())
    assert written == [*(f"eval-{i:06d}.parquet" for i in range(3)), *(f"step-{i:06d}.parquet" for i in range(2))]
    attempts = pq.read_table(run / "rollouts" / "step-000001.parquet").to_pylist()
    assert len(attempts) == 4  # 2 problems, 2 samples each
    assert all(len(a["response"]) == len(a["sampler_logp"]) <= 4 for a in attempts)
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-000002"]
    AutoModelForCausalLM.from_pretrained(run / "checkpoints" / "step-000002")
    assert (run / "report.png").read_bytes().startswith(b"\x89PNG")
    settings = tomllib.loads((run / "run.toml").read_text())
    assert settings["steps"] == 2 and settings["learn"]["lr"] == 3e-4
    # Where there is no terminal there are lines, not the live view's boxes and bars.
    assert "step 1/2 reward=" in said.out and "━" not in said.out
    assert "checkpoint  runs/a/checkpoints/step-000002" in said.out

    again = upslope(*BLANK, "--name", "a")
    assert again.code == 2 and "--resume runs/a" in again.err
    assert upslope("report", "runs/a").code == 0
    # A run folder is a model for whoever comes next.
    said = upslope("eval", "runs/a", "--problems", "2", "--max-tokens", "4", "--json")
    assert json.loads(said.out)["greedy"]["num_problems"] == 2


def test_without_a_name_runs_are_numbered(upslope: Command, folder: Path) -> None:
    for _ in range(2):
        assert upslope(*BLANK, "steps=1", "eval.problems=0").code == 0
    stem = "pocket-reinforce-baseline-0"
    assert sorted(p.name for p in (folder / "runs").iterdir()) == [stem, f"{stem}-2"]


def test_a_run_file_repeats_the_run(upslope: Command, folder: Path) -> None:
    assert upslope(*BLANK, "--name", "a", "eval.problems=0").code == 0
    assert upslope("train", "runs/a/run.toml", "--name", "b").code == 0
    assert weights(folder / "runs" / "a").keys() == weights(folder / "runs" / "b").keys()
    assert all(torch.equal(w, weights(folder / "runs" / "b")[n]) for n, w in weights(folder / "runs" / "a").items())


def weights(run: Path) -> dict[str, torch.Tensor]:
    found = newest(run / "checkpoints")
    assert found is not None
    return load_file(found.folder / "model.safetensors") | found.optimizer()


LONGER = [
    *["train", "--model", "pocket:blank", "--data", "data.jsonl", "--eval-data", "held.jsonl", "--reward"],
    *["mine.py:odd", "steps=5", "problems=2", "recipe.sample.group_size=4", "eval.problems=1", "eval.every=2"],
    *["sample.max_tokens=6", "learn.lr=0.01", "learn.warmup=0", "learn.decay=cosine", "save.every=2"],
]


MEASURED = ("seconds", "spent", "tokens_per_s", "memory_gb", "resident_gb")


def deterministic(run: Path) -> list[dict[str, object]]:
    """The journal without what a clock or the system says."""
    rows = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in MEASURED} for r in rows]


@pytest.mark.parametrize(
    ("signal_name", "stop_at", "code", "step_left", "steps_left"),
    # The reward sees 1 attempt an evaluation and 8 a step: evaluations come before steps 0 and 2, so the 20th is of
    # step 2 and the 28th of step 3. Ctrl-C finishes step 2, so 3 updates are done; a kill in step 3 loses step 2 as
    # well, which is in the journal already, because the newest checkpoint is the one after 2 updates.
    # SIGTERM and SIGHUP end like Ctrl-C, but where step 2 is still being sampled beside the scoring, they drop it; a
    # crash in step 3 leaves a checkpoint of the three steps before it.
    [
        ("SIGINT", 20, 130, 3, 3),
        ("SIGTERM", 20, 143, None, None),
        pytest.param("SIGHUP", 20, 129, None, None, marks=[pytest.mark.slow, pytest.mark.exhaustive]),
        ("crash", 28, 2, 3, 3),
        ("SIGKILL", 28, -signal.SIGKILL, 2, 3),
    ],
)
def test_a_stopped_run_resumes_as_if_nothing_had_happened(
    upslope: Command,
    folder: Path,
    signal_name: str,
    stop_at: int,
    code: int,
    step_left: int | None,
    steps_left: int | None,
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored, here and there
    try:
        said = shell(*LONGER, "--name", "stopped", STOP_AT=str(stop_at), STOP_BY=signal_name)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert said.code == code, said.err
    assert said.err.count("\n") == (code == 2)
    stopped, whole = folder / "runs" / "stopped", folder / "runs" / "whole"
    found = newest(stopped / "checkpoints")
    assert found is not None and found.step in ((2, 3) if step_left is None else (step_left,))
    rows = deterministic(stopped)
    steps_left = found.step if steps_left is None else steps_left
    assert [r["step"] for r in rows if r["kind"] == "step"] == list(range(steps_left))
    if code > 0:
        assert "continue with: upslope train --resume runs/stopped" in said.out + said.err
    else:
        with (stopped / "journal.jsonl").open("a") as file:
            file.write('{"kind": "step", "step": 3, "rew')  # as if the power had gone while it wrote

    assert upslope("train", "--resume", "runs/stopped").code == 0
    assert upslope(*LONGER, "--name", "whole").code == 0
    rows = deterministic(stopped)
    assert [r["step"] for r in rows if r["kind"] == "step"] == list(range(5))
    assert rows == deterministic(whole)
    first, second = weights(stopped), weights(whole)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)
    start = load_file(next((whole / "checkpoints").glob("step-000004")) / "model.safetensors")
    assert any(not torch.equal(first[n], start[n]) for n in start)  # it did learn something meanwhile

    # A finished run resumes to nothing: the same checkpoint, not a line more.
    assert upslope("train", "--resume", "runs/stopped").code == 0
    assert deterministic(stopped) == rows
    assert all(torch.equal(w, weights(stopped)[n]) for n, w in first.items())


def test_a_second_interrupt_stops_at_once(folder: Path) -> None:
    text = Path("mine.py").read_text().replace("os.kill(", "os.kill(os.getpid(), signal.SIGINT); os.kill(")
    Path("mine.py").write_text(text)
    said = shell(*LONGER, "--name", "stopped", STOP_AT="20", STOP_BY="SIGINT")
    assert said.code == 130
    assert said.err == "" and said.out.endswith(
        "stopped; at once, within a step; continue with: upslope train --resume runs/stopped\n"
    )
    found = newest(folder / "runs" / "stopped" / "checkpoints")
    assert found is not None and found.step == 2


PRESSED = """
import builtins, os, signal
load = builtins.__import__
def loading(name, *rest, **more):
    if name == {module!r}:
        builtins.__import__ = load
        os.kill(os.getpid(), signal.SIGINT)
    return load(name, *rest, **more)
builtins.__import__ = loading
from upslope.cli import main
main()
"""


@pytest.mark.parametrize(
    ("words", "module"),
    [
        ("--help", "typer"),
        ("prove --only kl-ball", "torch"),
        ("prove --only kl-ball", "upslope.prove.catalogue"),
        ("eval pocket:blank --problems 2", "transformers"),
        ("report nowhere", "matplotlib.figure"),
        ("doctor", "huggingface_hub"),
    ],
)
def test_an_interrupt_anywhere_is_no_traceback(words: str, module: str) -> None:
    code = PRESSED.format(module=module)
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout + done.stderr) == (130, "")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(5, "Input/output error"), OSError()])
def test_an_error_of_the_system_that_names_no_file_is_one_line(
    error: OSError, upslope: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("upslope.config.load_settings", fail)
    assert upslope("train").err == f"upslope: {error.strerror or 'OSError'}\n"


def test_eval_prints_a_table(upslope: Command) -> None:
    said = upslope("eval", "pocket:blank", "--problems", "4", "--samples", "2", "--max-tokens", "4")
    assert said.code == 0
    title, *lines = said.out.splitlines()
    assert title == "pocket:blank on pocket, up to 4 tokens"
    assert lines[0].split() == ["measure", "value", "95", "%", "interval", "problems"]
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "greedy accuracy",
        "greedy, leniently",
        "pass@1",
        "pass@2",
    ]
    # Nothing right of 4: the Wilson interval ends at z²/(n + z²) = 3.8415 / 7.8415 = 49.0 %.
    assert lines[1].split()[2:] == ["0.0%", "0.0%", "to", "49.0%", "4", "of", "1056"]
    assert lines[5].startswith("mean reward 0.000, spread 0.000, length ")


def test_eval_as_json_is_one_object_and_nothing_else(upslope: Command) -> None:
    said = upslope("eval", "pocket:blank", "--problems", "3", "--max-tokens", "4", "--samples", "2", "--json")
    found = json.loads(said.out)
    assert (found["model"], found["task"]) == ("pocket:blank", "pocket")
    assert found["greedy"]["num_problems"] == 3
    assert list(found["pass_at"]) == ["1", "2"] and found["pass_at"]["2"]["num_samples"] == 2


def test_score_the_pocket_world(upslope: Command) -> None:
    problems = open_task("pocket").problems("test")[:2]
    right = {"id": problems[0].id, "response": f"so #### {problems[0].truth}"}
    wrong = {"id": problems[1].id, "response": "#### 1000"}
    none = {"id": problems[1].id, "response": "I do not know"}
    said = upslope("score", "--task", "pocket", stdin="".join(json.dumps(r) + "\n" for r in (right, wrong, none)))
    assert said.code == 0
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [r["reward"] for r in rows] == [1.0, 0.0, 0.0]
    assert [r["extracted"] for r in rows] == [problems[0].truth, "1000", None]
    assert [r["id"] for r in rows] == [problems[0].id, problems[1].id, problems[1].id]
    assert said.err == "3 responses, mean reward 0.3333, 1 without an answer\n"


def test_score_gsm8k_rows(upslope: Command) -> None:
    row = {"question": "How many?", "answer": "6 * 12 = <<6*12=72>>72\n#### 72"}
    responses = ["It is 72.\n#### 72", "#### $72.00", "#### -72", "#### 1,072"]
    Path("responses.jsonl").write_text("".join(json.dumps(row | {"response": r}) + "\n" for r in responses))
    said = upslope("score", "--task", "gsm8k", "responses.jsonl")
    assert said.code == 0
    assert [json.loads(line)["reward"] for line in said.out.splitlines()] == [1.0, 1.0, 0.0, 0.0]
    assert said.err.startswith("4 responses, mean reward 0.5000")
    again = upslope("score", "--task", "gsm8k", "responses.jsonl", "task.options.calculator=true")
    assert (again.code, again.out) == (0, said.out)


def test_measure_writes_rows_that_train_where_there_is_something_to_learn(upslope: Command) -> None:
    Path("mine.py").write_text("def odd(completions, **_):\n    return [float(len(c) % 2) for c in completions]\n")
    rows = [{"prompt": f"{name} has {i} apples."} for i, name in enumerate(["Tom", "Sam", "Eva", "Leo"] * 2)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("held-out.jsonl").write_text(json.dumps({"prompt": "Tom has 9 pens."}) + "\n")
    what = ("--reward", "mine.py:odd", "--eval-data", "held-out.jsonl")
    arguments = (
        "pocket:blank",
        "--data",
        "data.jsonl",
        *what,
        "--samples",
        "4",
        "--max-tokens",
        "4",
        "--to",
        "m.jsonl",
    )
    said = upslope("measure", *arguments)
    assert said.code == 0 and said.out == "" and "8 problems, 4 attempts each" in said.err
    rates = [json.loads(line)["pass_rate"] for line in Path("m.jsonl").read_text().splitlines()]
    assert len(rates) == 8 and any(0 < rate < 1 for rate in rates)
    few = ("train", "--model", "pocket:blank", "--data", "m.jsonl", *what, "--steps", "1", "sample.max_tokens=4")
    some = (*few, "eval.problems=0", "recipe.sample.kind=learnable", "recipe.sample.group_size=2")
    some += (f"problems={sum(0 < rate < 1 for rate in rates)}", "task.where=0 < pass_rate < 1")
    assert upslope(*some, "--name", "some").code == 0
    assert upslope(*some[:-2], "problems=8", some[-1], "--name", "more").code == 2
    again = upslope("measure", *arguments, "--temperature", "0.5")
    assert again.code == 2 and "m.jsonl row 1 was made with another sampling" in again.err


def test_settings_reach_eval_and_score_and_are_refused_alike(upslope: Command) -> None:
    said = upslope("eval", "pocket:blank", "--problems", "2", "--max-tokens", "4", "task.options.calculator=true")
    assert said.code == 2 and "task pocket has no option 'calculator'" in said.err
    said = upslope("score", "--task", "gsm8k", "task.options.calculater=true", stdin="")
    assert said.code == 2 and "did you mean 'calculator'" in said.err
    assert upslope("score", "--task", "pocket", "one.jsonl", "two.jsonl").code == 2


def test_score_with_a_reward_of_ones_own(upslope: Command) -> None:
    row = json.dumps({"prompt": "Ann has 2 cards.", "response": "b"})  # "b" is 98, "c" is 99
    odd = json.dumps({"prompt": "Ann has 2 cards.", "response": "c"})
    said = upslope("score", "--reward", "mine.py:odd", stdin=f"{row}\n{odd}\n")
    assert said.code == 0
    assert [json.loads(line)["reward"] for line in said.out.splitlines()] == [0.0, 1.0]


def test_a_loss_of_control_names_the_step_and_the_mend(upslope: Command) -> None:
    sizes = ["steps=2", "problems=2", "eval.problems=0", "learn.lr=1e38", "learn.warmup=0"]
    said = upslope("train", "--model", "pocket:blank", "recipe=sft", *sizes)
    assert said.code == 2
    assert "step 0" in said.err or "step 1" in said.err
    assert "not finite" in said.err
    assert "Lower learn.lr" in said.err
    assert said.err.count("\n") == 1


def test_a_run_is_evaluated_on_its_own_task_and_limit(upslope: Command) -> None:
    assert upslope(*BLANK, *USER, "mine.py:odd", "--name", "mine").code == 0
    said = upslope("eval", "runs/mine", "--problems", "1")
    assert said.code == 0, said.err
    assert "on user, up to 4 tokens" in said.out


def test_a_model_without_a_task_is_asked_for_one(upslope: Command) -> None:
    said = upslope("eval", "some/model")
    assert said.code == 2
    assert "which task?" in said.err


def test_a_recipe_of_ones_own_trains_and_is_named_in_run_toml(upslope: Command) -> None:
    Path("own.py").write_text(
        "from upslope.algo.advantage import spread\n"
        "from upslope.algo.family import REINFORCE\n"
        "def halves(batch):\n"
        "    return spread(batch.reward_N - 0.5, batch.mask_NT)\n"
        "MINE = REINFORCE.patch(advantage=halves)\n"
    )
    said = upslope(*BLANK, "--recipe", "own.py:MINE", "--name", "own")
    assert said.code == 0, said.err
    table = tomllib.loads(Path("runs/own/run.toml").read_text())
    assert table["recipe"]["name"] == str(Path("own.py").resolve()) + ":MINE"
    assert table["recipe"]["sample"] == {"group_size": 2}
    said = upslope("train", "--recipe", "own.py:halves")
    assert said.code == 2
    assert "not a Recipe" in said.err


def test_naming_a_recipe_comes_before_patching_it_whatever_the_order(upslope: Command) -> None:
    upslope(*BLANK, "recipe.surrogate.high=0.3", "recipe=grpo", "--name", "a")
    table = tomllib.loads(Path("runs/a/run.toml").read_text())["recipe"]
    assert (table["name"], table["surrogate"]["high"]) == ("grpo", 0.3)
    upslope("train", "runs/a/run.toml", "recipe.name=rft", "--name", "b")
    document = tomllib.loads(Path("runs/b/run.toml").read_text())
    assert document["versions"]["torch"] == torch.__version__
    assert document["versions"]["transformers"] == version("transformers")
    assert {"python", "upslope", "tokenizers"} <= set(document["versions"])
    table = document["recipe"]
    assert (table["name"], table["surrogate"]["kind"], table["sample"]["keep"]) == ("rft", "likelihood", "rewarded")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_number_of_threads_does_not_change_a_bit() -> None:
    """Gradients of gathered rows are summed by several threads; in the order they finish, bits would differ."""
    weights = []
    for name, threads in (("one", 1), ("two", 2), ("again", 2)):
        sizes = ["recipe=pretrain", "steps=12", "problems=16", "eval.problems=0", f"threads={threads}"]
        words = ["train", "--model", "pocket:blank", "--plain", "--name", name, *sizes]
        subprocess.run([sys.executable, "-m", "upslope.cli", *words], check=True, capture_output=True)
        found = newest(Path("runs") / name / "checkpoints")
        assert found is not None
        weights.append(load_file(found.folder / "model.safetensors"))
    for other in weights[1:]:
        assert all(torch.equal(tensor, other[key]) for key, tensor in weights[0].items())


def test_prove_says_what_holds_and_takes_claims_by_name_and_number(upslope: Command) -> None:
    said = upslope("prove", "--only", "17", "--only", "length", "--json")
    assert said.code == 0
    assert [(claim["number"], claim["holds"]) for claim in json.loads(said.out)] == [(13, True), (17, True)]
    assert "1 of 1 claims hold" in upslope("prove", "--only", "dapo-rules").out
    wrong = upslope("prove", "--only", "lenght")
    assert wrong.code == 2 and "there is no claim 'lenght'; did you mean 'length'?" in wrong.err


def test_prove_fails_where_a_claim_fails(upslope: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upslope.prove.length.ConstantLength.__call__", lambda self, batch: batch.reward_N * 0 + 1)
    said = upslope("prove", "--only", "length")
    assert said.code == 1 and "FAILS" in said.out and "0 of 1 claims hold" in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["recipe=ppo", "recipe.critic=no_critic"], "needs a critic; set critic=own_copy or critic=shared_trunk"),
        (["recipe=grpo", "recipe.sample.group_size=1"], "set it to 2 or more"),
        (["recipe=trpo", "learn.dtype=bfloat16"], "cannot carry curvature"),
        (["recipe=grpo", "learn.lora_rank=2"], "learn.lora_rank: the model lies in no directory"),
        (["recipe=rft", "recipe.regulariser=k1"], "paid in it, would do nothing"),
        (["recipe=importance", "recipe.correction=truncated_weights"], "would count it twice"),
        (["recipe=dapo", "recipe.sample.drop_truncated=3"], "should be true or false"),
    ],
)
def test_recipes_that_cannot_run_say_so_before_they_begin(upslope: Command, words: list[str], told: str) -> None:
    said = upslope(*BLANK, "--task", "pocket", *words)
    assert said.code == 2 and told in said.err and len(said.err.splitlines()) == 1


def test_bench_is_one_object_or_a_table(upslope: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upslope.lab.bench.ceiling.SIDE", 64)
    monkeypatch.setattr("upslope.lab.bench.ceiling.READ_BYTES", 2**16)
    words = ["bench", "--model", "pocket:blank", "--shape", "2x2x3", "--repeat", "1"]
    said = upslope(*words, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["shape"] == {"problems": 2, "samples": 2, "tokens": 3}
    assert (found["model"], found["recipe"], found["task"]) == ("pocket:blank", "reinforce-baseline", "pocket")
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["upslope bench"] * 3  # two steps, the ceilings
    said = upslope(*words)
    for told in ("2 problems x 2 samples x 3 tokens", "products, bf16", "rollouts", "optimizer", "a step: "):
        assert told in said.out


def test_an_error_of_the_system_without_a_file_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk, above all."""

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("upslope.cli.commands.app", full)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    assert capsys.readouterr().err == "upslope: No space left on device\n"


def test_every_command_has_its_place_in_the_help() -> None:
    from upslope.cli.commands import app
    from upslope.cli.options import ORDER

    assert {c.name or c.callback.__name__ for c in app.registered_commands if c.callback} == set(ORDER)
