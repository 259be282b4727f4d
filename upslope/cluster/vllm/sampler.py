"""A sampler whose tokens a vLLM server draws."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from upslope.cluster.vllm.check import GapCheck
from upslope.cluster.vllm.client import VllmClient
from upslope.cluster.vllm.handover import Handover
from upslope.errors import NonFinite, Unavailable, UserError
from upslope.model.policy import Policy
from upslope.rollout.address import Address
from upslope.rollout.base import Finished, More, Progress, Request, require_room, to_rollout
from upslope.types import Rollout, Sampling

LEAST_TEMPERATURE = 0.01
"""vLLM silently raises a lower one to it."""
NONE_LEFT = -9000.0
"""vLLM writes log 0 as -9999."""
NEVER = -1e9
"""Added to the logits of tokens that are never drawn: their share of a softmax is exactly 0 in any precision. Unlike
minus infinity it is a number of JSON."""
GENERATE = "/inference/v1/generate"


@dataclass(frozen=True)
class HandedOver:
    """What came of handing over weights.

    >>> HandedOver(3, "3:0123456789abcdef", gap=1e-5, seconds=2.5).row()
    {'handover_gap': 1e-05, 'handover_seconds': 2.5}
    """

    version: int
    label: str
    """Version and checksum, as the server has them."""
    gap: float
    """Nats by which sampler and learner differ over a token, at most, over the sequences of the check."""
    seconds: float

    def row(self) -> dict[str, float]:
        """What a step's row of the journal says of it."""
        return {"handover_gap": self.gap, "handover_seconds": round(self.seconds, 3)}


@dataclass
class Draft:
    """A response as far as it has come."""

    tokens: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)


