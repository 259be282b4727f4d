"""What is read from files, folders, patterns and the hub, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from upslope.errors import Unavailable, UserError
from upslope.text.documents import documents
from upslope.text.parts import PART
from upslope.text.rows import _unpacked

ROWS = [{"text": "One.", "n": 1}, {"text": "Two\nlines.\n", "n": 2}, {"text": None, "n": 3}, {"text": " \n", "n": 4}]


def texts(*sources: object, column: str = "text") -> list[str]:
    return [document.text for document in documents([str(source) for source in sources], column=column)]


def test_a_packed_parquet_file_is_unpacked_and_closed_before_it_is_read(tmp_path: Path) -> None:
    descriptors, data = Path("/proc/self/fd"), bytes(range(256)) * 9000
    if not descriptors.exists():
        pytest.skip("needs /proc")
    with _unpacked(io.BytesIO(data), tmp_path / "a.parquet.gz") as whole:
        assert whole.read_bytes() == data
        assert whole not in {fd.readlink() for fd in descriptors.iterdir() if fd.is_symlink()}
    assert not whole.exists()


def refusal(*sources: object, column: str = "text") -> str:
    """The one line with which the sources are refused."""
    with pytest.raises(UserError) as caught:
        texts(*sources, column=column)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def packed(data: bytes, ending: str) -> bytes:
    if ending == ".gz":
        return gzip.compress(data)
    return pyarrow.compress(data, "zstd", asbytes=True) if ending == ".zst" else data


def parquet(rows: list[dict[str, Any]], path: Path) -> bytes:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path.read_bytes()


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [".txt", ".md", ".jsonl", ".parquet"])
def test_every_kind_of_text_is_read_plain_and_compressed(kind: str, ending: str, tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n\n" for row in ROWS).encode()
    data = {".jsonl": lines, ".parquet": parquet(ROWS, tmp_path / "made")}.get(kind, b"One.\nTwo\nlines.\n")
    path = tmp_path / f"A{kind.upper()}{ending}"
    path.write_bytes(packed(data, ending))
    found = list(documents([str(path)]))
    if kind in (".txt", ".md"):
        assert found == [("One.\nTwo\nlines.\n", f"{path}, byte 0")]
    else:
        second = 3 if kind == ".jsonl" else 2  # lines are counted as an editor does
        assert found == [("One.", f"{path}, row 1"), ("Two\nlines.\n", f"{path}, row {second}")]


def test_a_long_text_is_cut_after_lines_and_a_long_line_between_characters(tmp_path: Path) -> None:
    line = "ü" * 999 + "\n"
    whole = "a" + line * 100 + "€" * 50_000 + "\U0001f600" * 40_000 + "\r\n" + "end"
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + whole.encode())
    found = list(documents([str(path)]))
    assert "".join(document.text for document in found) == whole.replace("\r\n", "\n")
    assert all(len(document.text.encode()) <= PART for document in found)
    assert found[0].text.endswith("\n")
    places = [int(document.where.rpartition(" ")[2]) for document in found]
    assert places[0] == 0
    assert [b - a for a, b in pairwise(places[1:])] == [len(document.text.encode()) for document in found[1:-1]]


def test_no_end_of_a_line_is_cut_in_two(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * (PART - 1) + b"\r\n" + b"b\r\n")
    assert "".join(texts(path)) == "a" * (PART - 1) + "\nb\n"


def test_a_long_row_is_cut_and_keeps_its_line_ends(tmp_path: Path) -> None:
    text = "\ufeff" + "one line\r\n" * 10_000
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": text}))
    found = list(documents([str(path)]))
    assert "".join(document.text for document in found) == text
    assert [document.where for document in found] == [f"{path}, row 1, byte 0", f"{path}, row 1, byte 65533"]


def test_a_folder_is_read_by_name_without_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/.hidden.txt", ".git/x.txt", "a/script.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(f"{tmp_path}/**/*.txt") == ["b.txt"]
    assert texts(f"{tmp_path}/*") == ["a/z.md", "b.txt"]
    assert texts(tmp_path / "b.txt", tmp_path / "a") == ["b.txt", "a/z.md"]
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert texts(tmp_path) == ["a/z.md", "b.txt"]


def test_another_column_may_hold_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"story": "Once."}\n')
    parquet([{"story": "Twice."}], tmp_path / "b.parquet")
    assert texts(tmp_path, column="story") == ["Once.", "Twice."]
    assert refusal(path) == f"{path}, row 1: no column 'text'; there is story"
    assert refusal(tmp_path / "b.parquet") == f"{tmp_path / 'b.parquet'}: no column 'text'; there is story"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"x" * 70_000 + b"\xff", ", byte 70000: not UTF-8 text (0xff)"),
        ("a.txt", b"\xef\xbb\xbfab\xe2\x82", ", byte 5: not UTF-8 text (0xe2)"),
        ("a.txt.gz", gzip.compress(b"ab\xc0", mtime=0), ", byte 2: not UTF-8 text (0xc0)"),
        ("a.txt", b"PK\x03\x04\x00", ", byte 4: a zero byte"),
        ("a.txt", b"\xff\xfea\0", ": UTF-16 and not UTF-8; convert it (iconv -f utf-16 -t utf-8)"),
        ("a.txt", b"\xff\xfe\0\0a\0\0\0", ": UTF-32 and not UTF-8"),
        ("a.jsonl", '\ufeff{"text": "a"}'.encode("utf-16-be"), ": UTF-16 and not UTF-8"),
        ("a.txt.gz", gzip.compress(b"abc" * 1000, mtime=0)[:-9], "; fetch the file, or pack it, again"),
        ("a.txt.gz", b"", ": no bytes, which no packed file has"),
        ("a.jsonl.zst", b"", ": no bytes, which no packed file has"),
        ("a.txt.zst", b"no zstd", "; fetch the file, or pack it, again"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', ", row 2: not JSON ("),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', ", row 2: not UTF-8 text (0xff at byte 24)"),
        ("a.jsonl", b"[1]\n", ", row 1: a list, not an object"),
        ("a.jsonl", b'{"text": 3}\n', ", row 1: column 'text' holds a int, not text"),
        ("a.jsonl", b'{"text": "ab\\ud800"}', r", row 1: character 2 is half of one ('\ud800')"),
        ("a.jsonl", b'{"text": "' + b"a" * (1 << 26) + b'"}', ", row 1: longer than 64 MiB"),
        ("a.jsonl", b"[" * 100_000, ", row 1: not JSON"),
        ("a.parquet", b"PAR1 no table", "a.parquet after row 0: cannot be read as a Parquet file"),
        ("a.csv", b"text\na\n", ": text is .txt, .md, .jsonl, .parquet, each also with .gz or .zst behind it"),
        ("a.txt", b"", ": no text in it"),
        ("a.jsonl", b'{"text": " "}\n\n', ": no text in it"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert said in refusal(path)
    assert str(path) in refusal(path)


def test_columns_of_a_parquet_file_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet([{"text": 1}], path)
    assert refusal(path) == f"{path}: column 'text' holds int64, not text; name another column"
    broken = pyarrow.array([b"good", b"ab\xff"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), path)
    assert f"{path}, row 2: not UTF-8 text (0xff at byte 2 of the text)" in refusal(path)
    words = pyarrow.array(["one", "two"]).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table({"text": words}), path)
    assert texts(path) == ["one", "two"]


def test_sources_that_are_not_there_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.py").touch()
    for source, said in [
        (tmp_path / "no.txt", "there is no file, folder or data set"),
        (tmp_path, "no file of text below it"),
        (tmp_path / "*.txt", "matches nothing"),
        (tmp_path / "*.py", "matches no file of text (x.py, ...)"),
        ("a" * 5000, "File name too long"),
        ("data/none.txt", "there is no file, folder or data set data/none.txt"),
    ]:
        with pytest.raises(UserError) as caught:
            documents([str(source)])
        assert said in str(caught.value)
    with pytest.raises(UserError, match="no source of text"):
        documents([])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("as a path, an empty name is the folder at hand")
    with pytest.raises(UserError, match="empty name"):
        documents([""])
    with pytest.raises(UserError, match="put it in brackets"):
        documents("a.txt")


@pytest.mark.parametrize("name", ["gone.txt", "gone"])
def test_a_link_to_nothing_is_not_passed_over(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("here")
    (tmp_path / name).symlink_to("elsewhere")
    (tmp_path / "page.html").symlink_to("elsewhere")  # would not be read in any case
    for source in (tmp_path, tmp_path / name, tmp_path / "gon*"):
        assert refusal(source).startswith(f"{tmp_path / name} is a link to elsewhere, which is not there")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("there")
    assert "there" in texts(tmp_path, tmp_path / "elsewhere")


def test_a_data_set_of_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def stream(*args: Any, **options: Any) -> Iterator[dict[str, Any]]:
        asked.append((args, options))
        yield {"text": "One."}
        yield {"text": "Two."}
        if len(asked) > 1:
            raise ConnectionError("the line\nis dead")

    monkeypatch.setattr(datasets, "load_dataset", stream)
    found = list(documents(["some-one/set:small"]))
    assert found == [("One.", "some-one/set:small, row 1"), ("Two.", "some-one/set:small, row 2")]
    assert asked == [(("some-one/set", "small"), {"split": "train", "streaming": True})]
    assert "ConnectionError: the line is dead" in refusal("some-one/set::test")
    assert asked[1] == (("some-one/set", None), {"split": "test", "streaming": True})


def test_the_hub_out_of_reach_is_one_line() -> None:
    pytest.importorskip("datasets")
    with pytest.raises(Unavailable) as caught:
        texts("nobody-at-all/nothing-here")
    assert "\n" not in str(caught.value)
    assert "nobody-at-all/nothing-here: there is no such file or folder, and it cannot be had" in str(caught.value)


def test_the_hub_without_its_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'upslope[hub]'" in refusal("nobody-at-all/nothing-here")


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".txt.gz"])
def test_a_large_file_takes_no_more_memory_than_a_small_one(kind: str, tmp_path: Path) -> None:
    line = b'{"text": "' + b"a line of text " * 10 + b'"}\n'
    path = tmp_path / f"a{kind}"
    path.write_bytes(packed(line * 60_000, ".gz" if kind.endswith(".gz") else ""))  # 10 MB
    next(iter(documents([str(path)])))
    tracemalloc.start()
    try:
        assert sum(len(document.text) for document in documents([str(path)])) > 8_000_000
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
