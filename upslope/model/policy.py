"""The policy: a transformers causal language model, and how likely it finds given tokens."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from upslope.errors import UserError
from upslope.model import attention
from upslope.model.budgets import Budgets
from upslope.model.distribution import adjusted, chosen, entropy
from upslope.model.fast import FastTrunk
from upslope.model.fast_trunks import Admit, measured
from upslope.model.gauge import gauge_of
from upslope.model.hf import (
    attention_in_use,
    quiet_loading,
    recompute_layers,
    system_errors,
    text_config,
    use_attention,
)
from upslope.model.layout import HasTokens, Layout, lay_out
from upslope.model.renderer import ChatRenderer, Renderer
from upslope.model.states import States
from upslope.model.trunk import head_stands_apart, trunk_of
from upslope.types import Sampling

_TOKENIZERS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Of every model that became a policy in this process, as long as it lives."""


def tokenizer_of(model: Any) -> Any | None:
    """The tokenizer with which a model was trained, evaluated or sampled from before; None if it never was."""
    return _TOKENIZERS.get(model)


def max_positions(model: Any) -> int:
    """The longest prompt plus response a model was made for; unbounded if its config gives none."""
    return int(getattr(text_config(model), "max_position_embeddings", None) or sys.maxsize)


class Policy:
    """A model, its tokenizer, and the renderer between tokens and text. The weights here are the ones that compute;
    masters, if any, are the optimizer's."""

    def __init__(self, model: Any, tokenizer: Any, renderer: Renderer | None = None) -> None:
        """``renderer`` None: by the tokenizer's chat template. Raises UserError if the tokenizer has no end token."""
        self.model = model.eval()  # no dropout: the sampler and the learner must be one distribution
        self.tokenizer = tokenizer
        _TOKENIZERS[model] = tokenizer
        self.renderer = renderer or ChatRenderer.of(tokenizer, model.generation_config)
        if max(self.renderer.end_ids) >= self.vocabulary:
            raise UserError(
                f"the model's eos_token_id {max(self.renderer.end_ids)} is outside its vocabulary of "
                f"{self.vocabulary}; mend its generation_config.json or config.json"
            )
        self.budgets = Budgets(gauge_of(self.device))
        """How much is computed at once, for everything that computes with this policy."""
        self.packs = attention.admit(model)
        probes = [attention.probe(p, r, self.vocabulary) for p, r in ((3, 2), (2, 1))]
        self.apart = head_stands_apart(model, lambda part: self._run(part, probes, every=True)[1])
        self.checkpointing = self.native = False
        self.computes_in: torch.dtype | None = None
        """Where that is not what the parameters are kept in."""
        self._admit = self._measured() if self.packs and self.apart else None
        self.native = self._admit is not None

    def release(self) -> None:
        """Give the model back its own attention, with which it can be called and generate like any other."""
        attention.release(self.model)

    @contextlib.contextmanager
    def as_any_other(self) -> Iterator[Any]:
        """The model to be called the ordinary way for a while, with its own attention."""
        chosen = attention_in_use(self.model)
        self.release()
        try:
            yield self.model
        finally:
            use_attention(self.model, chosen)

    def checkpoint_activations(self) -> None:
        """From now on keep only each layer's input for the backward pass. Raises UserError if the model cannot."""
        recompute_layers(self.model)
        self.checkpointing = True

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def max_positions(self) -> int:
        """The longest prompt plus response the model was made for; unbounded if its config gives none."""
        return max_positions(self.model)

    @property
    def cache_bytes(self) -> int:
        """Bytes that the keys and values of one token take, over all layers."""
        config = text_config(self.model)
        all_heads = getattr(config, "num_attention_heads", 1)
        heads = getattr(config, "num_key_value_heads", None) or all_heads
        depth = getattr(config, "head_dim", None) or config.hidden_size // all_heads
        size = next(self.model.parameters()).element_size()
        return int(2 * config.num_hidden_layers * heads * depth * size)

    @property
    def width(self) -> int:
        """Layers times hidden size: what the activations of one token are proportional to."""
        config = text_config(self.model)
        return int(self.num_layers * getattr(config, "hidden_size", 1))

    @property
    def num_layers(self) -> int:
        return int(getattr(text_config(self.model), "num_hidden_layers", 1))

    @property
    def vocabulary(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[0])

    def weights(self) -> Mapping[str, Tensor]:
        """The compute weights by name; references, not copies."""
        return dict(self.model.named_parameters())

    @torch.no_grad()
    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Compute with these from now on, by name; those that are its own already are not copied."""
        own = self.weights()
        for name, tensor in weights.items():
            if tensor.data_ptr() != own[name].data_ptr():
                own[name].copy_(tensor)

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """An ordinary Hugging Face directory; ``weights`` by parameter name stand in for the compute ones. Its
        generation_config.json names every token that ends a response, the chat template's too: whoever opens it stops
        where this policy does."""
        compute = {name: parameter.data for name, parameter in self.model.named_parameters()}
        generation = self.model.generation_config
        listed = generation.eos_token_id
        try:
            if set(self.end_ids) - {*(listed if isinstance(listed, list) else [listed])}:
                generation.eos_token_id = list(self.end_ids)
            for name, parameter in self.model.named_parameters():
                parameter.data = (weights or {}).get(name, parameter.data)
            with quiet_loading(), system_errors(folder):
                self.model.save_pretrained(folder)
                if not (folder / GENERATION_CONFIG_NAME).exists():  # an adapter is saved without
                    ids = {name: getattr(generation, name) for name in ("bos_token_id", "pad_token_id", "eos_token_id")}
                    GenerationConfig(**ids).save_pretrained(folder)
        finally:
            generation.eos_token_id = listed
            for name, parameter in self.model.named_parameters():
                parameter.data = compute[name]
        with system_errors(folder):
            self.tokenizer.save_pretrained(folder)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Every token that ends a response."""
        return self.renderer.end_ids

    @property
    def end_tensor(self) -> Tensor:
        """The end tokens, on the model's device."""
        return torch.tensor(self.end_ids, device=self.device)

    def states(self, rollouts: Sequence[HasTokens]) -> States:
        """Where the model stands before each chosen token of the rollouts, with gradient: one pass of the trunk."""
        if self.apart:
            return States.of(*self.hidden(trunk_of(self.model), rollouts))
        layout, out = self._run(self.model, rollouts, output_hidden_states=True)
        hidden_RD = self._at_tokens(out.hidden_states[-1], rollouts, layout)
        return States.of(layout, hidden_RD, self._logits(out, rollouts, layout))

    def hidden(self, trunk: Any, rollouts: Sequence[HasTokens]) -> tuple[Layout, Tensor]:
        """Last hidden states of the trunk, or of a copy of it, before each chosen token, [R, D]."""
        fast = self._fast(trunk)
        if fast is not None:
            layout = self._laid_out(rollouts)
            return layout, fast.states(layout, checkpointing=self.checkpointing)
        layout, out = self._run(trunk, rollouts, every=True)
        return layout, self._at_tokens(out.last_hidden_state, rollouts, layout)

    def head(self, source_CX: Tensor) -> Tensor:
        """Logits [C, V] of a piece of ``States.source_RX``, in memory of their own."""
        return self.model.get_output_embeddings()(source_CX) if self.apart else source_CX.clone()

    @property
    def fast_trunk(self) -> FastTrunk | None:
        """The fast trunk that was measured, where the model as it is now can run on it."""
        return self._fast(trunk_of(self.model))

    def _fast(self, body: Any) -> FastTrunk | None:
        return self._admit(body) if self.native and self._admit is not None else None

    @torch.no_grad()
    def _measured(self) -> Admit | None:
        """The fast trunk that computes what the model does: measured, not believed. A model that none applies to as it
        is now (float64, an adapter) keeps to the other path even if it is changed later."""
        rollouts = [attention.probe(p, r, self.vocabulary) for p, r in ((5, 3), (5, 4), (2, 1))]
        layout, body = self._laid_out(rollouts), trunk_of(self.model)
        return measured(body, lambda fast: fast.states(layout), lambda: self.hidden(body, rollouts)[1])

    def _laid_out(self, rollouts: Sequence[HasTokens]) -> Layout:
        return lay_out(rollouts, self.device, share_prompts=self.packs)

    def _run(
        self, module: Any, rollouts: Sequence[HasTokens], *, every: bool = False, **more: Any
    ) -> tuple[Layout, Any]:
        """Call the model, or a part of it, on the rollouts' tokens; ``every``: with outputs at every position."""
        layout = self._laid_out(rollouts)
        call = layout.call() if self.packs else plain_call(rollouts, self.end_ids[0], self.device)
        with attention.planned(layout):
            return layout, module(**(trunk_only(call) if every else call), **more)

    def _logits(self, out: Any, rollouts: Sequence[HasTokens], layout: Layout) -> Tensor:
        """[R, V], of a call's output; a packed call has computed no others."""
        return out.logits[0] if self.packs else self._at_tokens(out.logits, rollouts, layout)

    def _at_tokens(self, out_NSX: Tensor, rollouts: Sequence[HasTokens], layout: Layout) -> Tensor:
        """[R, X]: outputs at every position, picked where they predict the chosen tokens."""
        if self.packs:
            return out_NSX[0][layout.predictor_R]
        return before_tokens(out_NSX, rollouts)[layout.row_R, layout.column_R]

    def distributions(self, rollouts: Sequence[HasTokens], sampling: Sampling) -> TokenDistributions:
        """The model's whole distribution before each chosen token of the rollouts, with gradient as often as wanted.

        The given ids are scored, at the given temperature and with the same ban on early ends; top-k and top-p must be
        off (``scorable``). Where the chosen tokens' scores are enough, ``states`` and ``token_scores`` hold far less.
        """
        layout, out = self._run(self.model, rollouts)
        logits_RV = self._logits(out, rollouts, layout)
        logits_RV = adjusted(logits_RV, layout.column_R, sampling, self.end_tensor)
        return TokenDistributions(layout, logits_RV.log_softmax(dim=1))

    def score(self, rollouts: Sequence[HasTokens], sampling: Sampling, num_columns: int) -> tuple[Tensor, Tensor]:
        """(logp_NT, entropy_NT) of the rollouts' own tokens under the sampling distribution; T = ``num_columns``.

        logp carries the gradient, entropy does not; both are 0 where the mask is False.
        """
        found = self.distributions(rollouts, sampling)
        with torch.no_grad():
            entropy_R = entropy(found.logp_RV)
        shape = (len(rollouts), num_columns)
        return found.rectangle(found.logp_R, shape), found.rectangle(entropy_R, shape)


