"""A sampler that writes what it is told: for tests of everything that samples, without a model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from upslope.errors import UserError
from upslope.rollout.address import Address
from upslope.rollout.base import Finished, Progress, Request, require_room, to_rollout
from upslope.types import Rollout, Sampling

Told = tuple[Sequence[int], Sequence[float]]
"""The tokens of a response, and the log-probability of each in nats."""
Script = Mapping[tuple[str, int], Sequence[int]] | Callable[[Request], Told]


class ScriptedSampler:
    """A ``Sampler`` whose rollouts are given, by (problem, sample) or as a function of the request. Tokens that are
    given by a mapping are certain: their log-probabilities are 0.

    It does what a real one does and nothing that a real one could not: it raises UserError for a request without a
    script, and for a response that no policy can have written (empty, longer than ``max_tokens``, over before
    ``min_tokens``, going on after an end token or broken off before one, with a log-probability above 0 or not one for
    each token). Requests end one after the other, and what is written depends on neither weights nor address, unless
    the function makes it so.

    >>> sampler = ScriptedSampler({("toy/0", 0): (7, 5, 2)}, end_ids=(2,))
    >>> (rollout,) = sampler.generate([Request("toy/0", 0, prompt=(3,))], Sampling(max_tokens=4), Address(0, "sample"))
    >>> rollout.response, rollout.logp, rollout.ended
    ((7, 5, 2), (0.0, 0.0, 0.0), 'stop')
    >>> sampler.asked
    [Request(problem_id='toy/0', sample=0, prompt=(3,))]
    """

    def __init__(self, script: Script, *, end_ids: Sequence[int], max_positions: int = sys.maxsize) -> None:
        """``max_positions``: how long the model that it stands for lets prompt and response together be."""
        self._script, self._end_ids, self._max_positions = script, tuple(end_ids), max_positions
        self.version = 0
        self.asked: list[Request] = []
        """Every request so far, in order."""

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Only the version is kept."""
        self.version = version

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        address: Address,
        progress: Progress | None = None,
        finished: Finished | None = None,
    ) -> list[Rollout]:
        """See ``Sampler.generate``. ``progress`` is called after every request."""
        require_room(requests, sampling, self._max_positions)
        rollouts: list[Rollout] = []
        num_written = 0
        for place, request in enumerate(requests):
            self.asked.append(request)
            response, logp = self._told(request)
            _require_possible(request, response, logp, sampling, self._end_ids)
            logp = [0.0] * len(response) if sampling.greedy else logp
            rollouts.append(to_rollout(request, response, logp, self._end_ids, self.version))
            num_written += len(response)
            if progress is not None:
                progress(num_written, len(rollouts))
            if finished is not None:
                finished(place, rollouts[place])
        return rollouts

    def _told(self, request: Request) -> Told:
        if callable(self._script):
            return self._script(request)
        response = self._script.get((request.problem_id, request.sample))
        if response is None:
            raise UserError(f"the script has nothing for sample {request.sample} of problem {request.problem_id}")
        return response, [0.0] * len(response)


def _require_possible(
    request: Request, response: Sequence[int], logp: Sequence[float], sampling: Sampling, end_ids: Sequence[int]
) -> None:
    """Raise UserError for a response that could not have been drawn."""
    ends = [t for t, token in enumerate(response) if token in end_ids]
    faults = {
        "is empty": not response,
        f"is longer than max_tokens={sampling.max_tokens}": len(response) > sampling.max_tokens,
        f"ends before min_tokens={sampling.min_tokens}": any(t < sampling.min_tokens for t in ends),
        "goes on after an end token": any(t + 1 < len(response) for t in ends),
        f"has neither an end token nor max_tokens={sampling.max_tokens}": not ends
        and len(response) < sampling.max_tokens,
        f"has {len(logp)} log-probabilities": len(logp) != len(response),
        "has a log-probability that is not at most 0": not all(x <= 0 for x in logp),
    }
    found = [fault for fault, there in faults.items() if there]
    if found:
        where = f"sample {request.sample} of problem {request.problem_id}"
        raise UserError(f"the script's response to {where}, {len(response)} tokens, {found[0]}")
