"""Whoever works on a run: one process, or those that its settings ask for."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator

from upslope.errors import UserError
from upslope.training.cluster_settings import ClusterSettings
from upslope.training.company import Company

OF_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed",
}
"""No word to Ray's makers; processes that are no less important than the one that waits for them (Ray: nice 15); the
visible GPUs as they are; no paragraph about a process that ended, of which the run says a line. Read when Ray is
imported."""


@contextlib.contextmanager
def company_of(settings: ClusterSettings) -> Iterator[Company | None]:
    """The processes of a run with these settings, ended when the block is left; None: there is but the one that asks.
    Raises UserError where Ray is wanted and not installed."""
    if not settings.used:
        yield None
        return
    if settings.engine == "vllm" and not settings.rewards and settings.ranks == 1:
        from upslope.cluster.vllm.alone import VllmAlone

        with contextlib.ExitStack() as held:
            yield VllmAlone(held)
        return
    if importlib.util.find_spec("ray") is None:
        raise UserError("the settings of [cluster] need Ray, which is not installed: pip install 'upslope[ray]'")
    for name, value in OF_RAY.items():
        os.environ.setdefault(name, value)
    from upslope.cluster.processes import Processes

    with contextlib.ExitStack() as held:
        yield Processes(settings, held)
