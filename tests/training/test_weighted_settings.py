"""Weights that undo the draw of problems, beside settings that undo the weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from upslope.algo.family import GRPO
from upslope.algo.learnable import Learnable
from upslope.config import load_settings
from upslope.errors import UserError
from upslope.tasks.pocket_problems import open_pocket
from upslope.training.conveniences import check_conveniences


def test_attempts_that_nobody_counts_are_not_for_weights() -> None:
    masked = load_settings(None, ["task.name=pocket", "task.reward_timeout=1", "task.on_timeout=mask"])
    drawn = GRPO.patch(sample=Learnable(weighted=True))
    with pytest.raises(UserError, match="on_timeout = 'mask' divides by how many attempts are left"):
        check_conveniences(masked, drawn, open_pocket())
    check_conveniences(masked, GRPO.patch(sample=Learnable()), open_pocket())
    stops = replace(masked, task=replace(masked.task, on_timeout="stop"))
    check_conveniences(stops, drawn, open_pocket())
