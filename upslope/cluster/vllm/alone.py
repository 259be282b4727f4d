"""A run beside a vLLM server and nobody else: no process of it is Ray's, so Ray need not be there. A ``Company``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from upslope.algo.recipe import Recipe
from upslope.cluster.vllm.engine import NOT_BY_ADDRESS, vllm_sampler
from upslope.cluster.vllm.sampler import VllmSampler
from upslope.learn.learner import Learner
from upslope.rollout.base import Sampler
from upslope.training.company import Nobody
from upslope.training.run import Run
from upslope.training.settings import RunSettings


class VllmAlone(Nobody):
    """This process learns and scores, and the server writes the attempts."""

    def __init__(self, held: contextlib.ExitStack) -> None:
        """``held`` ends the server."""
        super().__init__()
        self._held = held
        self._vllm: VllmSampler | None = None

    def begin(
        self,
        model: Any,
        tokenizer: Any,
        recipe: Recipe,
        settings: RunSettings,
        say: Callable[[str], None],
        folder: Path | None,
    ) -> None:
        super().begin(model, tokenizer, recipe, settings, say, folder)
        self._run, self._say, self._folder = settings, say, folder

    def sampler(self, learner: Learner) -> Sampler:
        make = self._held.enter_context(vllm_sampler(self._run, self._folder))
        self._say(NOT_BY_ADDRESS)
        self._vllm = make(learner.policy)
        return self._vllm

    def join(self, run: Run) -> None:
        run.told = self._told

    def _told(self) -> dict[str, Any]:
        """For a step's line in the journal: how the newest weights were handed over."""
        assert self._vllm is not None, "the sampler is made before the first step"
        return self._vllm.handed_over[-1].row()
