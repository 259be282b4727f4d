"""Files that commands write and read again: responses, attempts, measurements, and the folders of runs."""

from __future__ import annotations

import functools
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from malformed.case import REWARDS, ROWS, TINY, Case, Content, Make, junk, lines, unique

OSC = "\x1b]52;c;aGk=\x07"
RESPONSE = {"prompt": "Tom has 3 books.", "answer": "3", "response": "3"}
RESPONSES: dict[str, tuple[Content, str]] = {
    "nothing": ("", "nothing to score"),
    "blank lines": ("\n \n", "nothing to score"),
    "no JSON": ("{", "row 1"),
    "a number": ("3\n", "row 1"),
    "a list": ("[]\n", "row 1"),
    "no response": ('{"prompt": "a"}\n', "response"),
    "a response of a number": ('{"prompt": "a", "response": 3}\n', "response"),
    "a response of null": ('{"prompt": "a", "response": null}\n', "response"),
    "a response of a chat": ('{"prompt": "a", "response": [{"role": "assistant", "content": "a"}]}\n', "response"),
    "no prompt": ('{"response": "a"}\n', "row 1"),
    "an unknown id": ('{"id": "none", "response": "a"}\n', "none"),
    "an id of a list": ('{"id": [], "response": "a"}\n', "row 1"),
    "an odd id": (json.dumps({"id": OSC, "response": "a"}), "row 1"),
    "a reward": (lines([RESPONSE | {"reward": 1}]), "reward"),
    "parts": (lines([RESPONSE | {"parts": 1}]), "parts"),
    "a bad second row": (lines([RESPONSE, {"response": 1}]), "row 2"),
    "NaN": ('{"prompt": "a", "response": NaN}\n', "NaN"),
    "deep": ("[" * 100_000, "row 1"),
    "random bytes": (junk("responses"), "responses.jsonl"),
    "UTF-16": (lines([RESPONSE]).encode("utf-16"), "UTF-8"),
    "Latin-1": (b'{"prompt": "\xe9", "response": "a"}\n', "UTF-8"),
    "NUL": (b"\x00\n", "row 1"),
    "a prompt of a list": (lines([RESPONSE | {"prompt": [1]}]), "row 1"),
    "a column of ours": (lines([RESPONSE | {"completions": 1}]), "completions"),
    "a huge number": ('{"prompt": ' + "9" * 10_000 + ', "response": "a"}', "row 1"),
}
SOUND = {
    "a prompt of half a character": lines([RESPONSE | {"prompt": "\ud800"}]),
    "a response of half a character": lines([RESPONSE | {"response": "\ud800"}]),
    "a response of controls": lines([RESPONSE | {"response": OSC}]),
    "an empty response": lines([RESPONSE | {"response": ""}]),
    "a long response": lines([RESPONSE | {"response": "x" * 1_000_000}]),
    "CRLF": lines([RESPONSE]).replace("\n", "\r\n"),
}


def cases() -> list[Case]:
    return unique([*responses(), *row_files(), *journals(), *run_files(), *rollouts()])


def responses() -> Iterator[Case]:
    words = ("score", "--reward", "mine.py:fine", "--task", "user", "--data", "data.jsonl")
    for name, (content, says) in RESPONSES.items():
        yield Case(f"responses: {name}", (*words, "responses.jsonl"), says, {"responses.jsonl": content})
        if isinstance(content, str):
            yield Case(f"responses by a pipe: {name}", words, says, stdin=content)
    for name, content in SOUND.items():
        yield Case(f"responses: {name}", (*words, "responses.jsonl"), files={"responses.jsonl": content}, accepted=True)
    yield Case("responses: standard input is closed", words, "standard input", stdin=None)
    for name, make in PLACES.items():
        file = ("responses.jsonl",)
        yield Case(f"responses: {name}", (*words, *file), "responses.jsonl", make=make("responses.jsonl"))
    yield Case("responses: two files", (*words, "a", "b"), "a and b")
    yield Case(
        "responses: an odd ending", (*words, "responses.parquet"), "responses.parquet", {"responses.parquet": b"PAR1"}
    )
    yield Case("responses: an unread setting", (*words, "learn.lr=1"), "learn.lr")


