"""Data of the tasks ``user`` and ``gsm8k``: text files with rows that are none."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from malformed.case import ROWS, TRAIN, USER, Case, Content, junk, lines, unique

GSM8K = [{"question": f"Tom has {i} books.", "answer": f"He has {i}.\n#### {i}"} for i in range(12)]
ENDINGS = (
    *("jsonl", "json", "csv", "tsv", "parquet", "arrow", "feather"),
    *("jsonl.gz", "json.gz", "csv.gz", "tsv.gz", "jsonl.zst", "json.zst", "csv.zst", "tsv.zst"),
)
CELLS: dict[str, Any] = {
    "null": None,
    "a number": 3,
    "a huge number": 10**400,
    "a list": [],
    "a list of numbers": [1, 2],
    "a list of text": ["a"],
    "an object": {"a": 1},
    "an empty text": "",
    "blanks": " \n",
    "half a character": "Tom \ud800",
    "a chat of nothing": [{}],
    "a chat with a strange role": [{"role": "\x1b[2Jboss", "content": "a"}],
    "a chat of numbers": [{"role": "user", "content": 3}],
    "a chat with a call": [{"role": "user", "content": "a", "tool_calls": [1]}],
    "deep": json.loads("[" * 400 + "]" * 400),
}
"""In place of a prompt or a question."""
LINES: dict[str, Content] = {
    "no JSON": "{",
    "a number": "3",
    "a list": "[]",
    "text": '"a"',
    "null": "null",
    "NaN": '{"prompt": NaN, "question": NaN}',
    "two objects": '{"prompt": "a"}{"prompt": "b"}',
    "a comma": '{"prompt": "a"},',
    "single quotes": "{'prompt': 'a'}",
    "deep": "[" * 100_000,
    "a huge number": '{"prompt": ' + "9" * 10_000 + "}",
    "a long line": '{"prompt": "' + "x" * 3_000_000,
    "NUL": b'{"prompt": "a\x00b"}',
    "Latin-1": '{"prompt": "é"}'.encode("latin-1"),
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "an escape sequence": b"\x1b]52;c;aGk=\x07",
    "no prompt": '{"text": "a"}',
    "nothing": "{}",
    "a raw surrogate": b'{"prompt": "\xed\xa0\x80"}',
}
"""In place of the third row."""
SEPARATED: dict[str, Content] = {
    "nothing": "",
    "blank lines": "\n\n\n",
    "a head alone": "prompt,question,answer\n",
    "a long row": "prompt,answer\na,1\nb,2,3\n",
    "a short row": "prompt,answer\na,1\nb\n",
    "an open quote": 'prompt,answer\na,1\n"b,2\n',
    "a stray quote": 'prompt,answer\n"a"b,1\n',
    "a huge cell": "prompt\n" + "a" * 200_000 + "\n",
    "a name twice": "prompt,prompt\na,b\n",
    "no name": ",prompt\n0,a\n",
    "semicolons": "prompt;answer\na;1\n",
    "NUL": b"prompt,answer\na\x00,1\n",
    "NUL in the head": b"pro\x00mpt,answer\na,1\n",
    "Latin-1": "prompt\né\n".encode("latin-1"),
    "UTF-16": "prompt\na\n".encode("utf-16"),
    "empty cells": "prompt,question,answer\n,,\n",
    "an escape sequence in the head": b"\x1b[2J,answer\na,1\n",
    "JSON": lines(ROWS),
}


def cases() -> list[Case]:
    return unique([*bytes_of_every_ending(), *json_rows(), *separated(), *identities(), *places(), *sound()])


def trained(file: str, *more: str, task: str = "user") -> tuple[str, ...]:
    return (*TRAIN, "--task", task, "--data", file, *(USER if task == "user" else ()), *more)


def imitated(file: str) -> tuple[str, ...]:
    words = (word for word in trained(file) if not word.startswith("recipe.sample."))
    return (*words, "recipe=sft")


def rows_of(task: str) -> list[dict[str, Any]]:
    return [dict(row) for row in (ROWS if task == "user" else GSM8K)]


def bytes_of_every_ending() -> Iterator[Case]:
    """Nothing, random bytes, another format, and the right one cut short, under every ending."""
    other = {"JSON": lines(ROWS).encode(), "a page": b"<!doctype html><p>404</p>", "NUL": b"\x00" * 100}
    for ending in ENDINGS:
        file = f"rows.{ending}"
        yield Case(f"{file}: nothing", trained(file), file, {file: b""})
        yield Case(f"{file}: random", trained(file), file, {file: junk(ending)})
        for name, content in other.items():
            if (name, ending) != ("JSON", "jsonl"):
                yield Case(f"{file}: {name}", trained(file), file, {file: content})
        packed = {"gz": gzip.compress, "zst": lambda data: pa.compress(data, "zstd", asbytes=True)}
        if ending.endswith((".gz", ".zst")):
            whole = packed[ending.rpartition(".")[2]](b"prompt\n" + junk(file, 4000).hex().encode())
            yield Case(f"{file}: cut short", trained(file), file, {file: whole[: len(whole) // 2]})
            yield Case(f"{file}: random within", trained(file), file, {file: packed[ending[-3:].strip(".")](junk(1))})


def json_rows() -> Iterator[Case]:
    for task, column in (("user", "prompt"), ("gsm8k", "question")):
        good = rows_of(task)
        for name, cell in CELLS.items():
            text = lines([*good[:2], good[2] | {column: cell}, *good[3:]])
            yield Case(
                f"{task}, {column}: {name}", trained("rows.jsonl", task=task), "rows.jsonl row 3", {"rows.jsonl": text}
            )
        text = lines([row | {column: None} for row in good])
        yield Case(
            f"{task}, {column}: null everywhere", trained("rows.jsonl", task=task), "row 1", {"rows.jsonl": text}
        )
        for name, line in LINES.items():
            raw = line.encode() if isinstance(line, str) else line
            parts = lines(good[:2]).encode(), raw, b"\n", lines(good[3:]).encode()
            yield Case(
                f"{task}, a line: {name}",
                trained("rows.jsonl", task=task),
                "rows.jsonl",
                {"rows.jsonl": b"".join(parts)},
            )
    for name, cell in {"a number": 3, "a list": [1], "no mark": "eighteen", "null": None, "text": ""}.items():
        text = lines([*GSM8K[:2], GSM8K[2] | {"answer": cell}, *GSM8K[3:]])
        yield Case(f"gsm8k, answer: {name}", trained("rows.jsonl", task="gsm8k"), "row 3", {"rows.jsonl": text})
    for name, text in {
        "an object": '{"prompt": "a"}',
        "a number": "3",
        "text": '"a"',
        "no rows": "[]",
        "null": "[null]",
    }.items():
        yield Case(f"a JSON list: {name}", trained("rows.json"), "rows.json", {"rows.json": text})


def separated() -> Iterator[Case]:
    for name, content in SEPARATED.items():
        accepted = name == "NUL"  # of text, since Python 3.11
        yield Case(f"CSV: {name}", trained("rows.csv"), "rows.csv", {"rows.csv": content}, accepted=accepted)
        if isinstance(content, str):
            tabs = content.replace(",", "\t")
            yield Case(f"TSV: {name}", trained("rows.tsv"), "rows.tsv", {"rows.tsv": tabs})


def identities() -> Iterator[Case]:
    """Ids, sides, columns and demonstrations."""
    changes: Mapping[str, tuple[list[dict[str, Any]], str]] = {
        "an id twice": ([row | {"id": "same"} for row in ROWS], "same"),
        "an id of several types": ([ROWS[0] | {"id": 1}, ROWS[1] | {"id": "1"}], "row 2"),
        "a made id": ([ROWS[0], ROWS[1] | {"id": "user/train/0"}], "user/train/0"),
        "an id of half a character": ([row | {"id": f"\ud800{row['answer']}"} for row in ROWS], "row 1"),
        "an unknown side": ([row | {"split": "tset"} for row in ROWS], "tset"),
        "a side of a list": ([row | {"split": []} for row in ROWS], "split"),
        "a side in some": ([ROWS[0] | {"split": "train"}, ROWS[1]], "row 2"),
        "one side alone": ([row | {"split": "test"} for row in ROWS], "no train"),
        "a column of ours": ([row | {"completions": "a"} for row in ROWS], "completions"),
        "two prompts": ([row | {"messages": [{"role": "user", "content": "a"}]} for row in ROWS], "row 1"),
        "too few": (ROWS[:1], "problems"),
    }
    for name, (rows, says) in changes.items():
        words = [word for word in trained("rows.jsonl") if not word.startswith("problems=")]
        yield Case(f"rows: {name}", (*words, "problems=8"), says, {"rows.jsonl": lines(rows)})
    shown = {"a number": 3, "a chat of the user's": [{"role": "user", "content": "a"}], "half a character": "\udc00"}
    for name, demonstration in shown.items():
        rows = [row | {"demonstration": demonstration} for row in ROWS]
        yield Case(f"demonstration: {name}", imitated("rows.jsonl"), "row 1", {"rows.jsonl": lines(rows)})
    yield Case("demonstration: none", imitated("rows.jsonl"), "demonstration", {"rows.jsonl": lines(ROWS)})


def places() -> Iterator[Case]:
    """Paths that are no file."""
    made = {
        "a folder of that name": lambda folder: (folder / "rows.jsonl").mkdir(),
        "a broken link": lambda folder: (folder / "rows.jsonl").symlink_to("nowhere"),
        "a link to itself": lambda folder: (folder / "rows.jsonl").symlink_to("rows.jsonl"),
        "a pipe": lambda folder: os.mkfifo(folder / "rows.jsonl"),
        "a device": lambda folder: (folder / "rows.jsonl").symlink_to("/dev/zero"),
        "nothing": lambda folder: None,
    }
    for name, make in made.items():
        yield Case(f"a place: {name}", trained("rows.jsonl"), "rows.jsonl", make=make)
        yield Case(
            f"a place to evaluate on: {name}",
            trained("data.jsonl", "--eval-data", "rows.jsonl"),
            "rows.jsonl",
            make=make,
        )
    for name in ("rows", "rows.txt", "rows.parquet.gz", "rows.jsonl.bz2", ".jsonl", "rows.JSONL"):
        yield Case(f"an ending: {name}", trained(name), name, {name: lines(ROWS)})
    two = {"rows/train.csv": "prompt\na\n", "rows/train.jsonl": lines(ROWS)}
    yield Case("a place: two files for one side", trained("rows"), "rows", two)
    yield Case("a place: a folder of folders", trained("rows"), "rows", {"rows/train.jsonl/x": ""})
    yield Case("a place: the same file twice", trained("data.jsonl", "--eval-data", "data.jsonl"), "data.jsonl")
    yield Case("a place: to evaluate on alone", (*TRAIN, "--eval-data", "data.jsonl"), "--data")


def sound() -> Iterator[Case]:
    """What looks odd and is in order."""
    good = {
        "CRLF": lines(ROWS).replace("\n", "\r\n"),
        "a BOM": "\ufeff" + lines(ROWS),
        "blank lines": lines(ROWS).replace("\n", "\n\n"),
        "no last line break": lines(ROWS).rstrip(),
        "controls within": lines([row | {"prompt": f"{row['prompt']}\x1b]52;c;aGk=\x07\x00"} for row in ROWS]),
        "odd columns": lines([row | {"": 1, "\x1b": [{}], "deep": CELLS["deep"]} for row in ROWS]),
    }
    for name, text in good.items():
        yield Case(f"rows in order: {name}", trained("rows.jsonl"), files={"rows.jsonl": text}, accepted=True)
