"""Files of attempts are read by the tools that people have."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import made_attempts

from upslope.record.attempts import STEP_SCHEMA, write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "step-000003.parquet"
    write(path, made_attempts(3, problems=40, samples=4, tokens=12, words="so"))  # three row groups
    return path


def test_pandas(file: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = pandas.read_parquet(file)
    assert list(rows.columns) == STEP_SCHEMA.names
    assert rows.groupby("problem")["reward"].mean()["p-again"] == 0.25
    assert len(rows["push"][0]) == len(rows["response_pieces"][0]) == 12
    assert rows["top_pieces"][0][0][1] == " other"


def test_polars(file: Path) -> None:
    polars = pytest.importorskip("polars", reason="needs polars")
    rows = polars.read_parquet(file)
    assert rows.columns == STEP_SCHEMA.names
    assert rows.filter(polars.col("problem") == "p-again")["reward"].mean() == 0.25
    assert rows["push"].list.len().to_list() == [12] * 160


def test_duckdb(file: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="needs duckdb")
    query = f"select avg(reward), min(len(push)), max(len(top_logp[1])) from '{file}' where problem = 'p-again'"
    assert duckdb.sql(query).fetchall() == [(0.25, 12, 2)]
    assert [row[0] for row in duckdb.sql(f"describe select * from '{file}'").fetchall()] == STEP_SCHEMA.names


def test_every_column_is_described() -> None:
    told = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text()
    assert [name for name in STEP_SCHEMA.names if f"`{name}`" not in told] == []