@dataclass(frozen=True)
class TokenDistributions:
    """A model's distribution before each of R chosen tokens, and where these stand."""

    layout: Layout
    logp_RV: Tensor
    """log pi(v | state) for every token v of the vocabulary; -inf for a banned one."""

    @property
    def logp_R(self) -> Tensor:
        """Of the token that was chosen."""
        return chosen(self.logp_RV, self.layout.target_R)

    def rectangle(self, value_R: Tensor, shape: tuple[int, int]) -> Tensor:
        """Values of chosen tokens at their places in an NT rectangle of zeros."""
        return value_R.new_zeros(shape).index_put((self.layout.row_R, self.layout.column_R), value_R)


def plain_call(rollouts: Sequence[HasTokens], padding: int, device: torch.device) -> dict[str, Any]:
    """Arguments for any transformers model, the ordinary way: rows padded on the right, with attention mask."""
    rows = [list(r.prompt) + list(r.response[:-1]) for r in rollouts]
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([r + [padding] * (width - len(r)) for r in rows], device=device),
        "attention_mask": torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows], device=device),
        "use_cache": False,
    }


def trunk_only(call: dict[str, Any]) -> dict[str, Any]:
    """The same call without what concerns the head, for outputs at every position."""
    return {name: value for name, value in call.items() if name != "logits_to_keep"}


def before_tokens(out_NSX: Tensor, rollouts: Sequence[HasTokens]) -> Tensor:
    """[N, T, X] before each response token, of a plain call's outputs [N, S, X] at every position."""
    num_columns = max(len(r.response) for r in rollouts)
    first_N1 = torch.tensor([len(r.prompt) - 1 for r in rollouts], device=out_NSX.device)[:, None]
    index_NT = (first_N1 + torch.arange(num_columns, device=out_NSX.device)).clamp(max=out_NSX.shape[1] - 1)
    return torch.take_along_dim(out_NSX, index_NT[:, :, None], dim=1)
