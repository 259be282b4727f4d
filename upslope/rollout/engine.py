"""The engine: from problems and a policy to rollouts. A table of rows is kept full from a queue of attempts; every row
draws a token at a time; whoever ends gives up the place and becomes a rollout."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from upslope.errors import UserError
from upslope.model.fast import Decoder
from upslope.model.policy import Policy
from upslope.rollout.address import Address
from upslope.rollout.decoder import PlainDecoder, SharedPromptDecoder
from upslope.rollout.draw import draw
from upslope.rollout.table import Attempt, Table, Written
from upslope.types import Problem, Rollout, Sampling

Progress = Callable[[int, int], None]
"""Called with (tokens written so far, rows finished so far)."""
Finished = Callable[[int, list[Rollout]], None]
"""Called with a problem's place among those asked for and all its attempts, once the last of them has ended."""

CACHE_BUDGET = 2 * 2**30
"""Bytes for keys and values, where the number of rows is left to us."""
MOST_ROWS = 512


class Engine:
    """Samples from the very weights the learner computes with, in this process."""

    def __init__(self, policy: Policy, *, max_rows: int = 0, packed: bool = True) -> None:
        """``max_rows`` attempts are in memory at once, 0: as many as a budget for keys and values allows.
        ``packed=False`` takes the ordinary way."""
        self._policy = policy
        self._max_rows = max_rows
        self._packed = packed and policy.packs
        self.version = 0

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Sample from these weights from now on; weights that are already the policy's own are not copied."""
        own = self._policy.weights()
        for name, tensor in weights.items():
            if tensor.data_ptr() != own[name].data_ptr():
                own[name].data.copy_(tensor)
        self.version = version

    def generate(
        self,
        problems: Sequence[Problem],
        num_samples: int,
        sampling: Sampling,
        address: Address,
        progress: Progress | None = None,
        finished: Finished | None = None,
    ) -> list[list[Rollout]]:
        """``num_samples`` attempts at every problem, without score; the outer list follows ``problems``.

        What an attempt says depends on the weights, its prompt and its address, not on its neighbours. ``progress`` is
        called after every token, ``finished`` as soon as a group is complete; what they raise ends the generation.
        """
        prompts = [self._policy.prompt(p.messages) for p in problems]
        queue = deque(
            Attempt(i, problem.id, sample, prompt)
            for i, (problem, prompt) in enumerate(zip(problems, prompts, strict=True))
            for sample in range(num_samples)
        )
        self._check_room(queue, sampling)
        groups: list[dict[int, Rollout]] = [{} for _ in problems]
        num_written = num_finished = 0
        for num_drawn, ended in self._run(queue, sampling, address):
            num_written += num_drawn
            num_finished += len(ended)
            for written in ended:
                groups[written.attempt.index][written.attempt.sample] = self._rollout(written)
            if progress is not None:
                progress(num_written, num_finished)
            for index in dict.fromkeys(written.attempt.index for written in ended):
                if finished is not None and len(groups[index]) == num_samples:
                    finished(index, _in_order(groups[index]))
        return [_in_order(group) for group in groups]

    def _affordable(self, attempts: Iterable[Attempt], sampling: Sampling) -> int:
        """How many rows the budget holds, if all of them were as long as the longest can get."""
        longest = max((len(a.prompt) for a in attempts), default=0) + sampling.max_tokens
        return max(1, min(MOST_ROWS, CACHE_BUDGET // (longest * self._policy.cache_bytes)))

    def _check_room(self, attempts: Iterable[Attempt], sampling: Sampling) -> None:
        room = self._policy.max_positions
        for attempt in attempts:
            if len(attempt.prompt) + sampling.max_tokens > room:
                raise UserError(
                    f"problem {attempt.problem}: {len(attempt.prompt)} prompt tokens and "
                    f"max_tokens={sampling.max_tokens} do not fit the model's {room} positions; "
                    "lower sample.max_tokens or shorten the prompt"
                )

    def _decoder(self, num_rows: int, max_tokens: int) -> Decoder:
        trunk = self._policy.fast_trunk if self._packed else None
        if trunk is not None:
            return trunk.decoder(self._policy.model.get_output_embeddings(), num_rows, max_tokens)
        kind = SharedPromptDecoder if self._packed else PlainDecoder
        return kind(self._policy, num_rows, max_tokens)

    @torch.no_grad()
    def _run(
        self, queue: deque[Attempt], sampling: Sampling, address: Address
    ) -> Iterator[tuple[int, Sequence[Written]]]:
        """Empty the queue; yields, token by token, how many rows drew one and which of them ended with it.

        One table serves the whole queue, or a wave of it where the decoder cannot refill.
        """
        device = self._policy.device
        end_ids = torch.tensor(self._policy.end_ids, device=device)
        size = self._max_rows or self._affordable(queue, sampling)
        while queue:
            num_rows = min(size, len(queue))
            decoder = self._decoder(num_rows, sampling.max_tokens)
            table = Table(num_rows, sampling.max_tokens, address, device)
            _begin(range(num_rows), queue, decoder, table)
            while live := table.live:
                num_rows = _drop(num_rows, live, decoder, table)
                logits_NV = decoder.advance(table.newest_N)
                token_N, logp_N = draw(logits_NV, table.position_N, table.uniform_N, sampling, end_ids)
                free = table.write(token_N, logp_N, end_ids)
                yield len(live), table.take(free)
                if decoder.refills:
                    _begin(free, queue, decoder, table)

    def _rollout(self, written: Written) -> Rollout:
        return Rollout(
            problem_id=written.attempt.problem,
            sample=written.attempt.sample,
            prompt=written.attempt.prompt,
            response=written.response,
            mask=(True,) * len(written.response),
            logp=written.logp,
            version=self.version,
            ended="stop" if written.response[-1] in self._policy.end_ids else "length",
            text=self._policy.decode(written.response),
        )


def _begin(free: Sequence[int], queue: deque[Attempt], decoder: Decoder, table: Table) -> None:
    """The next attempts take the free places, as far as there are both."""
    places = free[: len(queue)]
    if places:
        attempts = [queue.popleft() for _ in places]
        table.begin(places, attempts)
        decoder.place(places, [a.prompt for a in attempts])


def _drop(num_rows: int, live: Sequence[int], decoder: Decoder, table: Table) -> int:
    """Drop the rows that ended, once they are worth it; returns how many rows are left."""
    if num_rows - len(live) <= decoder.slack * num_rows:
        return num_rows
    decoder.keep(torch.tensor(live, device=table.newest_N.device))
    table.keep(live)
    return len(live)


def _in_order(group: Mapping[int, Rollout]) -> list[Rollout]:
    return [group[sample] for sample in sorted(group)]
