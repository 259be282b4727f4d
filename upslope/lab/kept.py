"""Work of hours in a file of rows, one JSON object a line: what is there is not done again, what was made otherwise is
refused."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from upslope.errors import UserError
from upslope.model.policy import Policy
from upslope.rollout.address import Address
from upslope.rollout.base import Finished, Progress, Request, Sampler
from upslope.tasks.base import Task
from upslope.training.settings import RunSettings
from upslope.types import Rollout, Sampling

Row = dict[str, Any]


def mark_of(policy: Policy, *told: Any) -> str:
    """What rows depend on, in twelve digits: the weights, and whatever else is ``told``. No file may mix several."""
    digest = hashlib.sha256(json.dumps(told, default=repr).encode())
    for name, weight in policy.model.state_dict().items():
        digest.update(f"{name} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def drawn_with(settings: RunSettings, task: Task) -> tuple[Any, ...]:
    """What decides an attempt besides the weights and the prompt."""
    sampling = replace(settings.sample.sampling(), temperature=settings.eval.temperature)
    return settings.seed, sampling, task.name, sorted(settings.task.options.items())


def read_rows(file: Path, mark: str) -> list[Row]:
    """The rows that are there; a last line that was cut off is taken away. Raises UserError for a row that was made
    otherwise, or is none."""
    if not file.exists():
        return []
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        with file.open("r+b") as out:
            out.truncate(len(whole))
    rows: list[Row] = []
    for number, line in enumerate(whole.decode("utf-8", "replace").split("\n")[:-1], 1):
        try:
            row = json.loads(line)
            made_with = row["measured"]
            row["id"]
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{file} row {number} is none of this command's; choose another file") from None
        if made_with != mark:
            raise UserError(
                f"{file} row {number} was made with other weights, another task, seed or sampling; choose another "
                "file, or give what it was made with"
            )
        rows.append(row)
    return rows


def write_row(out: IO[str], row: Mapping[str, Any], mark: str) -> None:
    """Append a row; it is on its way to the disk when this returns."""
    out.write(json.dumps({**row, "measured": mark}, ensure_ascii=False) + "\n")
    out.flush()


class KeptSampler:
    """Another sampler, whose attempts go to ``file`` as soon as each has ended; what is there is not made again.

    A row has the problem's ``id``, ``sample`` (of its attempts), ``temperature``, ``response`` (the text, so that
    ``upslope score`` reads the file), ``tokens``, ``chosen`` (0 where the world wrote), ``ended`` and ``unanswered``.
    Log-probabilities are not kept: this is for evaluation. Draws are addressed, so an attempt made later is the one
    that would have been made at once, to rounding.
    """

    def __init__(self, sampler: Sampler, file: Path, mark: str, text: Callable[[Sequence[int]], str]) -> None:
        """Raises UserError for rows of ``file`` that were made otherwise."""
        self._sampler, self._file, self._mark, self._text = sampler, file, mark, text
        self._kept = {(row["id"], row["sample"], row["temperature"]): row for row in read_rows(file, mark)}

    @property
    def listens(self) -> bool:
        return self._sampler.listens

    @property
    def version(self) -> int:
        return self._sampler.version

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        raise RuntimeError("attempts are kept of one policy only")

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        address: Address,
        progress: Progress | None = None,
        finished: Finished | None = None,
    ) -> list[Rollout]:
        done: dict[int, Rollout] = {}
        for place, request in enumerate(requests):
            row = self._kept.get((request.problem_id, request.sample, sampling.temperature))
            if row is not None:
                done[place] = self._rollout(request, row)
        left = [place for place in range(len(requests)) if place not in done]
        num_tokens, num_kept = sum(len(r.response) for r in done.values()), len(done)
        for place, rollout in list(done.items()):
            if finished is not None:
                finished(place, rollout)

        with self._file.open("a", encoding="utf-8") as out:

            def end(number: int, rollout: Rollout) -> None:
                write_row(out, self._row(rollout, sampling.temperature), self._mark)
                if finished is not None:
                    finished(left[number], rollout)

            def seen(tokens: int, ended: int) -> None:
                if progress is not None:
                    progress(num_tokens + tokens, num_kept + ended)

            made = self._sampler.generate([requests[i] for i in left], sampling, address, seen, end) if left else []
        done |= dict(zip(left, made, strict=True))
        return [done[place] for place in range(len(requests))]

    def _row(self, rollout: Rollout, temperature: float) -> Row:
        return {
            "id": rollout.problem_id,
            "sample": rollout.sample,
            "temperature": temperature,
            "response": self._text(rollout.response),
            "ended": rollout.ended,
            "tokens": rollout.response,
            "chosen": list(map(int, rollout.mask)),
            "unanswered": rollout.unanswered,
            "prompt_crc": crc_of(rollout.prompt),
        }

    def _rollout(self, request: Request, row: Row) -> Rollout:
        """Raises UserError for an attempt at another prompt."""
        if row["prompt_crc"] != crc_of(request.prompt):
            raise UserError(
                f"{self._file}: the prompt of problem {request.problem_id!r} is another now; choose another file"
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


def crc_of(tokens: Iterable[int]) -> int:
    """A checksum of a prompt."""
    return zlib.crc32(" ".join(map(str, tokens)).encode())
