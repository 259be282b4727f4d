"""The script for a GPU, rehearsed on the CPU with a little model: every stage runs, and its file says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_the_rehearsal_is_sound(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--small", "--minutes", "30", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    found = json.loads(out.read_text())
    failed = [what for kind, what in found["verdicts"] if kind == "FAIL"]
    assert (done.returncode, failed) == (0, []), found.get("tracebacks", done.stderr[-2000:])
    assert {"sampling", "learning", "step", "slowest_sampling", "slowest_learning", "generate_s"} <= found.keys()
    assert {"sampling_without_s", "learning_without_s"} <= found.keys()
    assert found["pocket"]["steps"] == 2
    passed = [what for kind, what in found["verdicts"] if kind == "PASS"]
    assert len(passed) >= 15


def test_what_raises_is_a_verdict_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu

    report = gpu.Report(tmp_path / "gpu.json", minutes=1)
    with report.stage("first"):
        raise ValueError("a planted defect\nin two lines")
    with report.stage("second") as go:
        assert go
        report.check("a gap", 0.5, 0.25)
        report.check("another", 0.25, 0.25)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["verdicts"] == [
        ["FAIL", "first: ValueError: a planted defect"],
        ["FAIL", "a gap: 0.5 (at most 0.25)"],
        ["PASS", "another: 0.25 (at most 0.25)"],
    ]
    assert "ValueError" in found["tracebacks"]["first"]
    assert report.failed
    late = gpu.Report(tmp_path / "late.json", minutes=0)
    with late.stage("third") as go:
        assert not go
