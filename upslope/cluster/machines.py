"""The machines of a Ray cluster, as Ray's own table of them says."""

from __future__ import annotations

from typing import Any

import ray


def own_machine() -> str:
    """The name by which that table knows the machine of this process."""
    return str(ray.get_runtime_context().get_node_id())


def lost_machines() -> frozenset[str]:
    """Those that were there and are no more. Ray asks each for a sign of life too, and gives one up after a minute; one
    whose connection breaks at once."""
    table: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return frozenset(str(row["NodeID"]) for row in table if not row["Alive"])
