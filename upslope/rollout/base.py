"""The seam between those who want attempts and whoever writes them: tokens in, tokens and log-probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from upslope.errors import UserError
from upslope.rollout.address import Address
from upslope.types import Rollout, Sampling

Progress = Callable[[int, int], None]
"""Called with (tokens written so far, requests finished so far)."""
Finished = Callable[[int, Rollout], None]
"""Called with a request's place among those given, and its rollout."""
More = Callable[[bool], "Sequence[Request] | None"]
"""Further requests that can begin by now; None: there will be no more. Called with whether nothing is being written:
then it waits until there are some."""


class Listener(Protocol):
    """What may put tokens of its own in the middle of a response while it is written."""

    def pauses(self, token: int) -> bool:
        """Whether it may have something to say after this token; asked of every token, so quick."""
        ...

    def reply(self, response: Sequence[int]) -> tuple[int, ...] | None:
        """The tokens that follow ``response``, all that was written so far by both; () if it was asked and has nothing
        to say, None if this is no question to it."""
        ...


@dataclass(frozen=True)
class Request:
    """One attempt to be made: a prompt's tokens, and what addresses its random draws.

    >>> Request("toy/0", sample=1, prompt=(5, 6)).prompt
    (5, 6)
    """

    problem_id: str
    sample: int
    """Which of the problem's attempts; no two of a step may have the same problem and sample."""
    prompt: tuple[int, ...]
    """Not empty."""
    listener: Listener | None = field(default=None, compare=False, repr=False)
    """Who may speak in between; None: the policy writes alone."""
    begin: int = field(default=0, repr=False)
    """Which token of the attempt is the first to be written: a later turn's prompt holds the tokens before it."""
    end: int = field(default=0, repr=False)
    """Before which one it is cut, where that is earlier than ``max_tokens``; 0: it is not."""

    def stop(self, max_tokens: int) -> int:
        """Before which token of the attempt it is cut."""
        return min(self.end or max_tokens, max_tokens)

    def turn(self, sampling: Sampling) -> Sampling:
        """The same, its tokens counted from this turn's first."""
        most = self.stop(sampling.max_tokens) - self.begin
        return replace(sampling, max_tokens=most, min_tokens=min(max(0, sampling.min_tokens - self.begin), most))


