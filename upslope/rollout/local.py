"""The sampler of this process. A batch of rows is kept full from a queue of requests; every row draws a token at a
time; whoever ends gives up the row and becomes a rollout."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from upslope.model.fast import Decoder
from upslope.model.policy import Policy
from upslope.rollout.address import Address
from upslope.rollout.base import Finished, Progress, Request, require_room, to_rollout
from upslope.rollout.draw import draw
from upslope.rollout.running import Queued, RunningBatch, Written
from upslope.rollout.stopping import StopStrings
from upslope.types import Rollout, Sampling

CACHE_BUDGET = 2 * 2**30
"""Bytes for keys and values, where the number of rows is left to us."""
MOST_ROWS = 512


class LocalSampler:
    """Samples from the very weights the learner computes with; a ``Sampler``."""

    listens = True

    def __init__(
        self,
        policy: Policy,
        *,
        max_rows: int = 0,
        packed: bool = True,
        renewed: Callable[[], bool] | None = None,
    ) -> None:
        """``max_rows`` attempts are in memory at once, 0: as many as a budget for keys and values allows.
        ``packed=False`` takes the ordinary way. ``renewed`` is asked before every token whether it has loaded other
        weights meanwhile: attempts go on with these, over the keys and values they have, and each rollout says which
        version drew which token (``Rollout.versions``)."""
        self._policy = policy
        self._max_rows = max_rows
        self._packed = packed and policy.packs
        self._renewed = renewed
        self.version = 0

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Sample from these weights from now on; weights that are already the policy's own are not copied."""
        self._policy.take(weights)
        self.version = version

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        address: Address,
        progress: Progress | None = None,
        finished: Finished | None = None,
    ) -> list[Rollout]:
        """See ``Sampler.generate``. ``progress`` is called after every token."""
        require_room(requests, sampling, self._policy.max_positions)
        rollouts: dict[int, Rollout] = {}
        num_written = 0
        for num_drawn, ended in self._run(requests, sampling, address):
            num_written += num_drawn
            for written in ended:
                rollouts[written.place] = to_rollout(
                    written.request,
                    written.response,
                    written.logp,
                    self._policy.end_ids,
                    written.spans[-1][1],
                    mask=written.mask,
                    unanswered=written.unanswered,
                    versions=by_token(written.spans, len(written.response)),
                    stopped=written.stopped,
                )
            if progress is not None:
                progress(num_written, len(rollouts))
            if finished is not None:
                for written in ended:
                    finished(written.place, rollouts[written.place])
        return [rollouts[place] for place in range(len(requests))]

    def _affordable(self, requests: Sequence[Request], sampling: Sampling) -> int:
        """How many rows the budget holds, if all of them were as long as the longest can get."""
        longest = max((len(r.prompt) for r in requests), default=0) + sampling.max_tokens
        return max(1, min(MOST_ROWS, CACHE_BUDGET // (longest * self._policy.cache_bytes)))

    def _has_others(self) -> bool:
        """Whether other weights were loaded since this was asked last."""
        return self._renewed is not None and self._renewed()

    @torch.no_grad()
    def _run(
        self, requests: Sequence[Request], sampling: Sampling, address: Address
    ) -> Iterator[tuple[int, Sequence[Written]]]:
        """Yields, token by token, how many rows drew one and which requests ended with it.

        One batch serves them all, or a wave of them where the decoder cannot refill.
        """
        device = self._policy.device
        end_ids = torch.tensor(self._policy.end_ids, device=device)
        stops = StopStrings(sampling.stop, self._policy.renderer)
        size = self._max_rows or self._affordable(requests, sampling)
        queue = deque(Queued(place, request) for place, request in enumerate(requests))
        while queue:
            self._has_others()
            num_rows = min(size, len(queue))
            lengths = [len(queued.request.prompt) for queued in queue]
            decoder = self._policy.decoder(num_rows, sampling.max_tokens, lengths, packed=self._packed)
            batch = RunningBatch(num_rows, sampling.max_tokens, address, device, self.version)
            _begin(range(num_rows), queue, decoder, batch)
            while live := batch.live:
                num_rows = _drop(num_rows, live, decoder, batch)
                logits_NV = self._policy.never.ban_(decoder.advance(batch.newest_N))
                token_N, logp_N = draw(logits_NV, batch.position_N, batch.uniform_N, sampling, end_ids)
                free = batch.write(token_N, logp_N, end_ids)
                if stops:
                    free = batch.stop(free, stops, sampling.min_tokens, self._policy.end_ids)
                batch.hear(free)
                yield len(live), batch.take(free)
                if self._has_others():  # before anybody begins, so that a prompt and its first token are of one version
                    decoder.renew()
                    batch.renew(self.version)
                if decoder.refills:
                    _begin(free, queue, decoder, batch)


def by_token(spans: Sequence[tuple[int, int]], num: int) -> tuple[int, ...] | None:
    """The version of each of ``num`` tokens; None where all are of one.

    >>> by_token([(0, 6), (2, 7)], 5), by_token([(0, 6)], 5)
    ((6, 6, 7, 7, 7), None)
    """
    if len(spans) == 1:
        return None
    ends = [*(begin for begin, _ in spans[1:]), num]
    return tuple(version for (begin, version), end in zip(spans, ends, strict=True) for _ in range(begin, end))


def _begin(free: Sequence[int], queue: deque[Queued], decoder: Decoder, batch: RunningBatch) -> None:
    """The next requests take the free rows, as far as there are both."""
    rows = free[: len(queue)]
    if rows:
        begun = [queue.popleft() for _ in rows]
        batch.begin(rows, begun)
        decoder.place(rows, [b.request.prompt for b in begun])


def _drop(num_rows: int, live: Sequence[int], decoder: Decoder, batch: RunningBatch) -> int:
    """Drop the rows that ended, once they are worth it; returns how many rows are left."""
    if num_rows - len(live) <= decoder.slack * num_rows:
        return num_rows
    decoder.keep(torch.tensor(live, device=batch.newest_N.device))
    batch.keep(live)
    return len(live)