class VllmSampler:
    """Samples on a vLLM server; a ``Sampler``. Its draws are not by address: each request is seeded by it, and vLLM
    makes tokens of the seed in a way of its own, which may depend on its version, its machine and a request's company.

    It has no listeners. The first handover, of the weights that the policy has, happens as it is made.
    """

    listens = False
    takes_more = False

    def __init__(
        self,
        policy: Policy,
        client: VllmClient,
        handover: Handover,
        *,
        most_gap: float,
    ) -> None:
        """``policy`` is the learner's, or a copy that ``load`` keeps equal to it: the check scores with it.
        Raises UserError for what ``load`` raises, and for a server that cannot do the job."""
        self._policy, self._client, self._handover = policy, client, handover
        self._max_positions = min(policy.max_positions, _served_positions(client))
        self._check = GapCheck(policy, most_gap, self._max_positions)
        self._bias = {str(token): NEVER for token in policy.never.ids.tolist()}
        self.handed_over: list[HandedOver] = []
        self.version, self._label = 0, ""
        self.load({}, 0)

    @property
    def gaps(self) -> list[float]:
        """The gap after every load so far, in nats."""
        return [handed.gap for handed in self.handed_over]

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """See ``Sampler.load``. Raises UserError if the server says that it uses other weights, or writes with others
        (``GapCheck``), and Unavailable if it is gone."""
        began = time.perf_counter()
        self._policy.take(weights)
        self._label = self._handover.give(self._policy, version)
        self.version = version
        gap = self._check.require(self.generate, version)
        self.handed_over.append(HandedOver(version, self._label, gap, time.perf_counter() - began))

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        address: Address,
        progress: Progress | None = None,
        finished: Finished | None = None,
        more: More | None = None,
    ) -> list[Rollout]:
        """See ``Sampler.generate``. ``progress`` is called after every piece that comes, a few tokens of a request."""
        require_room(requests, sampling, self._max_positions)
        bodies = [self._body(request, sampling, address) for request in requests]
        drafts = [Draft() for _ in requests]
        rollouts: dict[int, Rollout] = {}
        num_written = 0
        with contextlib.closing(self._client.streams(GENERATE, bodies)) as pieces:
            for place, piece in pieces:
                (choice,) = piece["choices"] or [None]
                if choice is None:
                    continue
                num_written += _append(drafts[place], choice, requests[place])
                why = choice["finish_reason"]
                if why is not None:
                    rollouts[place] = self._rollout(requests[place], drafts[place], sampling, why)
                    self._require_ours(choice, requests[place])
                if progress is not None:
                    progress(num_written, len(rollouts))
                if why is not None and finished is not None:
                    finished(place, rollouts[place])
        return [rollouts[place] for place in range(len(requests))]

    def _body(self, request: Request, sampling: Sampling, address: Address) -> dict[str, Any]:
        if sampling.stop:
            raise UserError("vLLM is asked for tokens and reads no text, so it knows no stop string; leave stop out")
        if 0 < sampling.temperature < LEAST_TEMPERATURE:
            raise UserError(
                f"vLLM takes no temperature between 0 and {LEAST_TEMPERATURE:g}, and {sampling.temperature:g} is one; "
                "set sample.temperature to 0 or higher than that"
            )
        how: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_tokens": request.turn(sampling).min_tokens,
            "max_tokens": request.turn(sampling).max_tokens,
            "stop_token_ids": list(self._policy.end_ids),
            "ignore_eos": True,  # our end tokens, and no other
            "logprobs": 0,  # of the token that was drawn alone
            "detokenize": False,
        }
        if self._bias:
            how["logit_bias"] = self._bias
        if not sampling.greedy:
            turn = f"\x00{request.begin}" if request.begin else ""  # a later turn draws other numbers
            how["seed"] = address.key(request.problem_id + turn, request.sample) >> 1  # it is signed there
        return {"token_ids": list(request.prompt), "stream": True, "sampling_params": how}

    def _require_ours(self, choice: Mapping[str, Any], request: Request) -> None:
        """Raise UserError unless all of the response was written with the weights that were loaded last."""
        spans = choice.get("weight_versions") or []
        versions = [span["version"] for span in spans]
        if versions != [self._label]:
            raise UserError(
                f"problem {request.problem_id}: the vLLM server wrote with weights {versions}, and was given "
                f"{self._label!r}; give the run a server that nobody else loads weights into"
            )

    def _rollout(self, request: Request, draft: Draft, sampling: Sampling, why: str) -> Rollout:
        over = bool(draft.tokens) and draft.tokens[-1] in self._policy.end_ids
        full = len(draft.tokens) == request.turn(sampling).max_tokens
        if why not in ("stop", "length") or not (over or full):
            raise Unavailable(
                f"problem {request.problem_id}: the vLLM server broke off after {len(draft.tokens)} tokens ({why}); "
                "look at its log"
            )
        logp = [0.0] * len(draft.tokens) if sampling.greedy else draft.logp
        return to_rollout(request, draft.tokens, logp, self._policy.end_ids, self.version)


def _append(draft: Draft, choice: Mapping[str, Any], request: Request) -> int:
    """Add a piece to a response; returns how many tokens it has. Raises NonFinite for what is no log-probability."""
    tokens = choice["token_ids"] or []
    content = (choice["logprobs"] or {}).get("content") or []
    if len(content) != len(tokens):
        raise UserError(
            f"problem {request.problem_id}: the vLLM server gave {len(content)} log-probabilities for {len(tokens)} "
            "tokens; it must be of a version that docs/vllm.md names"
        )
    for token, entry in zip(tokens, content, strict=True):
        logp = entry["logprob"]
        if logp is None or not math.isfinite(logp) or logp < NONE_LEFT:
            raise NonFinite(
                f"problem {request.problem_id}: the vLLM server drew token {token} of log-probability {logp}"
            )
        draft.tokens.append(int(token))
        draft.logp.append(min(float(logp), 0.0))
    return len(tokens)


def _served_positions(client: VllmClient) -> int:
    """The longest prompt and response that the server takes."""
    models = (client.get("/v1/models") or {}).get("data") or []
    if not models or "max_model_len" not in models[0]:
        raise UserError(f"what answers at {client.url} is no vLLM server that upslope knows; see docs/vllm.md")
    return int(models[0]["max_model_len"])