PLACES: dict[str, Callable[[str], Make]] = {
    "not there": lambda name: lambda folder: None,
    "a folder": lambda name: lambda folder: (folder / name).mkdir(),
    "a broken link": lambda name: lambda folder: (folder / name).symlink_to("nowhere"),
    "a link to itself": lambda name: lambda folder: (folder / name).symlink_to(name),
}


def row_files() -> Iterator[Case]:
    """Files of ``upslope eval --attempts`` and ``upslope measure --to`` that are none of theirs."""
    evaluate = ("eval", "pocket:blank", "--problems", "1", "--max-tokens", "2", "--attempts", "kept.jsonl")
    measure = (
        "measure",
        "pocket:blank",
        "--data",
        "data.jsonl",
        "--reward",
        "mine.py:fine",
        "--max-tokens",
        "2",
        "--to",
        "kept.jsonl",
    )
    row = {"id": "a", "sample": 0, "temperature": 1.0, "measured": {}}
    contents: dict[str, Content] = {
        "text": "my notes\n",
        "half a line of text": "my notes",
        "a number": "3\n",
        "null": "null\n",
        "a list": "[]\n",
        "JSON of others": '{"a": 1}\n',
        "a row without id": '{"measured": {}}\n',
        "a row without marks": lines([row]),
        "marks of a list": lines([row | {"measured": []}]),
        "marks of a number": lines([row | {"measured": 3}]),
        "marks of pairs": lines([row | {"measured": [[1, 2]]}]),
        "other marks": lines([row | {"measured": {"model": "a", "seed": "b"}}]),
        "random bytes": junk("kept"),
        "NUL": b"\x00" * 100,
        "deep": "[" * 100_000 + "\n",
        "a blank line": "\n",
        "UTF-16": lines([row]).encode("utf-16"),
    }
    for command, words in {"attempts": evaluate, "measured": measure}.items():
        for name, content in contents.items():
            yield Case(f"{command}: {name}", words, "kept.jsonl", {"kept.jsonl": content})
        for name in ("a folder", "a link to itself"):
            yield Case(f"{command}: {name}", words, "kept.jsonl", make=PLACES[name]("kept.jsonl"))
        yield Case(f"{command}: in no folder", (*words[:-1], "none/kept.jsonl"), "none/kept.jsonl")
    yield Case("measured: the data itself", (*measure[:-1], "data.jsonl"), "data.jsonl")


@functools.cache
def finished() -> Path:
    """A run of two steps with three checkpoints and evaluations, in a folder that goes with this process."""
    from upslope.config import load_settings
    from upslope.training.start import launch
    from upslope.training.view import NullView

    place = Path(tempfile.mkdtemp())
    (place / "mine.py").write_text(REWARDS)
    (place / "data.jsonl").write_text(lines(ROWS))
    (place / "held.jsonl").write_text(lines([{"prompt": "Ann has 2 cards.", "answer": "2"}]))
    options = {
        "model": "pocket:blank",
        "name": "run",
        "out": str(place / "runs"),
        "task.data": str(place / "data.jsonl"),
    }
    options |= {"task.rewards": [f"{place}/mine.py:fine"], "task.eval_data": str(place / "held.jsonl")}
    kept = [word for word in TINY if not word.startswith(("steps", "tokens", "eval"))]
    settings = load_settings(None, [*kept, "steps=2", "save.every=1", "save.keep=9", "eval.problems=1"], options)
    with redirect_stdout(io.StringIO()):
        launch(settings, NullView)
    return place / "runs" / "run"


def ran(change: Callable[[Path], object]) -> Make:
    """A copy of that run as ``run``, changed."""

    def make(folder: Path) -> None:
        shutil.copytree(finished(), folder / "run")
        change(folder / "run")

    return make


REPORT = ("report", "run")
RESUME = ("train", "--plain", "--resume", "run", "--trust")
EVALUATE = ("eval", "run", "--trust", "--problems", "1", "--max-tokens", "2")


def written(name: str, content: Content) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes(content.encode() if isinstance(content, str) else content)


