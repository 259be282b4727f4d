"""A cache of a test's own in which nothing is kept but the compiled kernels, which take seconds to make."""

from __future__ import annotations

from pathlib import Path

from upslope.native.places import cache_folder

KERNELS = "native"


def with_kernels(place: Path) -> Path:
    """``place``, made, with the kernels of the cache that is in use."""
    kernels = cache_folder() / KERNELS
    kernels.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.mkdir()
    (place / KERNELS).symlink_to(kernels.resolve())
    return place
