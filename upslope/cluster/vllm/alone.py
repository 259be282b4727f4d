"""A run beside a vLLM server and nobody else: no process of it is Ray's, so Ray need not be there. A ``Company``."""

from __future__ import annotations

import contextlib

from upslope.cluster.vllm.engine import vllm_of_run
from upslope.cluster.vllm.sampler import VllmSampler
from upslope.learn.learner import Learner
from upslope.training.company import Nobody
from upslope.training.run import Run


class VllmAlone(Nobody):
    """This process learns and scores, and the server writes the attempts."""

    def __init__(self, held: contextlib.ExitStack) -> None:
        """``held`` ends the server."""
        super().__init__()
        self._held = held

    def sampler(self, learner: Learner) -> VllmSampler:
        self._vllm = vllm_of_run(self._run, self._folder, learner.policy, self._say, self._held)
        return self._vllm

    def join(self, run: Run) -> None:
        run.told = lambda: self._vllm.handed_over[-1].row()  # of the newest weights, for a step's line in the journal
