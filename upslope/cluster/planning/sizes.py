"""How large a model is, by its config alone: no weight is loaded or drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from upslope.cluster.planning.run_file import settings_in
from upslope.errors import UserError
from upslope.model.hf import quiet_loading
from upslope.model.load import unloadable
from upslope.model.names import config_of_new, folder_and_best, is_new, is_pocket
from upslope.model.new import llama_config, resolved_new, tokenizer_for_new
from upslope.model.pocket import build_model
from upslope.model.products import num_in_products
from upslope.model.settings import NewModelSettings
from upslope.model.sound import require_sound
from upslope.training.pocket_start import pocket_stage


@dataclass(frozen=True)
class ModelSizes:
    """What memory and time depend on, in numbers (not bytes).

    >>> sizes_of("pocket").weights
    171776
    """

    weights: int
    """Tied ones once."""
    in_products: int
    """Weights that a token is multiplied with: all matrices, the head once, not the embedding's look-up."""
    layers: int
    hidden: int
    heads_width: int
    """Query heads times their width: what attention's products are proportional to."""
    cached: int
    """Keys and values of one token, over all layers: 2 x layers x heads of keys x their width."""
    vocabulary: int
    largest: int
    """Weights of the largest tensor."""
    layer: int
    """Weights of the largest layer."""
    outside: int
    """Weights outside the layers: embedding, head, the last norm."""

    @property
    def width(self) -> int:
        """Layers times hidden size: what a token's activations are proportional to."""
        return self.layers * self.hidden


def sizes_of(name: str, new: NewModelSettings | None = None) -> ModelSizes:
    """The sizes of a model by name: a directory, a config.json, a run folder, pocket, new:llama, new:DIR, a hub id.

    Raises UserError in one line for a name that means nothing, and for a config without heads or layers.
    """
    new = NewModelSettings() if new is None else new
    folder, _ = folder_and_best(name)
    if (folder / "run.toml").is_file():
        settings = settings_in(folder)
        return sizes_of(settings.model, settings.new)
    try:
        config = _config(name, new)
        require_sound(config)
        with quiet_loading(), torch.device("meta"):  # shapes alone
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        return _measured(model)
    except UserError:
        raise
    except Exception as error:  # what a strange configuration makes transformers raise is anything
        raise unloadable(name, error) from error


def _config(name: str, new: NewModelSettings) -> Any:
    resolved = resolved_new(name, new)
    if is_pocket(name):
        stage = name.partition(":")[2]
        if stage not in ("", "blank"):
            pocket_stage(stage)
        return build_model(0).config
    if is_new(name):
        if not config_of_new(name):
            return llama_config(resolved, tokenizer_for_new(new.tokenizer))
        name = config_of_new(name)
    if name.endswith(".json") and not Path(name).is_file():
        raise UserError(f"model {name!r}: there is no such file")
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise UserError(f"model {name!r}: the directory holds no config.json, so it is no Hugging Face model")
    if name.startswith((".", "/", "~")) and not Path(name).exists():
        raise UserError(f"model {name!r}: there is no such directory or run")
    with quiet_loading():
        return AutoConfig.from_pretrained(name, trust_remote_code=False)


def _measured(model: nn.Module) -> ModelSizes:
    """Counted tensor by tensor; a shared tensor is one."""
    whole: Any = model.config
    config = whole.get_text_config(decoder=True)
    weights = sum(p.numel() for p in model.parameters())
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    stack = max(stacks, key=_num_weights, default=nn.ModuleList())
    heads = config.num_attention_heads
    depth = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return ModelSizes(
        weights=weights,
        in_products=num_in_products(model),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads_width=heads * depth,
        cached=2 * config.num_hidden_layers * kv_heads * depth,
        vocabulary=config.vocab_size,
        largest=max(p.numel() for p in model.parameters()),
        layer=max(map(_num_weights, stack), default=0),
        outside=weights - _num_weights(stack),
    )


def _num_weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
