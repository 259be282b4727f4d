"""A model as an ordinary Hugging Face directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from upslope.model.hf import quiet_loading, system_errors


def save_model(model: Any, folder: Path, weights: Mapping[str, Tensor], end_ids: Sequence[int]) -> None:
    """Write the model; ``weights`` by parameter name stand in for its own, and its generation_config.json names all of
    ``end_ids``. The model is afterwards what it was."""
    compute = {name: parameter.data for name, parameter in model.named_parameters()}
    generation = model.generation_config
    listed = generation.eos_token_id
    try:
        if set(end_ids) - {*(listed if isinstance(listed, list) else [listed])}:
            generation.eos_token_id = list(end_ids)
        for name, parameter in model.named_parameters():
            parameter.data = weights.get(name, parameter.data)
        with quiet_loading(), system_errors(folder):
            model.save_pretrained(folder)
            if not (folder / GENERATION_CONFIG_NAME).exists():  # an adapter is saved without
                ids = {name: getattr(generation, name) for name in ("bos_token_id", "pad_token_id", "eos_token_id")}
                GenerationConfig(**ids).save_pretrained(folder)
    finally:
        generation.eos_token_id = listed
        for name, parameter in model.named_parameters():
            parameter.data = compute[name]
