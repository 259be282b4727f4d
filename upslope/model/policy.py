"""The policy: a transformers causal language model, and how likely it finds given tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from upslope.errors import UserError
from upslope.model import admission, attention
from upslope.model.admission import PlainWay
from upslope.model.budgets import Budgets
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.decoder import AloneDecoder, SharedPromptDecoder
from upslope.model.distribution import TokenDistributions, adjusted, entropy
from upslope.model.fast import Decoder, FastTrunk
from upslope.model.fast_trunks import Admit, measured
from upslope.model.gauge import gauge_of
from upslope.model.hf import (
    accepted,
    cache_bytes,
    max_positions,
    recompute_layers,
    system_errors,
    text_config,
)
from upslope.model.known import NeverDrawn, outgrown, unknown_ids
from upslope.model.layout import HasTokens, Layout, lay_out, pieces_of
from upslope.model.lengths import LengthPiece, pieces, scored_in, turn_of, turns
from upslope.model.plain import before_tokens, plain_call, trunk_only
from upslope.model.probing import probe
from upslope.model.renderer import Renderer
from upslope.model.saved import save_model
from upslope.model.states import States
from upslope.model.trunk import head_stands_apart, trunk_of
from upslope.types import Sampling

_TOKENIZERS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Of every model that became a policy in this process, as long as it lives."""


PLAIN_WAY = PlainWay(side_by_side=True, keeps="all rows")
"""Of a packed model, where somebody wants it."""


def tokenizer_of(model: Any) -> Any | None:
    """The tokenizer with which a model was trained, evaluated or sampled from before; None if it never was."""
    return _TOKENIZERS.get(model)


def num_embedded(model: Any) -> int:
    """How many tokens the model can read."""
    return int(model.get_input_embeddings().weight.shape[0])


def admitted(model: Any) -> tuple[bool, PlainWay]:
    """Whether prompts are packed, and how the model runs where they are not. Raises UserError if it cannot run."""
    packs = admission.admit(model.eval())  # no dropout: the sampler and the learner must be one distribution
    return packs, PLAIN_WAY if packs else admission.plain_way(model)


