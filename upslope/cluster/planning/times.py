"""How long each piece of work takes: by a card's rates, or as a run measured it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from upslope.cluster.planning.cards import AssumedShares, CardSheet
from upslope.cluster.planning.memory import FLOAT, micro_tokens
from upslope.cluster.planning.sizes import ModelSizes

IN_A_MACHINE = 8
"""Cards that are joined by links; more go over the network."""


@dataclass(frozen=True)
class Learned:
    """What an update learns from."""

    problems: int
    prompt: int
    """Tokens of a prompt, which is computed once a group."""
    attempts: int
    response_tokens: int

    @property
    def tokens(self) -> int:
        return self.problems * self.prompt + self.response_tokens

    @property
    def row(self) -> float:
        """Tokens of an attempt and its prompt, on average."""
        return self.prompt + self.response_tokens / max(self.attempts, 1)


class WorkTimes(Protocol):
    """Seconds of a cluster's pieces of work."""

    def position(self, rows: int, held: float) -> float:
        """One more token for each of ``rows`` attempts, of which ``held`` tokens' keys and values are read."""
        ...

    def prompt(self, tokens: int) -> float:
        """Reading a prompt before its attempts begin."""
        ...

    def update(self, learned: Learned, ranks: int, *, shard: bool) -> float:
        """One update, all ranks together."""
        ...

    def transfer(self, samplers: int) -> float:
        """Until all samplers have new weights."""
        ...


@dataclass(frozen=True)
class CardTimes:
    """Of one model on one kind of card.

    ::

        position = max((c N + c cached held) / (bandwidth b), 2 N' rows / (rate s))
        prompt   = tokens 2 N' / (rate s)
        update   = tokens (6 N' + 6 layers heads_width row) / (rate l R) + exchange
        exchange = 2 (R-1)/R 4 N / link, where learners hold all weights
                   (R-1)/R (2 c N micro-batches + 4 N) / link, where they share them out
        transfer = ceil(log2(samplers + 1)) c N / network: whoever has the weights hands them on

    N weights, N' those in products, c bytes of a number, b, s, l the assumed shares. Attention over the tokens before:
    2 products forward, of 2 heads_width operations a token that is seen, half of the row on average, and twice that
    backward.
    """

    sizes: ModelSizes
    card: CardSheet
    shares: AssumedShares
    element: int

    def position(self, rows: int, held: float) -> float:
        read = self.element * (self.sizes.weights + self.sizes.cached * held)
        work = 2 * self.sizes.in_products * rows
        return max(read / (self.card.bandwidth * 1e9 * self.shares.bandwidth), work / (self._rate * self.shares.sample))

    def prompt(self, tokens: int) -> float:
        return tokens * 2 * self.sizes.in_products / (self._rate * self.shares.sample)

    def update(self, learned: Learned, ranks: int, *, shard: bool) -> float:
        token = 6 * self.sizes.in_products + 6 * self.sizes.layers * self.sizes.heads_width * learned.row
        return learned.tokens * token / (self._rate * self.shares.learn * ranks) + self._exchange(learned, ranks, shard)

    def _exchange(self, learned: Learned, ranks: int, shard: bool) -> float:
        if ranks == 1:
            return 0.0
        link = min(self.card.link, self.shares.network) if ranks > IN_A_MACHINE else self.card.link
        sent = 2 * FLOAT * self.sizes.weights
        if shard:
            size = max(micro_tokens(self.sizes, self.element), learned.row)
            num = math.ceil(learned.tokens / ranks / size)
            sent = (2 * self.element * num + FLOAT) * self.sizes.weights
        return (ranks - 1) / ranks * sent / (link * 1e9)

    def transfer(self, samplers: int) -> float:
        if not samplers:
            return 0.0
        return math.ceil(math.log2(samplers + 1)) * self.element * self.sizes.weights / (self.shares.network * 1e9)

    @property
    def _rate(self) -> float:
        return self.card.tflops * 1e12


@dataclass(frozen=True)
class MeasuredTimes:
    """As a run on one process had it: a position costs ``step`` and ``row`` for each attempt in it, an update ``fixed``
    and ``token`` for every response token of which it learns. Ranks share the tokens; the exchange between them is not
    in it, as one process has none.

    >>> times = MeasuredTimes(step=1e-3, row=1e-5, fixed=0.1, token=1e-6, share=0.5, load=0.0)
    >>> round(times.position(100, 0.0), 6), times.update(Learned(1, 8, 4, 400_000), 2, shard=False)
    (0.002, 0.2)
    """

    step: float
    row: float
    fixed: float
    token: float
    share: float
    """Of the attempts that had a gradient: groups that are all alike are left out."""
    load: float
    """Handing over weights to one sampler."""

    def position(self, rows: int, held: float) -> float:
        return self.step + self.row * rows

    def prompt(self, tokens: int) -> float:
        return 0.0  # in a position's seconds already

    def update(self, learned: Learned, ranks: int, *, shard: bool) -> float:
        return self.fixed + self.token * self.share * learned.response_tokens / ranks

    def transfer(self, samplers: int) -> float:
        return self.load * math.ceil(math.log2(samplers + 1))
