"""Data in columns: Parquet, Arrow, Feather, and folders that ``datasets`` saved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

from malformed.case import Case, unique
from malformed.rows import GSM8K, trained

PROMPTS = [f"Tom has {i} books." for i in range(12)]
TYPES: dict[str, Any] = {
    "numbers": list(range(12)),
    "NaN": [float("nan")] * 12,
    "dates": [date(2020, 1, 1)] * 12,
    "decimals": [Decimal("1.5")] * 12,
    "bytes": [b"\xff\xfe"] * 12,
    "true": [True] * 12,
    "lists of text": [["a"]] * 12,
    "empty lists": [[]] * 12,
    "objects": [{"text": "a"}] * 12,
    "chats without content": [[{"role": "user", "content": None}]] * 12,
    "chats of a strange role": [[{"role": "boss", "content": "a"}]] * 12,
    "empty text": [""] * 12,
    "nulls": pa.nulls(12),
    "nulls of text": pa.nulls(12, pa.string()),
    "one null": [*PROMPTS[:2], None, *PROMPTS[3:]],
    "a dictionary": pa.array(PROMPTS).dictionary_encode().cast(pa.dictionary(pa.int32(), pa.string())).slice(0, 0),
}


def cases() -> list[Case]:
    return unique([*typed(), *nulls(), *cut(), *saved(), *sound()])


def written(table: Any, name: str) -> bytes:
    """A table as a file of that ending holds it."""
    sink = pa.BufferOutputStream()
    if name.endswith("parquet"):
        pa.parquet.write_table(table, sink)
    elif name.endswith("feather"):
        pa.feather.write_feather(table, sink)
    else:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


def typed() -> Iterator[Case]:
    """Columns of every type in place of the prompt."""
    for ending in ("parquet", "arrow", "feather"):
        file = f"rows.{ending}"
        for name, column in TYPES.items():
            content = written(pa.table({"prompt": column}), file)
            yield Case(f"{ending}: prompts that are {name}", trained(file), file, {file: content})
        twice = pa.Table.from_arrays([pa.array(PROMPTS)] * 2, ["prompt", "prompt"])
        unnamed = pa.table({"": PROMPTS})
        for name, table in {"a name twice": twice, "no name": unnamed, "no column": pa.table({})}.items():
            yield Case(f"{ending}: {name}", trained(file), file, {file: written(table, file)})


def nulls() -> Iterator[Case]:
    """Each column in turn without a value."""
    for column, row, accepted in (
        ("prompt", "row 1", False),
        ("answer", "", True),
        ("id", "", True),
        ("split", "", True),
    ):
        table = pa.table({"prompt": PROMPTS, "answer": PROMPTS, "id": PROMPTS, "split": pa.nulls(12)})
        place = table.column_names.index(column)
        content = written(table.set_column(place, column, pa.nulls(12)), "parquet")
        yield Case(f"parquet: no {column}", trained("rows.parquet"), row, {"rows.parquet": content}, accepted=accepted)
    for column in ("question", "answer"):
        rows = pa.table({name: [row[name] for row in GSM8K] for name in GSM8K[0]})
        for name, of in {
            "nulls": pa.nulls(12),
            "nulls of text": pa.nulls(12, pa.string()),
            "numbers": list(range(12)),
        }.items():
            place = rows.column_names.index(column)
            content = written(rows.set_column(place, column, pa.array(of)), "parquet")
            words = trained("rows.parquet", task="gsm8k")
            yield Case(f"parquet, gsm8k: {column} of {name}", words, "row 1", {"rows.parquet": content})


def cut() -> Iterator[Case]:
    """Cut short, and with bytes turned, at several places."""
    table = pa.table({"prompt": [f"{p} {i}" * 3 for i, p in enumerate(PROMPTS)]})
    for ending in ("parquet", "arrow", "feather"):
        file = f"rows.{ending}"
        whole = written(table, file)
        for share in (0.01, 0.3, 0.6, 0.97):
            part = whole[: int(len(whole) * share)]
            yield Case(f"{ending}: {share:.0%} of it", trained(file), file, {file: part})
        for at in (8, len(whole) - 6)[ending == "feather" :]:  # what is at 8 there, nobody reads
            turned = bytearray(whole)
            turned[at : at + 4] = b"\xff\xff\xff\x7f"
            yield Case(f"{ending}: four bytes at {at} turned", trained(file), file, {file: bytes(turned)})


def saved() -> Iterator[Case]:
    """Folders of ``save_to_disk`` with a state that is none, or without their files."""
    arrow = written(pa.table({"prompt": PROMPTS}), "arrow")
    states = {
        "no JSON": "{",
        "a list": "[]",
        "text": '"a"',
        "nothing": "{}",
        "files of a number": '{"_data_files": 3}',
        "files of numbers": '{"_data_files": [3]}',
        "a file without name": '{"_data_files": [{}]}',
        "a name of a number": '{"_data_files": [{"filename": 3}]}',
        "a file that is not there": '{"_data_files": [{"filename": "none.arrow"}]}',
        "no rows": '{"_data_files": []}',
        "a file of indices": '{"_data_files": [], "_indices_data_files": [1]}',
        "deep": "[" * 100_000,
        "Latin-1": '{"é": 1}'.encode("latin-1"),
    }
    for name, state in states.items():
        files = {"rows/state.json": state, "rows/data.arrow": arrow}
        yield Case(f"saved: a state of {name}", trained("rows"), "rows", files)
    for name, splits in {
        "no JSON": "{",
        "a list": "[]",
        "others": '{"splits": ["a"]}',
        "numbers": '{"splits": [3]}',
    }.items():
        yield Case(f"saved: splits of {name}", trained("rows"), "rows", {"rows/dataset_dict.json": splits})
    files = {"rows/dataset_dict.json": '{"splits": ["train"]}'}
    yield Case("saved: a split that is not there", trained("rows"), "rows", files)
    state = json.dumps({"_data_files": [{"filename": "data.arrow"}]})
    for name, content in {"nothing": b"", "half": arrow[: len(arrow) // 2], "Parquet": b"PAR1"}.items():
        yield Case(
            f"saved: data of {name}",
            trained("rows"),
            "data.arrow",
            {"rows/state.json": state, "rows/data.arrow": content},
        )


def sound() -> Iterator[Case]:
    columns = {"prompt": PROMPTS, "odd": pa.nulls(12), "when": [date(2020, 1, 1)] * 12, "raw": [b"\xff"] * 12}
    for ending in ("parquet", "arrow", "feather"):
        file = f"rows.{ending}"
        yield Case(
            f"{ending}: odd columns", trained(file), files={file: written(pa.table(columns), file)}, accepted=True
        )
