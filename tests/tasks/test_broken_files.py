"""Files that are empty, cut short, or not what their names say: one line that names the file, and the row if it can."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from upslope.errors import UserError
from upslope.tasks import user

BROKEN: dict[str, tuple[str, bytes, str]] = {
    "an empty CSV": ("train.csv", b"", "train.csv: empty; the first row must name the columns"),
    "a blank CSV": ("train.csv", b"\n\n", "train.csv: empty; the first row must name the columns"),
    "no rows": ("train.csv", b"prompt,answer\n", "no train problems (0 in all)"),
    "no objects": ("train.json", b"[]", "no train problems (0 in all)"),
    "a long row": ("train.csv", b"prompt,answer\na,1\nb,2,3\n", "train.csv row 3: 3 cells for 2 columns"),
    "a short row": ("train.tsv", b"prompt\tanswer\na\t1\n\nb\n", "train.tsv row 4: 1 cells for 2 columns"),
    "an open quote": ("train.csv", b'prompt\na\n"b\n', "train.csv after row 2: unexpected end of data"),
    "a stray quote": ("train.csv", b'prompt\n"a"b\n', "train.csv after row 1: ',' expected after '\"'"),
    "a huge cell": ("train.csv", b"prompt\n" + b"a" * 200_000, "train.csv after row 1: field larger than"),
    "columns of one name": ("train.csv", b"prompt,prompt\n", "train.csv row 1: two columns are called 'prompt'"),
    "a column without name": ("train.csv", b",prompt\n0,a\n", "row 1: column 1 has no name (pandas: to_csv(index=F"),
    "another separator": ("train.csv", b"prompt;answer\na;1\n", "train.csv row 2: needs either 'prompt'"),
    "Latin-1": ("train.csv", "prompt\né\n".encode("latin-1"), "train.csv after row 0: not UTF-8 text"),
    "Latin-1 in JSON": ("train.json", '["é"]'.encode("latin-1"), "train.json: not UTF-8 text"),
    "no gzip": ("train.jsonl.gz", b'{"prompt": "a"}\n', "cannot read"),
    "half a gzip": ("train.csv.gz", gzip.compress(b"prompt\n" + b"a\n" * 99)[:-9], "cannot read"),
    "no zstd": ("train.jsonl.zst", b"abc", "cannot read"),
    "an empty gzip": ("train.json.gz", b"", "train.json.gz: no bytes, which no packed file has"),
    "a bad row in gzip": ("train.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n{'), "train.jsonl.gz row 2: not JSON"),
    "an object": ("train.json", b'{"prompt": "a"}', "train.json: a dict, not a list of objects"),
    "JSON lines": ("train.json", b'{"prompt": "a"}\n{"prompt": "b"}', "one object a line .jsonl"),
    "no JSON": ("train.json", b"", "train.json: not JSON"),
    "deep JSON": ("train.json", b"[" * 100_000, "train.json: not JSON"),
    "NaN": ("train.json", b'[{"prompt": NaN}]', "NaN is not JSON"),
    "a number": ("train.json", b'[{"prompt": "a"}, 3]', "train.json row 2: a int, not an object"),
    "an empty Parquet": ("train.parquet", b"", "train.parquet: cannot be read as a Parquet file"),
    "no Parquet": ("train.parquet", b"PAR1" + b"x" * 99, "train.parquet: cannot be read as a Parquet file"),
    "an empty Arrow": ("train.arrow", b"", "train.arrow: cannot be read as an Arrow file or stream"),
    "no Arrow": ("train.arrow", b"ARROW1garbage", "train.arrow: cannot be read as an Arrow file or stream"),
    "old Feather": ("train.feather", b"FEA1" + b"x" * 9, "train.feather: cannot be read as an Arrow file or stream"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_named(what: str, tmp_path: Path) -> None:
    name, data, says = BROKEN[what]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        user.open(str(tmp_path)).problems("train")
    assert says in str(caught.value)
    assert name in str(caught.value) or "(0 in all)" in says
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"prompt": [1, 2]}, "row 1: a chat must be a non-empty list of .*, not 1"),
        ({"prompt": ["a", None]}, "row 2: needs either 'prompt' .*; it has prompt"),
        ({"question": ["a"]}, "row 1: needs either 'prompt' .*; it has question; say which .* task.columns.prompt="),
        ({"prompt": [{"text": "a"}]}, "row 1: a chat must be a non-empty list"),
        ({"prompt": [[{"role": "user", "content": None}]]}, "row 1: message content must be text, not NoneType"),
    ],
)
def test_a_bad_row_of_a_typed_file_is_named(columns: dict[str, Any], says: str, tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table(columns), tmp_path / "train.parquet")
    with pytest.raises(UserError, match=f"train.parquet {says}"):
        user.open(str(tmp_path)).problems("train")


def test_a_stream_that_ends_early_is_named(tmp_path: Path) -> None:
    table = pa.table({"prompt": list(map(str, range(8)))})
    with pa.OSFile(str(tmp_path / "train.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    data = (tmp_path / "train.arrow").read_bytes()
    (tmp_path / "train.arrow").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"train\.arrow: cannot be read as an Arrow file or stream"):
        user.open(str(tmp_path)).problems("train")


def test_columns_of_one_name_in_arrow(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    with pa.OSFile(str(tmp_path / "train.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write(table)
    with pytest.raises(UserError, match=r"train\.arrow: two columns are called 'prompt'"):
        user.open(str(tmp_path)).problems("train")


def test_which_file_is_meant_must_be_clear(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("prompt\na\n")
    (tmp_path / "train.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(UserError, match=r"which of train\.jsonl and train\.csv is meant\?"):
        user.open(str(tmp_path))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"notes\.txt: data must be \.jsonl, .*\.parquet"):
        user.open(str(tmp_path / "notes.txt"))
    (tmp_path / "train.parquet.gz").touch()
    with pytest.raises(UserError, match=r"data must be"):
        user.open(str(tmp_path / "train.parquet.gz"))
