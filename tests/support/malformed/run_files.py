"""Run files that are none, or hold what no setting takes."""

from __future__ import annotations

import os
from collections.abc import Iterator

from malformed.case import TINY, Case, Content, junk, unique
from malformed.values import is_taken, keys, says, wrong

FINE = 'model = "pocket:blank"\n'
BROKEN: dict[str, tuple[Content, str]] = {
    "syntax": ("steps = \n", "run.toml"),
    "an open string": ('model = "pocket', "run.toml"),
    "an open table": ("[learn\nlr = 1", "run.toml"),
    "a key twice": ("steps = 1\nsteps = 2\n", "run.toml"),
    "a table twice": ("[learn]\n[learn]\n", "run.toml"),
    "a value and a table": ("learn = 1\n[learn]\nlr = 1\n", "run.toml"),
    "JSON": ('{"steps": 3}', "run.toml"),
    "YAML": ("steps: 3\n", "run.toml"),
    "NUL": (b"steps = 3\x00\n", "run.toml"),
    "NUL alone": (b"\x00", "run.toml"),
    "a BOM": (b"\xef\xbb\xbfsteps = 3\n", "run.toml"),
    "UTF-16": ("steps = 3\n".encode("utf-16"), "run.toml"),
    "Latin-1": ('name = "é"\n'.encode("latin-1"), "run.toml"),
    "a lone surrogate": (b'name = "\xed\xa0\x80"\n', "run.toml"),
    "an escaped surrogate": ('name = "\\ud800"\n', "run.toml"),
    "an escape sequence": (b'name = "\x1b[2J"\n', "run.toml"),
    "an odd key": ('"\\u001b]52;c;aGk=\\u0007" = 1\n', "there is no setting"),
    "an empty key": ('"" = 1\n', "there is no setting"),
    "a huge key": (f"{'k' * 100_000} = 1\n", "there is no setting"),
    "a huge number": (f"steps = {'9' * 10_000}\n", "run.toml"),
    "a deep list": (f"steps = {'[' * 5000}{']' * 5000}\n", "run.toml"),
    "a deep list in options": (f"[task]\noptions = {{a = {'[' * 300}{']' * 300}}}\n", "option"),
    "a deep table": (f"[{'.'.join('a' * 3000)}]\nb = 1\n", "there is no setting"),
    "a deep table of options": (f"[task.options.{'.'.join('a' * 900)}]\nb = 1\n", "option"),
    "random bytes": (junk("run file"), "run.toml"),
    "long and random": (junk("long", 200_000), "run.toml"),
    "an unknown key": ("stps = 3\n", "stps"),
    "an unknown table": ("[lern]\nlr = 1\n", "lern"),
    "an unknown inner key": ("[learn]\nlrr = 1\n", "learn.lrr"),
    "an array of tables": ("[[learn]]\nlr = 1\n", "learn"),
    "a list of recipes": ("[[recipe]]\nname = 'grpo'\n", "recipe"),
    "a recipe's list": ("recipe = ['grpo']\n", "recipe"),
    "a recipe's number": ("recipe = 3\n", "recipe"),
    "a recipe's name that is none": ("[recipe]\nname = 3\n", "recipe.name"),
    "python as a word": ('python = "x"\n', "python"),
    "python's objects": ("[python]\nobjects = 3\n", "python"),
    "python's objects that are no words": ("[python]\nobjects = [3, [], {}]\n", "python"),
    "versions alone": ("versions = 3\nstps = 1\n", "stps"),
    "a reference of a list": ("reference = []\n", "reference"),
    "a task of text": ('task = "pocket"\n', "task"),
    "rewards of numbers": ("[task]\nrewards = [1, 2]\n", "task.rewards"),
    "data of a list": ("[task]\ndata = ['data.jsonl']\n", "task.data"),
    "a slot of numbers": ("[recipe]\nsurrogate = [1]\n", "recipe.surrogate"),
    "a slot's kind of a list": ("[recipe.surrogate]\nkind = []\n", "recipe.surrogate"),
    "a file of a slot that is none": ('[recipe]\nsurrogate = "none.py:X"\n', "none.py"),
    "a path with NUL": ('model = "a\\u0000b/c/d"\n', "model"),
    "data with NUL": ('[task]\ndata = "a\\u0000b"\nrewards = ["mine.py:fine"]\n', "data"),
    "a reward with NUL": ('[task]\ndata = "data.jsonl"\nrewards = ["a\\u0000.py:f"]\n', "reward"),
    "a task with NUL": ('[task]\nname = "a\\u0000.py:f"\n', "task"),
    "out with NUL": ('out = "a\\u0000b"\nmodel = "pocket:blank"\n', "out"),
}
ACCEPTED = {"an empty file": "", "a comment": "# nothing\n", "CRLF": FINE + "steps = 1\r\n"}


def cases() -> list[Case]:
    return unique([*broken(), *settings()])


def broken() -> Iterator[Case]:
    tiny = ("--plain", *TINY)
    for name, (content, named) in BROKEN.items():
        yield Case(f"run file: {name}", ("train", "run.toml", *tiny), named, {"run.toml": content})
    for name, content in ACCEPTED.items():
        words = ("train", "run.toml", "--model", "pocket:blank", *tiny)
        yield Case(f"run file: {name}", words, files={"run.toml": content}, accepted=True)
    places = {
        "a folder": lambda folder: (folder / "run.toml").mkdir(),
        "a broken link": lambda folder: (folder / "run.toml").symlink_to("nowhere"),
        "a link to itself": lambda folder: (folder / "run.toml").symlink_to("run.toml"),
        "a device": lambda folder: (folder / "run.toml").symlink_to("/dev/null"),
        "a pipe that nobody writes to": lambda folder: os.mkfifo(folder / "run.toml"),
        "none": lambda folder: None,
    }
    for name, make in places.items():
        yield Case(f"run file: {name}", ("train", "run.toml", *tiny), "run.toml", make=make)
    yield Case("run file: a name too long", ("train", "x" * 300 + ".toml", *tiny), "x.toml")


def settings() -> Iterator[Case]:
    """Every setting of every class with values that it does not take, some of them here, others in ``overrides``."""
    for key, sort in keys():
        for value in wrong(key, sort)[::6]:
            yield setting(key, value)


def setting(key: str, value: str) -> Case:
    *above, last = key.split(".")
    head = f"[{above[0]}]\n" if above else ""
    text = f"{head}{last} = {value}\n"
    tiny = [word for word in TINY if word.partition("=")[0] != key]
    model = () if key == "model" else ("--model", "pocket:blank")
    words = ("train", "run.toml", "--plain", *model, *tiny)
    return Case(f"run file: {key} = {value[:30]}", words, says(key), {"run.toml": text}, accepted=is_taken(key, value))