def journals() -> Iterator[Case]:
    step = {"kind": "step", "step": 0}
    contents: dict[str, tuple[Content, str]] = {
        "nothing": ("", "journal"),
        "no JSON": ("{\n{}\n", "row 1"),
        "a number": ("3\n", "row 1"),
        "a list": ("[]\n", "row 1"),
        "no kind": ('{"step": 0}\n', "row 1"),
        "a kind of a number": ('{"kind": 3, "step": 0}\n', "row 1"),
        "a step of text": ('{"kind": "step", "step": "a"}\n', "row 1"),
        "no step": ('{"kind": "step"}\n', "row 1"),
        "a step of NaN": ('{"kind": "step", "step": NaN}\n', "row 1"),
        "a blank line": (lines([step]) + "\n" + lines([step]), "row 2"),
        "random bytes": (junk("journal"), "journal"),
        "deep": ("[" * 100_000 + "\n", "row 1"),
        "NUL": (b"\x00\n", "row 1"),
        "UTF-16": (lines([step]).encode("utf-16"), "journal"),
        "a huge step": ('{"kind": "step", "step": ' + "9" * 10_000 + "}\n", "row 1"),
    }
    for name, (content, says) in contents.items():
        yield Case(f"report, journal: {name}", REPORT, says, make=ran(written("journal.jsonl", content)))
        if name != "nothing":
            yield Case(f"resume, journal: {name}", RESUME, says, make=ran(written("journal.jsonl", content)))
    odd = {
        "values of text": lines([step | {"reward": OSC, "seconds": "a", "loss": [], "num_tokens": None}]),
        "values of lists": lines([{"kind": "eval", "step": 0, "greedy": [], "seconds": {}}, step | {"seconds": [1]}]),
        "a greedy of text": lines([{"kind": "eval", "step": 0, "greedy": "a"}]),
        "huge values": lines([step | {"reward": 1e308, "loss": -1e308, "spent": 10**400}]),
        "a far step": lines([{"kind": "step", "step": 10**15, "reward": 1.0}]),
        "a step below zero": lines([{"kind": "step", "step": -5, "reward": 1.0}]),
    }
    for name, content in odd.items():
        yield Case(f"report, journal: {name}", REPORT, make=ran(written("journal.jsonl", content)), accepted=True)
    pairs = {
        "pass_at of a list": {"pass_at": []},
        "pass_at of text": {"pass_at": {"a": 1}},
        "pass_at of nothing": {"pass_at": None},
    }
    for name, more in pairs.items():
        content = lines([{"kind": "eval", "step": 0} | more])
        yield Case(f"resume, journal: {name}", RESUME, make=ran(written("journal.jsonl", content)), accepted=True)
    for name, change in {
        "gone": lambda run: (run / "journal.jsonl").unlink(),
        "a folder": lambda run: ((run / "journal.jsonl").unlink(), (run / "journal.jsonl").mkdir()),
        "a link to itself": lambda run: (
            (run / "journal.jsonl").unlink(),
            (run / "journal.jsonl").symlink_to("journal.jsonl"),
        ),
    }.items():
        yield Case(f"report, journal: {name}", REPORT, "journal", make=ran(change))
        yield Case(f"resume, journal: {name}", RESUME, "journal", make=ran(change))