class Sampler(Protocol):
    """Writes rollouts with the weights that were loaded last. It knows neither messages nor problems nor text: prompts
    come from whoever holds the renderer, and so does the text of a response (``rollout/groups.py``).

    Every implementation owes, and tests/rollout/test_sampler.py asks of it:

    - *The distribution.* Token t is drawn from q = softmax of ``model.distribution.adjusted(logits, t, sampling)``:
      logits over temperature, no end token before ``min_tokens``, then top-k, then top-p. The rollout's ``logp`` is
      log q of each of its tokens, in nats: of what it was really drawn from, with everything that was cut or banned.
      Greedy decoding (temperature 0) is certain: 0.
    - *The end.* A response ends with the first end token that the policy chose (``ended="stop"``, and that token is
      its last), or with the token of the policy's choice that completes one of ``stop`` in the response's text, if at
      least ``min_tokens`` came before it (``"stop_string"``), else after ``max_tokens`` (``"length"``), whoever wrote
      them. It is never empty. A sampler that reads no text raises UserError where there is a ``stop``.
    - *The world.* Where a request has a ``listener``, it is asked after every token that the policy chose and that does
      not end the response. Its reply follows at once, as far as ``max_tokens`` leaves room: with log-probability 0, and
      not chosen (``mask``). All else is the policy's choice.
    - *Randomness by address.* The draws of a request are a function of ``address``, its problem and its sample: token t
      takes number t of ``address.uniforms``, and those that stand where the world speaks are not taken. Whoever cannot
      take numbers seeds itself with ``address.key``. So what is written does not depend on the order of the requests,
      their company, or a restart.
    - *Turns.* A request may be a later turn of an attempt: its tokens are those from ``begin`` on, in their draws, for
      ``min_tokens`` and for where they are cut (``end``). The rollout's response is this turn's alone.
    - *The version.* Every rollout carries the version of the weights that wrote it; where new weights reach it in the
      middle, that of each token as well, and ``logp`` is of what each token was drawn from.
    - *No text.* ``text`` is empty and ``score`` is none yet.
    """

    @property
    def listens(self) -> bool:
        """Whether it pauses for a request's listener. One that does not is never given any."""
        ...

    @property
    def takes_more(self) -> bool:
        """Whether ``generate`` takes ``more``: requests that come while others are written. One that does not is never
        given any, and its turns are asked for in rounds."""
        ...

    @property
    def version(self) -> int:
        """Of the weights in use; 0 before ``load``."""
        ...

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Write with these weights, by parameter name, from the next ``generate`` on."""
        ...

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        address: Address,
        progress: Progress | None = None,
        finished: Finished | None = None,
        more: More | None = None,
    ) -> list[Rollout]:
        """One rollout for each request, in their order; those that ``more`` gives are numbered on.

        ``finished`` is told of every rollout, once, as soon as it has ended; ``progress`` of how far all of them are,
        before that, with numbers that never fall and end at the totals. What either raises ends the generation. All
        calls are made in the thread that calls this, which may be another one from time to time but never two at once.

        Raises UserError, before anything is written, if a prompt and ``max_tokens`` do not fit the model's positions,
        and NonFinite if logits are not finite.
        """
        ...


def require_room(requests: Sequence[Request], sampling: Sampling, max_positions: int) -> None:
    """Raise UserError unless every prompt and the longest response to it fit the model's positions."""
    for request in requests:
        most = request.turn(sampling).max_tokens
        if len(request.prompt) + most > max_positions:
            answer = f"further {most}" if request.begin else f"max_tokens={most}"
            raise UserError(
                f"problem {request.problem_id}: {len(request.prompt)} prompt tokens and {answer} do not fit the "
                f"model's {max_positions} positions; lower sample.max_tokens or shorten the prompt"
            )


def require_prompt(rollout: Rollout, asked: tuple[int, ...]) -> None:
    """Raise UserError for a rollout behind other tokens than were ``asked``: somebody tokenised a text again, and the
    learner would score what was never read."""
    if rollout.prompt == asked:
        return
    same = next((i for i, (a, b) in enumerate(zip(rollout.prompt, asked, strict=False)) if a != b), len(asked))
    raise UserError(
        f"problem {rollout.problem_id}: the sampler wrote behind a prompt of {len(rollout.prompt)} tokens that is not "
        f"the one of {len(asked)} tokens that it was given (other from token {min(same, len(rollout.prompt))} on); "
        "what was read and sampled must not be tokenised again"
    )


def to_rollout(
    request: Request,
    response: Sequence[int],
    logp: Sequence[float],
    end_ids: Sequence[int],
    version: int,
    *,
    mask: Sequence[bool] | None = None,
    unanswered: int = 0,
    versions: tuple[int, ...] | None = None,
    stopped: bool = False,
) -> Rollout:
    """What a sampler hands over for a request, from a response that has ended. ``mask``: which tokens the policy chose;
    None: all. ``unanswered``: how often a listener was asked and had nothing to say. ``versions``: by token, where
    there were several; ``version`` is the newest. ``stopped``: whether the last token completes a stop string."""
    mask = (True,) * len(response) if mask is None else tuple(mask)
    return Rollout(
        problem_id=request.problem_id,
        sample=request.sample,
        prompt=request.prompt,
        response=tuple(response),
        mask=mask,
        logp=tuple(logp),
        version=version,
        ended="stop" if mask[-1] and response[-1] in end_ids else "stop_string" if stopped else "length",
        text="",
        unanswered=unanswered,
        versions=versions,
    )
