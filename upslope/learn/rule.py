"""One of torch's optimizers with the masters that it moves, and what a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from upslope.learn.settings import LearnSettings

ADAMW, MUON = ("step", "exp_avg", "exp_avg_sq"), ("momentum_buffer",)
"""What each keeps of a weight, by torch's names."""


def adamw_options(settings: LearnSettings) -> dict[str, Any]:
    """What every AdamW is told, by torch's names."""
    betas = (settings.beta1, settings.beta2)
    return {"lr": settings.lr or 0.0, "betas": betas, "eps": settings.eps, "weight_decay": settings.weight_decay}


@dataclass(frozen=True)
class Rule:
    """One of torch's optimizers with the masters that it moves."""

    optimizer: torch.optim.Optimizer
    masters: Mapping[str, Tensor]
    kept: tuple[str, ...]

    def step(self, rate: float) -> None:
        """Move the masters by their gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    @property
    def moment_bytes(self) -> int:
        """What the moments take; the counts are next to nothing."""
        num_moments = sum(key != "step" for key in self.kept)
        return num_moments * sum(master.numel() * master.element_size() for master in self.masters.values())

    def names(self) -> set[str]:
        """The names in ``state`` after a step."""
        return {f"{key}/{name}" for key in self.kept for name in self.masters}

    def state(self) -> dict[str, Tensor]:
        """Moments and counts, flat, as ``KEY/NAME``; nothing before the first step."""
        found = {}
        for name, master in self.masters.items():
            for key, value in self.optimizer.state.get(master, {}).items():
                found[f"{key}/{name}"] = torch.as_tensor(value).detach().cpu()
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take its own part of a saved ``state``."""
        for name, master in self.masters.items():
            # The count lies on the parameter's device too: the fused kernel reads it there.
            self.optimizer.state[master] = {
                key: state[f"{key}/{name}"].to(
                    master.device, torch.float32 if key == "step" else master.dtype, copy=True
                )
                for key in self.kept
            }