def run_files() -> Iterator[Case]:
    """run.toml, and what else lies in a run's folder."""
    text = 'model = "pocket:blank"\n'
    contents: dict[str, Content] = {
        "nothing": "",
        "no TOML": "x",
        "NUL": b"\x00",
        "random bytes": junk("run.toml"),
        "a number": "recipe = 3\n[versions]\n",
        "nothing of a run": text,
        "an unknown key": f"stps = 1\n{text}[versions]\n",
        "versions of text": f'{text}versions = "a"\nrecipe = []\n',
        "a deep list": "steps = " + "[" * 5000,
        "Latin-1": 'name = "é"\n'.encode("latin-1"),
    }
    for name, content in contents.items():
        says = {"a number": "recipe", "versions of text": "recipe", "an unknown key": "stps"}.get(name, "run.toml")
        yield Case(f"resume, run.toml: {name}", RESUME, says, make=ran(written("run.toml", content)))
    for name in ("nothing of a run", "no TOML", "NUL", "random bytes", "a deep list", "Latin-1"):
        if name != "nothing of a run":
            yield Case(f"report, run.toml: {name}", REPORT, "run.toml", make=ran(written("run.toml", contents[name])))
            yield Case(f"eval, run.toml: {name}", EVALUATE, "run.toml", make=ran(written("run.toml", contents[name])))
    changes: dict[str, tuple[Callable[[Path], object], str]] = {
        "run.toml is gone": (lambda run: (run / "run.toml").unlink(), "run.toml"),
        "run.toml is a folder": (lambda run: ((run / "run.toml").unlink(), (run / "run.toml").mkdir()), "run.toml"),
        "rollouts is a file": (
            lambda run: (shutil.rmtree(run / "rollouts"), (run / "rollouts").write_text("a")),
            "rollouts",
        ),
        "checkpoints is a file": (
            lambda run: (shutil.rmtree(run / "checkpoints"), (run / "checkpoints").write_text("a")),
            "checkpoints",
        ),
        "its data is gone": (written("run.toml", ""), "run.toml"),
    }
    for name, (change, says) in changes.items():
        yield Case(f"resume: {name}", RESUME, says, make=ran(change))
    for words in (
        ("--from", "9"),
        ("--from", "-1"),
        ("seed=3",),
        ("other.toml",),
        ("recipe=grpo",),
        ("--name", "a"),
        ("steps=x",),
    ):
        yield Case(
            f"resume: {' '.join(words)}",
            (*RESUME, *words),
            words[-1].partition("=")[0] if "=" in words[-1] else words[0].strip("-"),
            make=ran(lambda run: None),
        )
    untrusted = tuple(word for word in RESUME if word != "--trust")
    yield Case("resume: code of others", untrusted, "--trust", make=ran(lambda run: (run / ".made-here").unlink()))
    for command in (("report",), ("train", "--resume"), ("eval",), ("train", "--model")):
        places: dict[str, tuple[str, Make]] = {
            "nothing": ("./nowhere", lambda folder: None),
            "a file": ("./data.jsonl", lambda folder: None),
            "an empty folder": ("./empty", lambda folder: (folder / "empty").mkdir()),
            "a link to itself": ("./loop", lambda folder: (folder / "loop").symlink_to("loop")),
        }
        for name, (place, make) in places.items():
            yield Case(f"{' '.join(command)}: {name}", (*command, place), place.removeprefix("./"), make=make)


def rollouts() -> Iterator[Case]:
    def table(**columns: object) -> bytes:
        sink = pa.BufferOutputStream()
        pa.parquet.write_table(pa.table(columns), sink)
        return sink.getvalue().to_pybytes()

    attempt = {"problem": ["a"], "prompt_text": ["b"], "response_text": ["c"], "reward": [1.0], "ended": ["stop"]}
    contents: dict[str, bytes] = {
        "nothing": b"",
        "random bytes": junk("rollouts"),
        "no Parquet": b"PAR1PAR1",
        "other columns": table(a=[1]),
        "no reward": table(**{k: v for k, v in attempt.items() if k != "reward"}),
        "a reward of null": table(**attempt | {"reward": pa.nulls(1, pa.float64())}),
        "a reward of text": table(**attempt | {"reward": ["a"]}),
        "a text of null": table(**attempt | {"response_text": pa.nulls(1, pa.string())}),
        "a text of numbers": table(**attempt | {"response_text": [3], "prompt_text": [4]}),
        "a prompt of null": table(**attempt | {"prompt_text": pa.nulls(1, pa.string())}),
        "problems of null": table(**attempt | {"problem": pa.nulls(1, pa.string())}),
        "problems of lists": table(**attempt | {"problem": [[1]]}),
        "bytes": table(**attempt | {"response_text": [b"\xff"]}),
    }
    for name, content in contents.items():
        change = written("rollouts/eval-000000.parquet", content)
        yield Case(f"report, attempts: {name}", REPORT, "eval-000000.parquet", make=ran(change))
    foreign = ran(
        lambda run: (
            (run / "rollouts" / "notes.txt").write_text("a"),
            (run / "rollouts" / "eval-x.parquet").write_bytes(b""),
        )
    )
    yield Case("resume: files of others among the attempts", RESUME, make=foreign, accepted=True)
    yield Case("report: files of others among the attempts", REPORT, make=foreign, accepted=True)
