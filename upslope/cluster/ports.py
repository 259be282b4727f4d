"""A port for processes to meet at."""

from __future__ import annotations

import socket


def free_port(host: str = "127.0.0.1") -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as found:
        found.bind((host, 0))
        return int(found.getsockname()[1])
