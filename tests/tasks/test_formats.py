"""The same rows in every format are the same problems, with the same ids, on the same sides; broken files are named."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from upslope.errors import UserError
from upslope.tasks import user
from upslope.tasks.files import READERS
from upslope.tasks.user import UserTask
from upslope.types import Problem

Rows = Sequence[dict[str, Any]]


def as_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_list(rows: Rows) -> bytes:
    return json.dumps(list(rows)).encode()


def separated(separator: str) -> Callable[[Rows, Path], None]:
    def write(rows: Rows, path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=separator)
            writer.writerow(rows[0])
            writer.writerows([row[name] for name in rows[0]] for row in rows)

    return write


def stream(rows: Rows, path: Path) -> None:
    table = pa.Table.from_pylist(list(rows))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def saved(rows: Rows, path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(list(rows)).save_to_disk(path, num_shards=min(2, len(rows)))


def packed(write: Callable[[Rows, Path], None], ending: str) -> Callable[[Rows, Path], None]:
    def compressed(rows: Rows, path: Path) -> None:
        plain = path.parent / "plain"
        write(rows, plain)
        data = plain.read_bytes()
        path.write_bytes(gzip.compress(data) if ending == ".gz" else pa.compress(data, codec="zstd", asbytes=True))

    return compressed


TEXT: dict[str, Callable[[Rows, Path], None]] = {
    ".jsonl": lambda rows, path: path.write_bytes(as_lines(rows)) and None,
    ".json": lambda rows, path: path.write_bytes(as_list(rows)) and None,
    ".csv": separated(","),
    ".tsv": separated("\t"),
}
TYPED: dict[str, Callable[[Rows, Path], None]] = {
    ".jsonl": TEXT[".jsonl"],
    ".json": TEXT[".json"],
    ".parquet": lambda rows, path: pa.parquet.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=2),
    ".feather": lambda rows, path: pa.feather.write_feather(pa.Table.from_pylist(list(rows)), str(path), chunksize=2),
    ".arrow": stream,
    "": saved,
}
WRITERS = TYPED | TEXT | {e + p: packed(TEXT[e], p) for e in TEXT for p in (".gz", ".zst")}

word = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
prompt = word.filter(str.strip)
text_rows = st.lists(
    st.fixed_dictionaries({"prompt": prompt, "answer": st.none() | word, "hint": st.none() | word}), min_size=1
)
message = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "tool"]), "content": prompt})
typed_rows = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": st.lists(message, min_size=1, max_size=3),
            "answer": st.none() | st.integers(-(2**53), 2**53),
            "steps": st.none() | st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), max_size=2),
            "easy": st.booleans(),
        }
    ),
    min_size=1,
)
LIKELY = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def opened(task: UserTask) -> tuple[Sequence[Problem], ...]:
    """Both sides; a side that is empty is so."""
    found = []
    for split in ("train", "test"):
        try:
            found.append(task.problems(split))
        except UserError as error:
            assert f"no {split} problems" in str(error)
            found.append(())
    return tuple(found)


def compare(rows: Rows, endings: Sequence[str], folder: Path) -> None:
    wanted = None
    for ending in endings:
        path = folder / f"rows{ending}"
        WRITERS[ending](rows, path)
        task = user.open(str(path))
        found = opened(task)
        wanted = wanted or (found, task.fingerprint())
        assert found == wanted[0], ending
        assert task.fingerprint() == wanted[1], ending
    assert wanted is not None and sum(map(len, wanted[0])) == len(rows)


def test_every_ending_is_written_here() -> None:
    assert set(READERS) == set(WRITERS) - {""}


@LIKELY
@given(rows=text_rows)
def test_rows_of_text_are_the_same_in_every_format(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> None:
    compare(rows, list(WRITERS), tmp_path_factory.mktemp("rows"))


@LIKELY
@given(rows=typed_rows)
def test_chats_and_numbers_are_the_same_where_there_are_types(
    rows: Rows, tmp_path_factory: pytest.TempPathFactory
) -> None:
    compare(rows, list(TYPED), tmp_path_factory.mktemp("rows"))


@pytest.mark.parametrize("ending", sorted(set(WRITERS) - {""}))
def test_a_folder_with_both_sides(ending: str, tmp_path: Path) -> None:
    WRITERS[ending]([{"prompt": "a", "id": "x"}, {"prompt": "b", "id": None}], tmp_path / f"train{ending}")
    WRITERS[ending]([{"prompt": "c", "id": None}], tmp_path / f"test{ending}")
    found = opened(user.open(str(tmp_path)))
    assert [[p.id for p in side] for side in found] == [["x", "user/train/1"], ["user/test/0"]]


def shards(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        WRITERS[Path(name).suffix]([{"prompt": f"{number}a"}, {"prompt": f"{number}b"}], folder / name)


@pytest.mark.parametrize("inside", ["", "data"])
def test_shards_are_one_side_in_the_order_of_their_names(inside: str, tmp_path: Path) -> None:
    """As the hub has data sets, whose clones keep them in a folder data."""
    train = [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    shards(tmp_path / inside, *train, "test-00000-of-00001.parquet")
    found = opened(user.open(str(tmp_path)))
    assert [[p.id for p in side] for side in found] == [
        [f"user/train/{i}" for i in range(6)],
        ["user/test/0", "user/test/1"],
    ]
    assert [p.messages[0]["content"] for p in found[0]] == ["0a", "0b", "1a", "1b", "2a", "2b"]
    (tmp_path / inside / train[1]).unlink()
    with pytest.raises(UserError, match="is one of 3 shards, and number 1 is not there"):
        user.open(str(tmp_path))


def test_a_folder_of_each_side_and_one_of_parts_alone(tmp_path: Path) -> None:
    shards(tmp_path / "sides" / "train", "0000.parquet", "0001.parquet")
    assert len(user.open(str(tmp_path / "sides")).problems("train")) == 4
    shards(tmp_path / "parts", *(f"part-{i}.parquet" for i in range(20)))
    task = user.open(str(tmp_path / "parts"))
    train, test = opened(task)
    assert len(train) + len(test) == 40 and test
    assert len(user.open(str(tmp_path / "parts"), str(tmp_path / "sides" / "train" / "0000.parquet")).problems("train"))
    shards(tmp_path / "sides", "train-0.parquet")
    with pytest.raises(UserError, match=r"which of train-0.parquet and train/0000.parquet is meant"):
        user.open(str(tmp_path / "sides"))


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv"])
def test_a_pointer_in_the_place_of_a_file_is_named(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"my{ending}").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    with pytest.raises(UserError, match="is a pointer of git-lfs"):
        user.open(str(tmp_path / f"my{ending}")).problems("train")


def test_sides_may_differ_in_format(tmp_path: Path) -> None:
    WRITERS[".csv"]([{"prompt": "a"}], tmp_path / "train.csv")
    WRITERS[".parquet"]([{"prompt": "b"}], tmp_path / "test.parquet")
    assert [len(side) for side in opened(user.open(str(tmp_path)))] == [1, 1]
    task = user.open(str(tmp_path / "train.csv"), str(tmp_path / "test.parquet"))
    assert [len(side) for side in opened(task)] == [1, 1]


def test_a_saved_dict_of_data_sets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    train, test = ([{"prompt": f"{name}{i}", "n": i} for i in range(num)] for name, num in (("a", 5), ("b", 2)))
    sets = {"train": datasets.Dataset.from_list(train), "test": datasets.Dataset.from_list(test)}
    datasets.DatasetDict(sets | {"extra": sets["test"]}).save_to_disk(
        tmp_path / "both", num_shards={"train": 3, "test": 1, "extra": 1}
    )
    found = opened(user.open(str(tmp_path / "both")))
    assert [[p.columns["n"] for p in side] for side in found] == [[0, 1, 2, 3, 4], [0, 1]]
    assert [p.id for p in found[0]] == [f"user/train/{i}" for i in range(5)]  # whatever file a row is in
    # A selection of rows is saved as such, in its order.
    chosen = sets["train"].select([3, 1])
    chosen.save_to_disk(tmp_path / "chosen")
    task = user.open(str(tmp_path / "chosen"), str(tmp_path / "both" / "test"))
    assert [p.columns["n"] for p in task.problems("train")] == [3, 1]
    assert len(task.problems("test")) == 2
    datasets.DatasetDict({"validation": sets["test"]}).save_to_disk(tmp_path / "none")
    with pytest.raises(UserError, match="its data sets are validation; one must be called train or test"):
        user.open(str(tmp_path / "none"))


def test_a_bad_row_of_a_saved_folder_is_counted_over_its_files(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"prompt": ["a", "b", "c", None]}).save_to_disk(tmp_path / "mine", num_shards=2)
    with pytest.raises(UserError, match="mine row 4: needs either 'prompt'"):
        user.open(str(tmp_path / "mine")).problems("train")


def test_a_saved_folder_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    for text, says in {
        "{}": "names no data files",
        "[": "not JSON",
        '{"_data_files": [{"filename": "gone.arrow"}]}': "cannot read .*gone.arrow",
        '{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}': "selected by a file of indices",
    }.items():
        (tmp_path / "state.json").write_text(text)
        with pytest.raises(UserError, match=says):
            user.open(str(tmp_path)).problems("train")


def test_cells_of_csv_are_text_and_empty_ones_are_none(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b'\xef\xbb\xbfprompt,answer,id\r\n"2, ""3""\n?",007,1\r\n\r\nb,,\r\n')
    first, second = user.open(str(tmp_path)).problems("train")
    assert first.messages[0]["content"] == '2, "3"\n?'
    assert (first.truth, first.id) == ("007", "1")
    assert second.columns == {"prompt": "b", "answer": None, "id": None}
    assert (second.truth, second.id) == ("", "user/train/1")


def test_dates_and_decimals_of_parquet_have_a_truth_and_a_fingerprint(tmp_path: Path) -> None:
    from datetime import date
    from decimal import Decimal

    columns = {
        "prompt": ["a", "b"],
        "answer": [Decimal("1.50"), None],
        "truth": [None, None],
        "d": [date(2026, 1, 2)] * 2,
    }
    pa.parquet.write_table(pa.table(columns), tmp_path / "train.parquet")
    task = user.open(str(tmp_path))
    assert [p.truth for p in task.problems("train")] == ["1.50", ""]
    assert task.problems("train")[0].columns["d"] == date(2026, 1, 2)
    assert len(task.fingerprint()) == 64