class Policy:
    """A model, its tokenizer, and the renderer between tokens and text. The weights here are the ones that compute;
    masters, if any, are the optimizer's."""

    def __init__(self, model: Any, tokenizer: Any, renderer: Renderer | None = None) -> None:
        """``renderer`` None: by the tokenizer's chat template. Raises UserError if the tokenizer has no end token."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        _TOKENIZERS[model] = tokenizer
        self.renderer = renderer or ChatRenderer.of(tokenizer, model.generation_config, num_embedded(model))
        if max(self.renderer.end_ids) >= self.vocabulary:
            raise UserError(
                f"the model's eos_token_id {max(self.renderer.end_ids)} is outside its vocabulary of "
                f"{self.vocabulary}; mend its generation_config.json or config.json"
            )
        self.budgets = Budgets(gauge_of(self.device))
        """How much is computed at once, for everything that computes with this policy."""
        self.never = NeverDrawn(unknown_ids(tokenizer, self.vocabulary, self.end_ids), self.vocabulary)
        self.turns = turns(model)
        self.packs, self.plain = admitted(model)
        probes = [probe(p, r, model) for p, r in ((3, 2), (2, 1))[: 2 if self.plain.side_by_side else 1]]
        self.apart = head_stands_apart(model, lambda part: self._called(part, probes, every=True)[1])
        self.checkpointing = self.native = False
        self.computes_in: torch.dtype | None = None
        """Where that is not what the parameters are kept in."""
        self._admit = self._measured() if self.packs and self.apart else None
        self.native = self._admit is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever watches should know of how the model is run, in lines: slower ways, and unreadable tokens."""
        slower = "" if self.native or not self.packs else attention.slower(self.model, self.computes_in)
        path = slower if self.packs else self.plain.told(type(self.model).__name__)
        return (*([path] if path else ()), *outgrown(self.tokenizer, num_embedded(self.model)))

    def release(self) -> None:
        """Give the model back its own attention, with which it can be called and generate like any other."""
        attention.release(self.model)

    @contextlib.contextmanager
    def as_any_other(self) -> Iterator[Any]:
        """The model to be called the ordinary way for a while, with its own attention."""
        with attention.own_attention(self.model):
            yield self.model

    def checkpoint_activations(self) -> None:
        """From now on keep only each layer's input for the backward pass. Raises UserError if the model cannot."""
        recompute_layers(self.model)
        self.checkpointing = True

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    @property
    def max_positions(self) -> int:
        """The longest prompt plus response the model was made for, and is right in; unbounded if its config gives none
        and none was found."""
        return min(max_positions(self.model), self.plain.longest)

    @property
    def cache_bytes(self) -> int:
        """Bytes that the keys and values of one token take, over all layers."""
        return cache_bytes(self.model)

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
        save_model(self.model, folder, weights or {}, self.end_ids)
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
        layout, (hidden_RD, logits_RV) = self._run(
            self.model, rollouts, "hidden_states", "logits", output_hidden_states=True
        )
        return States.of(layout, hidden_RD, self.never.ban_(logits_RV))

    def hidden(self, trunk: Any, rollouts: Sequence[HasTokens]) -> tuple[Layout, Tensor]:
        """Last hidden states of the trunk, or of a copy of it, before each chosen token, [R, D]."""
        fast = self._fast(trunk)
        if fast is not None:
            layout = self._laid_out(rollouts)
            return layout, fast.states(layout, checkpointing=self.checkpointing)
        layout, (hidden_RD,) = self._run(trunk, rollouts, "last_hidden_state", every=True)
        return layout, hidden_RD

    def head(self, source_CX: Tensor) -> Tensor:
        """Logits [C, V] of a piece of ``States.source_RX``, in memory of their own."""
        logits_CV = self.model.get_output_embeddings()(source_CX) if self.apart else source_CX.clone()
        return self.never.ban_(logits_CV)

    def decoder(
        self,
        num_rows: int,
        max_tokens: int,
        prompts: Sequence[int] | None = None,
        *,
        packed: bool = True,
        room: int = 0,
        columns: int = 1,
    ) -> Decoder:
        """A decoder that was tried. ``prompts``: how long those are that will be placed in it, None: of any length;
        ``room``: tokens that a row advances at most, if more than it writes; ``columns``: see
        ``SharedPromptDecoder``."""
        lengths, room = prompts or (1, max(self.turns, default=0) + 1), max(room, max_tokens)
        if len({turn_of(n - 1 + more, self.turns) for n in lengths for more in (0, max_tokens)}) > 1:
            return AloneDecoder(self.model, num_rows, room, self.turns)
        fast = self.fast_trunk if packed else None
        if fast is not None:
            return fast.decoder(self.model.get_output_embeddings(), num_rows, room)
        if packed and self.packs:
            return SharedPromptDecoder(self.model, num_rows, room, columns)
        return self.plain.decoder(self.model, num_rows, room)

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
        rollouts = [probe(p, r, self.model) for p, r in ((5, 3), (5, 4), (2, 1))]
        layout, body = self._laid_out(rollouts), trunk_of(self.model)
        return measured(body, lambda fast: fast.states(layout), lambda: self.hidden(body, rollouts)[1])

    def _laid_out(self, rollouts: Sequence[HasTokens]) -> Layout:
        return lay_out(rollouts, self.device, share_prompts=self.packs)

    def _run(
        self, module: Any, rollouts: Sequence[HasTokens], *wanted: str, **how: Any
    ) -> tuple[Layout, tuple[Tensor, ...]]:
        """[R, X] each: these outputs of the model, or of a part of it, before every chosen token. One pass, or as many
        as there are rows, or pieces of them, that cannot share one."""
        layout, parts = self._laid_out(rollouts), pieces_of(rollouts)
        passes = pieces(parts, self.turns) if self.turns else [[LengthPiece(i, part) for i, part in enumerate(parts)]]
        if not self.packs and not self.plain.side_by_side:
            passes = [[piece] for together in passes for piece in together]
        found = [self._picked(module, [piece.tokens for piece in together], wanted, **how) for together in passes]
        if len(passes) == 1:
            return layout, found[0]
        places = [(parts[i].row, parts[i].column + column) for i, column in scored_in(passes)]
        order_R = torch.tensor(sorted(range(len(places)), key=places.__getitem__), device=self.device)
        return layout, tuple(torch.cat(parts)[order_R] for parts in zip(*found, strict=True))

    def _picked(
        self, module: Any, rollouts: Sequence[HasTokens], wanted: Sequence[str], *, every: bool = False, **more: Any
    ) -> tuple[Tensor, ...]:
        """The same of one pass."""
        layout, out = self._called(module, rollouts, every=every, **more)
        found = []
        for name in wanted:
            out_NSX = out.hidden_states[-1] if name == "hidden_states" else getattr(out, name)
            if not self.packs:
                out_RX = before_tokens(out_NSX, rollouts)[layout.row_R, layout.column_R]
            else:  # of the logits, a packed call has computed no others
                out_RX = out_NSX[0] if name == "logits" and not every else out_NSX[0][layout.predictor_R]
            found.append(out_RX)
        return tuple(found)

    def _called(
        self, module: Any, rollouts: Sequence[HasTokens], *, every: bool = False, **more: Any
    ) -> tuple[Layout, Any]:
        """Call the model, or a part of it, on the rollouts' tokens; ``every``: with outputs at every position."""
        layout = self._laid_out(rollouts)
        call = layout.call() if self.packs else plain_call(rollouts, self.end_ids[0], self.device)
        with attention.planned(layout):
            return layout, module(**accepted(module, (trunk_only(call) if every else call) | more))

    def distributions(self, rollouts: Sequence[HasTokens], sampling: Sampling) -> TokenDistributions:
        """The model's whole distribution before each chosen token of the rollouts, with gradient as often as wanted.

        The given ids are scored, at the given temperature and with the same ban on early ends; top-k and top-p must be
        off (``scorable``). Where the chosen tokens' scores are enough, ``states`` and ``token_scores`` hold far less.
        """
        layout, (logits_RV,) = self._run(self.model, rollouts, "logits")
        logits_RV = adjusted(self.never.ban_(logits_RV), layout.column_R, sampling, self.end_tensor)
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
