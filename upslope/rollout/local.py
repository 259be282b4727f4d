"""The sampler of this process. A batch of rows is kept full from a queue of requests; every row draws a token at a
time; whoever ends gives up the row and becomes a rollout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from upslope.model.budgets import LOGIT_BYTES
from upslope.model.fast import Decoder
from upslope.model.gauge import out_of_memory
from upslope.model.policy import Policy
from upslope.rollout.address import Address
from upslope.rollout.base import Finished, More, Progress, Request, require_room, to_rollout
from upslope.rollout.block_draw import draw_in_blocks
from upslope.rollout.captured import Captured, MakeGraph, Steady, graphs_of
from upslope.rollout.draw import draw
from upslope.rollout.queue import RequestQueue
from upslope.rollout.running import RunningBatch, Written
from upslope.rollout.stopping import StopStrings
from upslope.types import Rollout, Sampling

CACHE_BUDGET = 2 * 2**30
"""Bytes for keys and values on a CPU, where the number of rows is left to us."""
MOST_ROWS, MOST_ROWS_ON_A_DEVICE = 512, 2048
LOOK_EVERY = 16
"""Positions between two looks at a device: a look is to wait for it. A CPU is never behind, and is looked at after
every position."""
COLUMNS = 64
"""Of keys and values, by which rows on a device come to see more at once: every shape is new to it once."""


class LocalSampler:
    """Samples from the very weights the learner computes with; a ``Sampler``."""

    listens = True
    takes_more = True

    def __init__(
        self,
        policy: Policy,
        *,
        max_rows: int = 0,
        packed: bool = True,
        renewed: Callable[[], bool] | None = None,
        look_every: int | None = None,
        graphs: Callable[[torch.device], MakeGraph | None] = graphs_of,
    ) -> None:
        """``max_rows`` attempts are in memory at once, 0: as many as a budget for keys and values allows.
        ``packed=False`` takes the ordinary way. ``look_every`` positions are drawn between two looks at who has ended,
        None: as the device wants it; what is drawn does not depend on it. Only where a request has a listener, which
        may speak, where more requests may come, or where there are stop strings, there is a look after each.
        ``graphs`` says how a position is recorded on a device, to be replayed, if it is. ``renewed`` is asked at every
        look whether it has loaded other weights meanwhile: attempts go on with these, over the keys and values they
        have, and each rollout says which version drew which token
        (``Rollout.versions``)."""
        self._policy = policy
        self._max_rows = max_rows
        self._packed = packed and policy.packs
        self._renewed = renewed
        on_cpu = policy.device.type == "cpu"
        self._look_every = look_every or (1 if on_cpu else LOOK_EVERY)
        self._far = not on_cpu or self._look_every > 1
        """Whether a look is something to be saved, and a new shape expensive."""
        self._at_once = 0
        self._graphs, self._recordable = graphs, True
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
        more: More | None = None,
    ) -> list[Rollout]:
        """See ``Sampler.generate``. ``progress`` is called after every look."""
        require_room(requests, sampling, self._policy.max_positions)
        rollouts: dict[int, Rollout] = {}
        queue = RequestQueue(requests, more, lambda late: require_room(late, sampling, self._policy.max_positions))
        for num_written, ended in self._fitting(queue, rollouts, sampling, address):
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
        return [rollouts[place] for place in range(len(rollouts))]

    def _affordable(self, requests: Sequence[Request], sampling: Sampling) -> int:
        """How many rows the budget holds, if all of them were as long as the longest can get."""
        policy, budgets = self._policy, self._policy.budgets
        longest = max((len(r.prompt) for r in requests), default=0) + sampling.max_tokens
        each, most = longest * policy.cache_bytes, MOST_ROWS
        if budgets.measured(budgets.shares.cache):
            each, most = each + LOGIT_BYTES * policy.vocabulary, MOST_ROWS_ON_A_DEVICE
        return max(1, min(most, budgets.cache_bytes(CACHE_BUDGET) // each))

    def _decoder(self, num_rows: int, max_tokens: int, queue: RequestQueue, look_every: int) -> Decoder:
        lengths = None if queue.grows else [len(queued.request.prompt) for queued in queue]
        room = max_tokens + look_every - 1  # rows that ended advance until the next look
        columns = COLUMNS if self._far else 1
        return self._policy.decoder(num_rows, max_tokens, lengths, packed=self._packed, room=room, columns=columns)

    def _fitting(
        self, queue: RequestQueue, rollouts: Mapping[int, Rollout], sampling: Sampling, address: Address
    ) -> Iterator[tuple[int, Sequence[Written]]]:
        """Yields at every look how many tokens are written and which requests ended. If the device runs out of memory,
        those without a rollout begin anew, half as many at once; their draws are the same."""
        budgets, told = self._policy.budgets, 0
        while True:
            written = sum(len(rollout.response) for rollout in rollouts.values())
            try:
                for num_drawn, ended in self._run(queue, sampling, address):
                    written += num_drawn
                    told = max(told, written)
                    yield told, ended
                return
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            budgets.answer(budgets.halve_rows(self._at_once))
            queue.begin_anew(rollouts)

    def _has_others(self) -> bool:
        """Whether other weights were loaded since this was asked last."""
        return self._renewed is not None and self._renewed()

    @torch.no_grad()
    def _run(
        self, queue: RequestQueue, sampling: Sampling, address: Address
    ) -> Iterator[tuple[int, Sequence[Written]]]:
        """Yields, look by look, how many tokens were written and which requests have ended.

        One batch serves them all, or a wave of them where the decoder cannot refill. While more can come, a batch that
        has nobody left waits for them.
        """
        device = self._policy.device
        end_ids = self._policy.end_tensor
        requests = [queued.request for queued in queue]
        stops = StopStrings(sampling.stop, self._policy.renderer)
        size = self._max_rows or self._affordable(requests, sampling)
        size = self._policy.budgets.bounded("sampled_rows", size)
        alone = not queue.grows and not stops and not any(request.listener for request in requests)
        every = self._look_every if alone else 1
        while queue.has_next(idle=True):
            self._has_others()
            num_rows = most = self._at_once = min(size, len(queue))
            decoder = self._decoder(num_rows, sampling.max_tokens, queue, every)
            batch = RunningBatch(num_rows, sampling.max_tokens, address, device, self.version)
            advance = self._advancing(decoder, batch, sampling, end_ids)
            _begin(range(num_rows), queue, decoder, batch)
            while batch.live or (decoder.refills and queue.has_next(idle=True)):
                if decoder.refills and queue.has_next(idle=not batch.live):
                    num_rows = _refill(num_rows, most, queue, decoder, batch)
                num_rows = _drop(num_rows, batch.live, decoder, batch, by_bucket=self._far)
                advance(1 if every == 1 else min(every, batch.most_left))
                if self._far:
                    batch.require_finite()
                num_drawn, free = batch.look()
                if stops:
                    free = batch.stop(free, stops, sampling.min_tokens, self._policy.end_ids)
                batch.hear(free)
                yield num_drawn, batch.take(free)
                if self._has_others():  # before anybody begins, so that a prompt and its first token are of one version
                    decoder.renew()
                    batch.renew(self.version)

    def _advancing(
        self, decoder: Decoder, batch: RunningBatch, sampling: Sampling, end_ids: Tensor
    ) -> Callable[[int], None]:
        """What draws so many tokens in every row, between two looks."""
        never, next_of = self._policy.never, draw_in_blocks if self._far else draw

        def write(logits_NV: Tensor) -> None:
            given = never.ban_(logits_NV), batch.position_N, batch.uniform_N
            batch.write(*next_of(*given, sampling, end_ids), end_ids)

        def plainly(num: int) -> None:
            for _ in range(num):
                write(decoder.advance(batch.newest_N))
            batch.passed(num)

        # A model that is shared out among ranks gathers its weights as it goes, elsewhere every time.
        whole = self._policy.computes_in is None
        make = self._graphs(self._policy.device) if self._recordable and whole else None
        if make is None or not isinstance(decoder, Steady):
            return plainly
        captured = Captured(make, self._unrecorded)

        def step(columns: int) -> None:
            write(decoder.compute(batch.newest_N, columns))

        def by_graphs(num: int) -> None:
            captured.look([*decoder.held(), *batch.held()])
            for _ in range(num):
                captured.run(step, decoder.open())
            batch.passed(num)

        return by_graphs

    def _unrecorded(self, line: str) -> None:
        self._recordable = False
        self._policy.budgets.say(line)


def by_token(spans: Sequence[tuple[int, int]], num: int) -> tuple[int, ...] | None:
    """The version of each of ``num`` tokens; None where all are of one.

    >>> by_token([(0, 6), (2, 7)], 5), by_token([(0, 6)], 5)
    ((6, 6, 7, 7, 7), None)
    """
    if len(spans) == 1:
        return None
    ends = [*(begin for begin, _ in spans[1:]), num]
    return tuple(version for (begin, version), end in zip(spans, ends, strict=True) for _ in range(begin, end))


def _refill(num_rows: int, most: int, queue: RequestQueue, decoder: Decoder, batch: RunningBatch) -> int:
    """Requests take the rows that are free, and new ones where those do not suffice and there were more before; returns
    how many rows there are now."""
    live = {*batch.live}
    free = [row for row in range(num_rows) if row not in live]
    wanting = min(len(queue) - len(free), most - num_rows)
    if wanting > 0:
        decoder.widen(wanting)
        batch.grow(wanting)
        free += range(num_rows, num_rows + wanting)
        num_rows += wanting
    _begin(free, queue, decoder, batch)
    return num_rows


def _begin(free: Sequence[int], queue: RequestQueue, decoder: Decoder, batch: RunningBatch) -> None:
    """The next requests take the free rows, as far as there are both."""
    rows = free[: len(queue)]
    if rows:
        begun = [queue.take() for _ in rows]
        batch.begin(rows, begun)
        decoder.place(rows, [b.request.prompt for b in begun])


def _drop(num_rows: int, live: Sequence[int], decoder: Decoder, batch: RunningBatch, *, by_bucket: bool) -> int:
    """Drop the rows that ended, once they are worth it; returns how many rows are left. ``by_bucket``: a power of two,
    where the decoder may carry rows along, since another number of rows is another shape."""
    kept = list(live)
    if by_bucket and decoder.slack:
        bucket = 1 << (len(live) - 1).bit_length()
        served = set(live)
        kept += [row for row in range(num_rows) if row not in served][: max(0, bucket - len(live))]
    elif num_rows - len(live) <= decoder.slack * num_rows:
        return num_rows
    if len(kept) == num_rows:
        return num_rows
    decoder.keep(torch.tensor(kept, device=batch.newest_N.device))
    batch.keep(kept)
    return len(kept)
