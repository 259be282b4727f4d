"""Every test of pipelines works in a folder of its own, with a cache of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from caches import with_kernels


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UPSLOPE_CACHE", str(with_kernels(tmp_path / "cache")))
    return tmp_path
