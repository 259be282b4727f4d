"""Which versions of what are running, and which ones upslope allows."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

RECORDED = ("upslope", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "peft", "datasets")
"""What a run's results can depend on."""


@dataclass(frozen=True)
class Wanted:
    """A package that upslope uses, as pyproject.toml has it.

    >>> Wanted("torch", SpecifierSet(">=2.6"), "", found="2.13.0+cpu").fits
    True
    """

    name: str
    range: SpecifierSet
    extra: str
    """The optional group it belongs to; empty: always needed."""
    found: str | None
    """The version that is installed."""

    @property
    def fits(self) -> bool:
        """Whether it is there in a version that is allowed."""
        return self.found is not None and within(self.found, self.range)


def within(found: str, allowed: SpecifierSet) -> bool:
    """Whether a version is allowed. A pre-release or a build of one's own counts as the release that it leads to; what
    stands behind the release's numbers is not looked at, be it a version's (PEP 440) or not.

    >>> within("2.6.0a0+nv24.10", SpecifierSet(">=2.6")), within("6.0.0rc1", SpecifierSet(">=5.0,<6"))
    (True, False)
    >>> within("3.13.1+", SpecifierSet(">=3.11"))
    True
    """
    release = re.match(r"\d+(\.\d+)*", found)
    return release is not None and allowed.contains(release[0])


def version_of(package: str) -> str | None:
    """The installed version; None if there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def running() -> dict[str, str]:
    """Python, and what is there of ``RECORDED``."""
    found = {name: version_of(name) for name in RECORDED}
    return {"python": platform.python_version()} | {name: v for name, v in found.items() if v is not None}


def wanted(extras: tuple[str, ...] = ("hub", "lora")) -> Iterator[Wanted]:
    """Every package that upslope asks for, the always needed ones first, then those of the optional groups."""
    asked = [Requirement(line) for line in metadata.requires("upslope") or ()]
    for extra in ("", *extras):
        for one in asked:
            mine = one.marker is None if not extra else one.marker is not None and one.marker.evaluate({"extra": extra})
            if mine and canonicalize_name(one.name) != "upslope":
                yield Wanted(one.name, one.specifier, extra, version_of(one.name))


def python_range() -> SpecifierSet:
    """The Pythons that upslope allows."""
    return SpecifierSet(str(metadata.metadata("upslope")["Requires-Python"]))
