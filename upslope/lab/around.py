"""A sampler around another one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from upslope.rollout.base import Sampler


class AroundSampler:
    """Passes on all but ``generate``, which is what those differ in that are put around a sampler."""

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner

    @property
    def listens(self) -> bool:
        return self._inner.listens

    @property
    def takes_more(self) -> bool:
        """Not through whatever stands here: turns come in rounds."""
        return False

    @property
    def version(self) -> int:
        return self._inner.version

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        self._inner.load(weights, version)
