"""Which rule moves which weight: AdamW all of them, or Muon the matrices inside the layers and AdamW the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from upslope.errors import UserError
from upslope.learn.muon import Muon
from upslope.learn.settings import LearnSettings
from upslope.model.adapter import has_adapter

ADAMW, MUON = ("step", "exp_avg", "exp_avg_sq"), ("momentum_buffer",)
"""What each keeps of a weight, by torch's names."""


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


def rules_of(model: Any, masters: Mapping[str, Tensor], settings: LearnSettings) -> list[Rule]:
    """The rules that move the model's masters, each of which belongs to one of them.

    Raises UserError for Muon on a model with an adapter, whose factors are no matrices of the model.
    """
    inside = matrices(model) if settings.optimizer == "muon" else frozenset()
    turned = {name: master for name, master in masters.items() if name in inside}
    rest = {name: master for name, master in masters.items() if name not in inside}
    rules = []
    if settings.optimizer == "muon":
        if has_adapter(model):
            raise UserError("learn.optimizer = 'muon' is not for a model with an adapter; set 'adamw'")
        if turned:
            muon = Muon(turned.values(), settings.lr or 0.0, settings.momentum, settings.weight_decay)
            rules.append(Rule(muon, turned, MUON))
    if rest:
        adamw = torch.optim.AdamW(
            list(rest.values()),
            lr=settings.lr or 0.0,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        rules.append(Rule(adamw, rest, ADAMW))
    return rules


def matrices(model: nn.Module) -> frozenset[str]:
    """The names of the two-dimensional parameters inside the layers: of modules that stand in a list, as the layers of
    every decoder of transformers do. Embeddings in there, as some architectures have, are none."""
    layers = [f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return frozenset(
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and id(parameter) not in tables and name.startswith(tuple(layers))
    )


def owner_of(state: Mapping[str, Tensor], masters: Mapping[str, Tensor]) -> str | None:
    """Which ``learn.optimizer`` left a ``state`` of just these weights; None: it is of others."""
    if {key.partition("/")[2] for key in state} != set(masters):
        return None
    return "muon" if any(key.startswith(f"{MUON[0]}/") for key in state) else "adamw"
