"""AdamW whose moments take one byte each (arXiv 2110.02861), by torchao.

Of torchao's moments this relies on what torch asks of every tensor that wraps others (``__tensor_flatten__``): that
they can be taken apart into plain tensors and put together again, which is how a checkpoint keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from upslope.errors import UserError
from upslope.learn.rule import ADAMW, Rule, adamw_options
from upslope.learn.settings import LearnSettings

BLOCK = 256
"""Numbers that share a scale."""
LEAST = 4096
"""A weight with fewer entries keeps moments in full, and so does one whose entries fill no whole number of blocks."""
_PARTS = ("codes", "scale", "qmap")


class EightBitRule(Rule):
    """Moves the masters by torchao's AdamW8bit. The moments of large weights are codes of one byte and a scale for
    every 256 of them; the step itself computes in float32."""

    def step(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate)
        try:
            self.optimizer.step()
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise UserError(
                f"learn.moments = '8bit': torchao compiles its step, and cannot here ({error.inner_exception}); set "
                "'full'"
            ) from None

    @property
    def moment_bytes(self) -> int:
        return sum(2 * (_bytes(m) if _is_large(m) else 4 * m.numel()) for m in self.masters.values())

    def names(self) -> set[str]:
        return {
            f"{each}/{name}"
            for name, master in self.masters.items()
            for key in self.kept
            for each in _keys(key, master)
        }

    def state(self) -> dict[str, Tensor]:
        """Moments and counts, flat; of a moment in eight bits its parts, as ``KEY:PART/NAME``."""
        found: dict[str, Tensor] = {}
        for name, master in self.masters.items():
            for key, value in self.optimizer.state.get(master, {}).items():
                found |= {f"{key}{part}/{name}": t.detach().cpu() for part, t in _parts(value).items()}
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, master in self.masters.items():
            self.optimizer.state[master] = {
                key: _joined([state[f"{each}/{name}"] for each in _keys(key, master)], key, master) for key in self.kept
            }


def eight_bit_rule(masters: Mapping[str, Tensor], settings: LearnSettings) -> EightBitRule:
    """Raises UserError where torchao is missing."""
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise UserError(f"learn.moments = '8bit' needs torchao ({error}): pip install torchao, or set 'full'") from None
    adamw = AdamW8bit(list(masters.values()), block_size=BLOCK, **adamw_options(settings))
    return EightBitRule(adamw, masters, ADAMW)


def is_in_eight_bits(key: str) -> bool:
    """Whether that name in a ``state`` is of a part of such a moment."""
    return ":" in key.partition("/")[0]


def _is_large(master: Tensor) -> bool:
    return master.numel() >= LEAST and master.numel() % BLOCK == 0


def _bytes(master: Tensor) -> int:
    return master.numel() + 4 * (master.numel() // BLOCK)


def _parts(value: Any) -> dict[str, Tensor]:
    """The plain tensors of a moment, by ``:PART``; one that is plain itself has no part's name."""
    if type(value) is Tensor:
        return {"": value}
    names, _ = value.__tensor_flatten__()
    return {f":{name}": getattr(value, name) for name in names}


def _keys(key: str, master: Tensor) -> list[str]:
    """What a ``state`` has of one of a master's moments, or of its count."""
    return [f"{key}:{part}" for part in _PARTS] if key != "step" and _is_large(master) else [key]


def _joined(parts: Sequence[Tensor], key: str, master: Tensor) -> Any:
    """A moment of its parts."""
    from torchao.optim.subclass_8bit import OptimState8bit

    if len(parts) == 1:
        return parts[0].to("cpu" if key == "step" else master.device, torch.float32, copy=True)
    held = {part: value.to(master.device, copy=True) for part, value in zip(_PARTS, parts, strict=True)}
    return OptimState8bit.__tensor_unflatten__(held, [key == "exp_avg", master.dtype])
