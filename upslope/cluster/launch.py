"""Whoever works on a run: one process, or those that its settings ask for."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

from upslope.errors import UserError
from upslope.training.cluster_settings import ClusterSettings
from upslope.training.company import Company


@contextlib.contextmanager
def company_of(settings: ClusterSettings) -> Iterator[Company | None]:
    """The processes of a run with these settings, ended when the block is left; None: there is but the one that asks.
    Raises UserError where Ray is wanted and not installed."""
    if not settings.used:
        yield None
        return
    if importlib.util.find_spec("ray") is None:
        raise UserError("the settings of [cluster] need Ray, which is not installed: pip install 'upslope[ray]'")
    from upslope.cluster.processes import Processes

    with contextlib.ExitStack() as held:
        yield Processes(settings, held)
