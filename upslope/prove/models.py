"""The policies whose every trajectory can be listed: a recurrent toy of a few dozen weights, and a real transformer
of a few hundred. Both are causal language models as ``Policy`` takes them, in float64."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from upslope.model.precision import widen_norms

END = 0
"""The token that ends a response."""


class Letters:
    """As much of a tokenizer as a policy that never sees text needs."""

    eos_token_id = END


class Weight(nn.Module):
    """A weight stored as phi and read as theta = A phi, with a fixed invertible A (the identity unless told): the
    same family of distributions in other coordinates."""

    mix: Tensor

    def __init__(self, num_rows: int, num_columns: int, generator: torch.Generator, *, mixed: bool) -> None:
        super().__init__()
        theta = torch.randn(num_rows, num_columns, dtype=torch.float64, generator=generator)
        other = torch.randn(num_rows, num_rows, dtype=torch.float64, generator=generator)
        eye = torch.eye(num_rows, dtype=torch.float64)
        self.register_buffer("mix", 2 * eye + other if mixed else eye)
        self.phi = nn.Parameter(torch.linalg.solve(self.mix, theta).contiguous())

    @property
    def theta(self) -> Tensor:
        return self.mix @ self.phi


class ToyBody(nn.Module):
    """h_s = tanh(W sum_{u <= s} 0.6^(s - u) E[x_u] + b): every token's state holds all tokens before it, through
    weights that all positions share."""

    def __init__(self, vocabulary: int, width: int, generator: torch.Generator, *, mixed: bool) -> None:
        super().__init__()
        self.embedding = Weight(vocabulary, width, generator, mixed=mixed)
        self.hidden = Weight(width, width, generator, mixed=mixed)
        self.bias = Weight(width, 1, generator, mixed=mixed)

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        distance_SS = torch.arange(input_ids.shape[1])[:, None] - torch.arange(input_ids.shape[1])
        decay_SS = torch.where(distance_SS >= 0, 0.6 ** distance_SS.double(), 0)
        context_NSD = decay_SS @ self.embedding.theta[input_ids]
        return SimpleNamespace(last_hidden_state=torch.tanh(context_NSD @ self.hidden.theta.T + self.bias.theta[:, 0]))


class Toy(nn.Module):
    """logits = U h, with transformers' calling convention. ``mixed`` stores the same weights in other coordinates."""

    def __init__(self, vocabulary: int = 3, width: int = 3, seed: int = 0, *, mixed: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.base_model = ToyBody(vocabulary, width, generator, mixed=mixed)
        self.head = Weight(vocabulary, width, generator, mixed=mixed)
        self.config = SimpleNamespace(hidden_size=width, vocab_size=vocabulary)
        self.generation_config = None

    def get_input_embeddings(self) -> SimpleNamespace:
        return SimpleNamespace(weight=self.base_model.embedding.theta)

    def get_output_embeddings(self) -> SimpleNamespace:
        return SimpleNamespace(weight=self.head.theta)

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        hidden_NSD = self.base_model(input_ids).last_hidden_state
        return SimpleNamespace(logits=hidden_NSD @ self.head.theta.T, hidden_states=(hidden_NSD,))


def transformer(vocabulary: int = 5, seed: int = 0) -> tuple[Any, Any]:
    """(model, twin): a Llama with one layer, grouped keys and wide initial weights, and a second one that holds the
    very same parameters; the twin keeps transformers' own attention when a policy gives the first another one."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        initializer_range=0.5,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=END,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(torch.float64)
    widen_norms(model)
    twin = copy.deepcopy(model).eval()
    tie(twin, model)
    return model, twin


def tie(twin: nn.Module, model: nn.Module) -> None:
    """Let ``twin`` compute with the parameters of ``model``, the same objects."""
    for theirs, own in zip(twin.modules(), model.modules(), strict=True):
        for name in theirs._parameters:
            theirs._parameters[name] = own._parameters[name]
