"""A sampler that writes what it is told: for tests of everything that samples, without a model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from upslope.errors import UserError
from upslope.rollout.address import Address
from upslope.rollout.base import Finished, More, Progress, Request, require_room, to_rollout
from upslope.types import Rollout, Sampling

Told = tuple[Sequence[int], Sequence[float]]
"""The tokens that the policy chooses, and the log-probability of each in nats."""
Script = Mapping[tuple[str, int], Sequence[int]] | Callable[[Request], Told]


class Heard(NamedTuple):
    """A script's tokens with a listener's between them."""

    tokens: tuple[int, ...]
    mask: tuple[bool, ...]
    logp: tuple[float, ...]
    unanswered: int


class ScriptedSampler:
    """A ``Sampler`` whose policy's tokens are given, by (problem, sample) or as a function of the request; where the
    request has a listener, its replies come between them. Tokens that are given by a mapping are certain: their
    log-probabilities are 0.

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

    listens = True
    takes_more = False

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
        more: More | None = None,
    ) -> list[Rollout]:
        """See ``Sampler.generate``. ``progress`` is called after every request."""
        require_room(requests, sampling, self._max_positions)
        if sampling.stop:
            raise UserError("a script has tokens and no text, so no stop string can be found in it; leave stop out")
        rollouts: list[Rollout] = []
        num_written = 0
        for place, request in enumerate(requests):
            self.asked.append(request)
            told, logp = self._told(request)
            here = request.turn(sampling)
            response = _heard(request, told, [0.0] * len(told) if sampling.greedy else logp, here, self._end_ids)
            _require_possible(request, told, logp, response, here, self._end_ids)
            rollouts.append(
                to_rollout(
                    request,
                    response.tokens,
                    response.logp,
                    self._end_ids,
                    self.version,
                    mask=response.mask,
                    unanswered=response.unanswered,
                )
            )
            num_written += len(response.tokens)
            if progress is not None:
                progress(num_written, len(rollouts))
            if finished is not None:
                finished(place, rollouts[place])
        return rollouts

    def _told(self, request: Request) -> Told:
        if callable(self._script):
            return self._script(request)
        response = self._script.get((request.problem_id, request.sample))
        if response is None or request.begin:
            raise UserError(f"the script has nothing for sample {request.sample} of problem {request.problem_id}")
        return response, [0.0] * len(response)


def _heard(
    request: Request, told: Sequence[int], logp: Sequence[float], sampling: Sampling, end_ids: Sequence[int]
) -> Heard:
    """The script's tokens with the world's replies between them, as far as the sampling has room for both."""
    tokens: list[int] = []
    mask: list[bool] = []
    logps: list[float] = []
    unanswered = 0
    for token, value in zip(told, logp, strict=False):  # their numbers are compared afterwards
        tokens, mask, logps = [*tokens, token], [*mask, True], [*logps, value]
        room = sampling.max_tokens - len(tokens)
        if room and request.listener is not None and token not in end_ids and request.listener.pauses(token):
            reply = request.listener.reply(tokens)
            unanswered += reply == ()
            said = (reply or ())[:room]
            tokens, mask, logps = [*tokens, *said], [*mask, *[False] * len(said)], [*logps, *[0.0] * len(said)]
        if len(tokens) == sampling.max_tokens and not all(mask):
            break  # the world took the room of what the script has left
    return Heard(tuple(tokens), tuple(mask), tuple(logps), unanswered)


def _require_possible(
    request: Request,
    told: Sequence[int],
    logp: Sequence[float],
    response: Heard,
    sampling: Sampling,
    end_ids: Sequence[int],
) -> None:
    """Raise UserError for a response that could not have been drawn."""
    length = len(response.tokens)
    ends = [t for t, token in enumerate(response.tokens) if response.mask[t] and token in end_ids]
    faults = {
        "is empty": not told,
        f"has {len(logp)} log-probabilities": len(logp) != len(told),
        f"is longer than max_tokens={sampling.max_tokens}": length > sampling.max_tokens,
        f"ends before min_tokens={sampling.min_tokens}": any(t < sampling.min_tokens for t in ends),
        "goes on after an end token": any(t + 1 < length for t in ends),
        f"has neither an end token nor max_tokens={sampling.max_tokens}": not ends and length < sampling.max_tokens,
        "has a log-probability that is not at most 0": not all(x <= 0 for x in logp),
    }
    found = [fault for fault, there in faults.items() if there]
    if found:
        where = f"sample {request.sample} of problem {request.problem_id}"
        raise UserError(f"the script's response to {where}, {len(told)} tokens, {found[0]}")
