"""The engine: from problems and a policy to rollouts. Schedule rows into waves, run a wave, gather what it wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from upslope.errors import UserError
from upslope.model.policy import Policy
from upslope.rollout.address import Address
from upslope.rollout.decoder import Decoder, PlainDecoder, SharedPromptDecoder
from upslope.rollout.draw import draw
from upslope.types import Problem, Rollout, Sampling

Progress = Callable[[int, int], None]
"""Called with (tokens written so far, rows finished so far)."""


CACHE_BUDGET = 2 * 2**30
"""Bytes for keys and values, where the number of rows is left to us."""
MOST_ROWS = 512


@dataclass(frozen=True)
class Row:
    """One attempt to be made."""

    problem: Problem
    sample: int
    prompt: tuple[int, ...]


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
    ) -> list[list[Rollout]]:
        """``num_samples`` attempts at every problem, without score; the outer list follows ``problems``.

        What an attempt says depends on the weights, its prompt and its address, not on its neighbours.
        """
        rows = [
            Row(p, s, ids) for p in problems for ids in [self._policy.prompt(p.messages)] for s in range(num_samples)
        ]
        self._check_room(rows, sampling)
        done: list[Rollout] = []
        written = 0
        size = self._max_rows or self._affordable(rows, sampling)
        for first in range(0, len(rows), size):
            before = written

            def report(tokens: int, finished: int, before: int = before, first: int = first) -> None:
                if progress is not None:
                    progress(before + tokens, first + finished)

            wave = self._run(rows[first : first + size], sampling, address, report)
            written += sum(len(r.response) for r in wave)
            done.extend(wave)
        return [done[i : i + num_samples] for i in range(0, len(done), num_samples)]

    def _affordable(self, rows: Sequence[Row], sampling: Sampling) -> int:
        """How many rows the budget holds, if all of them were as long as the longest can get."""
        longest = max((len(row.prompt) for row in rows), default=0) + sampling.max_tokens
        return max(1, min(MOST_ROWS, CACHE_BUDGET // (longest * self._policy.cache_bytes)))

    def _check_room(self, rows: Sequence[Row], sampling: Sampling) -> None:
        room = self._policy.max_positions
        for row in rows:
            if len(row.prompt) + sampling.max_tokens > room:
                raise UserError(
                    f"problem {row.problem.id}: {len(row.prompt)} prompt tokens and max_tokens={sampling.max_tokens} "
                    f"do not fit the model's {room} positions; lower sample.max_tokens or shorten the prompt"
                )

    @torch.no_grad()
    def _run(self, rows: Sequence[Row], sampling: Sampling, address: Address, report: Progress) -> list[Rollout]:
        device, num_rows, num_tokens = self._policy.device, len(rows), sampling.max_tokens
        uniform_NT = torch.from_numpy(address.uniforms([(r.problem.id, r.sample) for r in rows], num_tokens))
        if device.type == "mps":
            uniform_NT = uniform_NT.float()  # no float64 there
        uniform_NT = uniform_NT.to(device)
        prompts = list(dict.fromkeys(r.prompt for r in rows))
        prompt_of_row = torch.tensor([prompts.index(r.prompt) for r in rows], device=device)
        end_ids = torch.tensor(self._policy.end_ids, device=device)
        token_NT = torch.zeros(num_rows, num_tokens, dtype=torch.long, device=device)
        logp_NT = torch.zeros(num_rows, num_tokens, dtype=torch.float64 if device.type != "mps" else None)
        logp_NT = logp_NT.to(device)
        length_N = torch.full((num_rows,), num_tokens, dtype=torch.long, device=device)
        stopped_N = torch.zeros(num_rows, dtype=torch.bool, device=device)

        decoder: Decoder = SharedPromptDecoder(self._policy) if self._packed else PlainDecoder(self._policy)
        logits_RV = decoder.start(prompts, prompt_of_row, num_tokens)
        active_R = torch.arange(num_rows, device=device)  # which row stands at each place of the shrinking batch
        written = 0
        for t in range(num_tokens):
            position_R = torch.full_like(active_R, t)
            token_R, logp_R = draw(logits_RV, position_R, uniform_NT[active_R, t], sampling, end_ids)
            token_NT[active_R, t] = token_R
            logp_NT[active_R, t] = logp_R.to(logp_NT.dtype)
            ended_R = torch.isin(token_R, end_ids) & ~stopped_N[active_R]
            length_N[active_R[ended_R]] = t + 1
            stopped_N[active_R[ended_R]] = True
            alive_R = ~stopped_N[active_R]
            num_alive = int(alive_R.sum())
            written += num_alive
            report(written, num_rows - num_alive)
            if num_alive == 0 or t + 1 == num_tokens:
                break
            if num_alive <= len(active_R) * 7 // 8:  # a copy of the cache pays once an eighth of the work is waste
                keep_R = alive_R.nonzero()[:, 0]
                decoder.keep(keep_R)
                active_R, token_R = active_R[keep_R], token_R[keep_R]
            logits_RV = decoder.advance(token_R)
        return self._gather(rows, token_NT, logp_NT, length_N, stopped_N)

    def _gather(
        self, rows: Sequence[Row], token_NT: Tensor, logp_NT: Tensor, length_N: Tensor, stopped_N: Tensor
    ) -> list[Rollout]:
        out = []
        for row, tokens, logps, length, stopped in zip(
            rows, token_NT.tolist(), logp_NT.tolist(), length_N.tolist(), stopped_N.tolist(), strict=True
        ):
            response = tuple(tokens[:length])
            out.append(
                Rollout(
                    problem=row.problem.id,
                    sample=row.sample,
                    prompt=row.prompt,
                    response=response,
                    mask=(True,) * length,
                    logp=tuple(logps[:length]),
                    version=self.version,
                    ended="stop" if stopped else "length",
                    text=self._policy.decode(response),
                )
            )
        return out
