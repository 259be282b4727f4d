"""A sampler that keeps what it wrote: an evaluation that was stopped goes on from its last attempt."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from torch import Tensor

from upslope.errors import UserError
from upslope.lab.around import AroundSampler
from upslope.lab.rows import Mark, Row, RowFile, is_count, is_number
from upslope.model.renderer import Renderer
from upslope.rollout.address import Address
from upslope.rollout.base import Finished, More, Progress, Request, Sampler
from upslope.rollout.stopping import text_read
from upslope.types import Ended, Rollout, Sampling


class KeptSampler(AroundSampler):
    """Another sampler, whose attempts go to ``file`` as soon as each has ended; what is there is not made again.

    A row has the problem's ``id``, ``sample`` (of its attempts), ``temperature``, ``response`` (the text, so that
    ``upslope score`` reads the file), ``tokens``, ``chosen`` (0 where the world wrote), ``ended`` and ``unanswered``;
    a later turn of a conversation also ``begin``, the token of the attempt that it begins with.
    Log-probabilities are not kept: this is for evaluation. Draws are addressed, so an attempt made later is the one
    that would have been made at once, to rounding.
    """

    def __init__(self, sampler: Sampler, file: RowFile, mark: Mark, renderer: Renderer) -> None:
        """Raises UserError for rows of ``file`` that were made otherwise."""
        super().__init__(sampler)
        self._file, self._renderer = file, renderer
        self._kept = {key_of(row): row for row in file.read(mark)}

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        raise RuntimeError("attempts are kept of one policy only")

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        address: Address,
        progress: Progress | None = None,
        finished: Finished | None = None,
        more: More | None = None,
    ) -> list[Rollout]:
        done: dict[int, Rollout] = {}
        for place, request in enumerate(requests):
            row = self._kept.get((request.problem_id, request.sample, sampling.temperature, request.begin))
            if row is not None:
                done[place] = self._rollout(request, row)
        left = [place for place in range(len(requests)) if place not in done]
        num_tokens, num_kept = sum(len(r.response) for r in done.values()), len(done)

        def seen(tokens: int, ended: int) -> None:
            if progress is not None:
                progress(num_tokens + tokens, num_kept + ended)

        def end(place: int, rollout: Rollout) -> None:
            done[place] = rollout
            if finished is not None:
                finished(place, rollout)

        def made(number: int, rollout: Rollout) -> None:
            self._keep(rollout, sampling, requests[left[number]].begin)
            end(left[number], rollout)

        seen(0, 0)
        for place, rollout in list(done.items()):
            end(place, rollout)
        if left:
            self._inner.generate([requests[i] for i in left], sampling, address, seen, made)
        return [done[place] for place in range(len(requests))]

    def _keep(self, rollout: Rollout, sampling: Sampling, begin: int) -> None:
        row: Row = {
            "id": rollout.problem_id,
            "sample": rollout.sample,
            "temperature": sampling.temperature,
            "response": text_read(self._renderer, rollout, sampling),
            "ended": rollout.ended,
            "tokens": rollout.response,
            "chosen": list(map(int, rollout.mask)),
            "unanswered": rollout.unanswered,
            "prompt_crc": prompt_crc(rollout.prompt),
        }
        if begin:
            row["begin"] = begin
        self._file.add(row)
        self._kept[key_of(row)] = row

    def _rollout(self, request: Request, row: Row) -> Rollout:
        """Raises UserError for an attempt at another prompt."""
        if row["prompt_crc"] != prompt_crc(request.prompt):
            raise UserError(
                f"{self._file.path}: the prompt of problem {request.problem_id!r} is another now; choose another file"
            )
        return Rollout(
            problem_id=request.problem_id,
            sample=request.sample,
            prompt=request.prompt,
            response=tuple(row["tokens"]),
            mask=tuple(map(bool, row["chosen"])),
            logp=None,
            version=self.version,
            ended=row["ended"],
            text="",
            unanswered=row["unanswered"],
        )


def attempts_file(path: Path) -> RowFile:
    """A file of such rows. Raises UserError for a path where none can be."""
    return RowFile(path, is_attempt, key_of)


def key_of(row: Row) -> tuple[str, int, float, int]:
    """Which attempt, or turn of one, a row is."""
    return row["id"], row["sample"], row["temperature"], row.get("begin", 0)


def is_attempt(row: Row) -> bool:
    """Whether a row has everything that an attempt is made of."""
    tokens, chosen = row["tokens"], row["chosen"]
    counts = (row["sample"], row["unanswered"], row["prompt_crc"], row.get("begin", 0), *tokens)
    return (
        isinstance(row["id"], str)
        and all(map(is_count, counts))
        and is_number(row["temperature"])
        and row["ended"] in get_args(Ended)
        and len(chosen) == len(tokens)
        and all(type(mark) is int and mark in (0, 1) for mark in chosen)
    )


def prompt_crc(tokens: Iterable[int]) -> int:
    """A checksum of a prompt."""
    return zlib.crc32(" ".join(map(str, tokens)).encode())
