"""How much is computed at once: fixed amounts on a CPU, shares of a device's free memory elsewhere, and half of what
was too much after it ran out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from upslope.errors import UserError
from upslope.model.gauge import Gauge, out_of_memory

T = TypeVar("T")
LOGIT_BYTES = 16
"""Of one logit at work: in float32, its exponential, its log-probability and its gradient."""
CAPS = ("micro_tokens", "micro_rows", "logits", "sampled_rows")
"""What running out of memory bounds for the rest of a run."""


@dataclass(frozen=True)
class MemoryShares:
    """Of the memory that a device has free; 0: the fixed amount that a CPU has."""

    activations: float = 0.5
    """Of what is free beside weights, gradients and moments: for the activations of one micro-batch."""
    logits: float = 0.1
    """Likewise: for the logits that are held at once."""
    cache: float = 0.7
    """Of what is free when sampling begins: for keys and values."""


@dataclass
class AtWork:
    """The largest micro-batch since the work began."""

    rows: int = 0
    tokens: int = 0
    logits: int = 0


class Budgets:
    """Of one model on one device. Everything that computes with the model asks here, so what was learnt from running
    out of memory holds for all of it. No result depends on it but for rounding: denominators are fixed before."""

    def __init__(self, gauge: Gauge | None = None, shares: MemoryShares | None = None) -> None:
        self.gauge, self.shares = gauge, shares or MemoryShares()
        self.caps: dict[str, int] = {}
        """What was halved, by name (``CAPS``), as a checkpoint keeps it."""
        self.say: Callable[[str], None] = lambda line: warnings.warn(line, stacklevel=2)
        """Told of every halving, in a line."""
        self.at_work = AtWork()
        self._room: int | None = None
        self._handed_out = 0

    # -- how much -----------------------------------------------------------------------------------------------

    def measure(self, owed: int = 0) -> None:
        """Look once how much room there is to learn in: what is free, less what is ``owed`` to gradients and moments
        that are not there yet. Without this, what is free when it is first asked."""
        self._room = None if self.gauge is None else max(0, self.gauge.free() - owed)

    def activation_bytes(self, fixed: int) -> int:
        """Bytes for the activations of one micro-batch."""
        return self._share(self.shares.activations, fixed)

    def logits(self, fixed: int) -> int:
        """Logits (entries) that may be held at once."""
        found = self._share(self.shares.logits, fixed * LOGIT_BYTES) // LOGIT_BYTES
        self._handed_out = self.bounded("logits", max(1, found))
        return self._handed_out

    def cache_bytes(self, fixed: int) -> int:
        """Bytes for keys and values, and for the logits of the rows that they belong to."""
        if self.gauge is None or not self.shares.cache:
            return fixed
        return int(self.shares.cache * self.gauge.free())

    def measured(self, share: float) -> bool:
        """Whether an amount of that share comes from the device."""
        return self.gauge is not None and share > 0

    def _share(self, share: float, fixed: int) -> int:
        if self.gauge is None or not share:
            return fixed
        if self._room is None:
            self.measure()
        return int(share * (self._room or 0))

    def bounded(self, cap: str, amount: int) -> int:
        """The amount, or what was found to be the most."""
        return min(amount, self.caps.get(cap, amount))

    # -- out of memory ------------------------------------------------------------------------------------------

    def begin(self, rows: int, tokens: int, logits: int) -> None:
        """A micro-batch of that size is about to be computed."""
        mine = self.at_work
        self.at_work = AtWork(max(mine.rows, rows), max(mine.tokens, tokens), max(mine.logits, logits))

    def learning(self, work: Callable[[], T]) -> T:
        """What ``work`` returns, which goes through micro-batches and can be done again. If memory runs out on the way,
        micro-batches hold at most half from then on, and the work begins anew. Raises UserError where one row alone was
        too much."""
        while True:
            self.at_work = AtWork()
            try:
                return work()
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            self.answer(self._halve_learning())  # here the failed work's own tensors are gone with its frames

    def answer(self, line: str) -> None:
        """Room is made for another try; ``line`` says what will be smaller in it."""
        if self.gauge is not None:
            self.gauge.give_back()
        self.say(line)

    def _halve_learning(self) -> str:
        rows, tokens = self.at_work.rows, self.at_work.tokens
        logits = min(self.at_work.logits, self._handed_out or self.at_work.logits)
        if rows <= 1:
            raise UserError(
                f"out of memory while learning from one row of {tokens:,} tokens: set learn.checkpoint_activations=true"
                " or lower sample.max_tokens; learn.lora_rank and a smaller model need less beside"
            )
        self.caps |= {"micro_tokens": max(1, tokens // 2), "micro_rows": rows // 2, "logits": max(1, logits // 2)}
        return (
            f"out of memory while learning from {rows} rows of {tokens:,} tokens at once: from now on at most half as "
            "many; the update begins anew"
        )

    def halve_rows(self, rows: int) -> str:
        """As many attempts at once were too many. Raises UserError if it was one."""
        if rows <= 1:
            raise UserError(
                "out of memory while sampling one attempt: lower sample.max_tokens, or take a smaller model"
            )
        self.caps |= {"sampled_rows": rows // 2}
        return f"out of memory while sampling {rows} attempts at once: from now on at most {rows // 2}"

    def remember(self, caps: Mapping[str, int]) -> None:
        """Go on with what another process found, or this one before it was stopped."""
        self.caps = {name: int(caps[name]) for name in CAPS if name in caps}
