"""A process that writes attempts: upslope's own sampler, with weights that are handed to it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import ray
import torch

from upslope.cluster.life import Life, Sign
from upslope.cluster.parcel import Parcel, checksum
from upslope.model.load import pick_device
from upslope.model.policy import Policy
from upslope.model.precision import cast_weights
from upslope.rollout.address import Address
from upslope.rollout.base import Request
from upslope.rollout.local import LocalSampler
from upslope.training.assemble import with_adapter
from upslope.training.session import repeat_bits
from upslope.training.settings import RunSettings
from upslope.types import Rollout, Sampling

News = tuple[int, Sequence[tuple[int, Rollout]]]
"""(tokens written so far, (place, rollout) of the requests that have ended since the last news)."""


class Writer:
    """One sampler. It computes as the learner's own would: the same precision, the same order of sums."""

    def __init__(self, opened: tuple[Any, Any], settings: RunSettings, dtype: torch.dtype, threads: int) -> None:
        model, tokenizer = opened
        self._life = Life()
        self._news_lock = threading.Lock()
        self._written, self._ended = 0, list[tuple[int, Rollout]]()
        with self._life.at("opening the model"):
            torch.set_num_threads(threads)
            if settings.deterministic:
                repeat_bits()
            device = pick_device(settings.device)
            model = with_adapter(model, settings.learn, settings.seed, None).to(device)
            policy = Policy(model, tokenizer)
            cast_weights(policy.model, dtype)
            self._policy = policy
            self._sampler = LocalSampler(policy, max_rows=settings.sample.max_rows)

    @ray.method(concurrency_group="watch")
    def sign(self) -> Sign:
        return self._life.sign()

    def load(self, parcel: Parcel) -> tuple[int, str]:
        """Write with these weights from now on. Returns their version, and the checksum of what the model then has."""
        with self._life.at(f"loading version {parcel.version}"):
            self._sampler.load(parcel.weights(), parcel.version)
            mine = self._policy.weights()
            return parcel.version, checksum({name: mine[name] for name in parcel.arrays})

    def write(self, requests: Sequence[Request], sampling: Sampling, address: Address) -> None:
        """Write the attempts; ``news`` hands them over while this goes on, and afterwards."""
        with self._news_lock:
            self._written, self._ended = 0, []
        with self._life.at(f"writing {len(requests)} attempts"):
            self._sampler.generate(requests, sampling, address, self._progress, self._finished)

    def _progress(self, num_tokens: int, num_rows: int) -> None:
        self._life.beat()
        self._written = num_tokens

    def _finished(self, place: int, rollout: Rollout) -> None:
        with self._news_lock:
            self._ended.append((place, rollout))

    @ray.method(concurrency_group="watch")
    def news(self) -> News:
        """What has come of the present ``write`` since it was last asked."""
        with self._news_lock:
            ended, self._ended = self._ended, []
            return self._written, ended
