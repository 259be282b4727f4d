"""Whoever else works on a run, and ends before its first step, is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from upslope.config import load_settings
from upslope.errors import UserError
from upslope.training.company import Nobody
from upslope.training.start import launch
from upslope.training.view import NullView


class Gone(Nobody):
    """One of them dies while the learners are built."""

    def task(self, task: Any) -> Any:
        raise RuntimeError("Connection closed by peer")

    def cause(self, error: BaseException) -> UserError | None:
        return UserError("learner 1 died: killed") if "Connection" in str(error) else None


def test_who_ends_before_the_first_step_is_named(tmp_path: Path) -> None:
    options = {"model": "pocket:blank", "out": str(tmp_path), "name": "a", "steps": 1, "eval.problems": 0}
    settings = load_settings(options=options)
    with pytest.raises(UserError, match=r"^learner 1 died: killed"):
        launch(settings, NullView, company=Gone())
