"""Which rule moves which weight: AdamW all of them, or Muon the matrices inside the layers and AdamW the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from upslope.errors import UserError
from upslope.learn.eight_bits import eight_bit_rule, is_in_eight_bits
from upslope.learn.muon import Muon
from upslope.learn.rule import ADAMW, MUON, Rule, adamw_options
from upslope.learn.settings import LearnSettings
from upslope.model.adapter import has_adapter


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
    if rest and settings.moments == "8bit":
        rules.append(eight_bit_rule(rest, settings))
    elif rest:
        adamw = torch.optim.AdamW(list(rest.values()), fused=True, **adamw_options(settings))
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


def owner_of(state: Mapping[str, Tensor], masters: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Which ``learn.optimizer`` and ``learn.moments`` left a ``state`` of just these weights; None: it is of others."""
    if {key.partition("/")[2] for key in state} != set(masters):
        return None
    optimizer = "muon" if any(key.startswith(f"{MUON[0]}/") for key in state) else "adamw"
    return optimizer, "8bit" if any(map(is_in_eight_bits, state)) else "full"
