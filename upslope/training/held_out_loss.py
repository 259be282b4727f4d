"""Held-out loss: how well a policy predicts text that it does not learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from upslope.errors import NonFinite
from upslope.learn.prepare import to_batch
from upslope.learn.scorer import Scorer
from upslope.model.policy import Policy
from upslope.model.renderer import Renderer
from upslope.rollout.address import Address
from upslope.rollout.base import Request, Sampler
from upslope.text.order import Piece
from upslope.training.blocks import Index, TokenStore, as_group, rows_of_pieces, shuffled
from upslope.training.corpora import Text
from upslope.types import Group, Sampling

WAVE = 64
"""Groups scored at once: their tokens as tensors are few beside a micro-batch's activations."""
BEGUN, CONTINUED = 16, 64
"""Tokens of a held-out document that are shown, and that the policy may add."""


@dataclass(frozen=True)
class Predicted:
    """What predicting some text cost.

    >>> Predicted(nats=8 * math.log(2), num_tokens=4, num_bytes=8).bits_per_byte
    1.0
    """

    nats: float
    """-log of the probability of all of it."""
    num_tokens: int
    num_bytes: int = 0
    """UTF-8 bytes of the text; 0: not asked."""

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.num_tokens

    @property
    def bits_per_byte(self) -> float:
        """nats / (ln 2 x bytes): the length of the text as this model would compress it, so that models with different
        tokenizers compare. That a document ends where it does is part of it (its end token), and of no byte."""
        return self.nats / (math.log(2) * self.num_bytes)

    @property
    def of_text(self) -> dict[str, float]:
        """What a journal's row says of it where it is text."""
        return {
            "bits_per_byte": self.bits_per_byte,
            "held_out_tokens": self.num_tokens,
            "held_out_bytes": self.num_bytes,
        }

    def __add__(self, other: Predicted) -> Predicted:
        return Predicted(self.nats + other.nats, self.num_tokens + other.num_tokens, self.num_bytes + other.num_bytes)


def predicted(scorer: Scorer, groups: Sequence[Group]) -> Predicted:
    """The counted tokens of these groups under the present weights, without gradient, each at temperature 1. Raises
    NonFinite for a log-probability that is not finite."""
    total = Predicted(0.0, 0)
    # Weights in bfloat16 have log-probabilities in float32, of which bfloat16 would keep three digits.
    dtype = torch.promote_types(next(scorer.policy.model.parameters()).dtype, torch.float32)
    for begin in range(0, len(groups), WAVE):
        wave = groups[begin : begin + WAVE]
        batch = to_batch(wave, scorer.policy.device, dtype)
        logp_NT = scorer.constants(batch, ["old_logp_NT"], dtype)["old_logp_NT"]
        nats = -float(logp_NT[batch.mask_NT].cpu().double().sum())  # MPS has no float64
        if not math.isfinite(nats):
            raise NonFinite(f"the held-out loss is {nats}")
        total += Predicted(nats, int(batch.mask_NT.sum()))
    return total


def plain_scorer(policy: Policy, micro_batch: int) -> Scorer:
    """One that scores given text as it is, at temperature 1, in this process alone."""
    return Scorer(policy, Sampling(), micro_batch=micro_batch)


def chosen_documents(corpus: TokenStore, most: float, *, every: bool = False) -> Index:
    """The held-out documents (``every``: all) that are predicted: in an order that is the same in every run, as many as
    have ``most`` tokens together, one at least where there is one."""
    documents = np.flatnonzero(corpus.held_out_D | every)
    if not len(documents):
        return documents
    documents = documents[shuffled(Address(0, "text/held out"), len(documents))]
    num = int(np.searchsorted(np.cumsum(corpus.length_D[documents]), most, side="right"))
    return documents[: max(num, 1)]


class HeldOutText:
    """The held-out documents of a run's text that are predicted, and how well that is done."""

    def __init__(
        self,
        text: Text,
        most: float,
        *,
        length: int,
        renderer: Renderer,
        every: bool = False,
    ) -> None:
        """``most`` tokens of all corpora together, shared by their weights. ``length``: of a block. Every document is
        read by itself, from its beginning, in blocks of that length: what is measured depends neither on its neighbours
        nor on how a run packs its text."""
        total = math.fsum(text.weights)
        shares = [most * weight / total for weight in text.weights]
        self._chosen = [
            (corpus, chosen_documents(corpus, share, every=every))
            for corpus, share in zip(text.corpora, shares, strict=True)
        ]
        self._length, self._renderer = length, renderer
        self.num_documents = sum(len(documents) for _, documents in self._chosen)

    def _group(self, corpus: TokenStore, document: int) -> Group:
        """A document's blocks, a row each."""
        given = rows_of_pieces(corpus, self._blocks(corpus, document), self._renderer.start_ids)
        return as_group(f"document/{document}", given, self._renderer.end_ids)

    def _blocks(self, corpus: TokenStore, document: int) -> list[Piece]:
        length = int(corpus.length_D[document])
        return [Piece(document, i, min(i + self._length, length)) for i in range(0, length, self._length)]

    def measure(self, scorer: Scorer, told: Callable[[int], object] = lambda done: None) -> Predicted:
        """All of them under the present weights. There is at least one. ``told`` hears how many are done."""
        found, done = Predicted(0.0, 0), 0
        for corpus, documents in self._chosen:
            for begin in range(0, len(documents), WAVE):
                wave = documents[begin : begin + WAVE]
                tokens = predicted(scorer, [self._group(corpus, int(document)) for document in wave])
                found += Predicted(tokens.nats, tokens.num_tokens, int(corpus.bytes_D[wave].sum()))
                done += len(wave)
                told(done)
        return found

    def sample(self, sampler: Sampler, policy: Policy, temperature: float, seed: int) -> dict[str, str]:
        """What the policy writes after the first tokens of a held-out document, the same at every evaluation of a run,
        or after the start token where there is none: ``prompt`` and ``text``."""
        start_ids, address = self._renderer.start_ids, Address(seed, "text/sample")
        places = [(corpus, int(document)) for corpus, documents in self._chosen for document in documents]
        prompt, room = start_ids, policy.max_positions - len(start_ids) - 1
        if places:
            corpus, document = places[int(address.uniforms([("document", 0)], 1)[0, 0] * len(places))]
            shown = min(BEGUN, room, int(corpus.length_D[document]) - 1)
            prompt = (*start_ids, *corpus.read(document, 0, shown).tolist())
        sampling = Sampling(temperature, max_tokens=min(CONTINUED, policy.max_positions - len(prompt)))
        (rollout,) = sampler.generate([Request("text", 0, prompt)], sampling, address)
        begun = self._renderer.text(prompt[len(start_ids) :])
        return {"prompt": begun, "text": self._renderer.text(rollout.response)}
