"""What cards do at most, by their data sheets, and which share of it is assumed to be reached."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from upslope.errors import UserError, nearest


@dataclass(frozen=True)
class CardSheet:
    """One card, by its maker's data sheet."""

    name: str
    tflops: float
    """10^12 operations a second in products of dense bfloat16 matrices (no sparsity)."""
    memory_gb: float
    bandwidth: float
    """10^9 bytes a second, from the card's own memory."""
    link: float
    """10^9 bytes a second and direction to a card of the same machine."""
    source: str


CARDS = {
    card.name: card
    for card in (
        CardSheet("a100", 312, 80, 2039, 300, "NVIDIA A100 80GB SXM data sheet"),
        CardSheet("h100", 989, 80, 3350, 450, "NVIDIA H100 SXM data sheet (half of the rate with sparsity)"),
        CardSheet("h200", 989, 141, 4800, 450, "NVIDIA H200 SXM data sheet (half of the rate with sparsity)"),
        CardSheet("l40s", 362, 48, 864, 32, "NVIDIA L40S data sheet; PCIe 4.0 x16"),
        CardSheet("rtx4090", 165, 24, 1008, 32, "NVIDIA Ada architecture paper; PCIe 4.0 x16"),
        CardSheet("mi300x", 1307, 192, 5300, 64, "AMD MI300X data sheet; one link of seven"),
    )
}


@dataclass(frozen=True)
class AssumedShares:
    """What nobody measured yet: which share of a data sheet's rate is reached, and the network between machines."""

    learn: float = 0.4
    """Of the products' rate, in learning."""
    sample: float = 0.5
    """Of the products' rate, where many attempts are decoded together, and of prompts."""
    bandwidth: float = 0.6
    """Of the memory's rate, in decoding."""
    network: float = 50.0
    """10^9 bytes a second and direction between machines, for each card (400 Gbit/s)."""


def card_of(
    name: str, *, tflops: float | None = None, memory_gb: float | None = None, bandwidth: float | None = None
) -> CardSheet:
    """A card by name with what the user knows better. Raises UserError for an unknown one."""
    if name not in CARDS:
        raise UserError(
            f"card {name!r} is not known{nearest(name, CARDS)}; or give a known one and its rates as options"
        )
    given = {"tflops": tflops, "memory_gb": memory_gb, "bandwidth": bandwidth}
    known: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    return replace(CARDS[name], **known)
