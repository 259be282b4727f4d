"""A process that writes attempts: upslope's own sampler, with weights that are handed to it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import ray
import torch

from upslope.cluster.gpus import given_gpu
from upslope.cluster.life import Life, SignOfLife
from upslope.cluster.machines import own_machine
from upslope.cluster.parcel import Parcel
from upslope.model.digest import weights_digest
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

Loaded = tuple[int, str]
"""Version and checksum of the weights that a model had."""


class SamplerWorker:
    """One sampler. It computes as the learner's own would: the same precision, the same order of sums."""

    def __init__(self, opened: tuple[Any, Any], settings: RunSettings, dtype: torch.dtype, threads: int) -> None:
        model, tokenizer = opened
        self._life = Life(given_gpu(), own_machine())
        self._lock = threading.Lock()
        self._written: dict[int, int] = {}
        self._ended: dict[int, list[tuple[int, Rollout]]] = {}
        self._key = 0
        self._handle: Any = None
        self._has: Loaded = (0, "")
        self._used: list[Loaded] = []
        self._newest: tuple[int, Any] = (0, None)
        with self._life.at("opening the model"):
            torch.set_num_threads(threads)
            device = pick_device(settings.device)
            if settings.deterministic and device.type == "cpu":
                repeat_bits()
            model = with_adapter(model, settings.learn, settings.seed, None).to(device)
            policy = Policy(model, tokenizer)
            cast_weights(policy.model, dtype)
            self._policy = policy
            renewed = self._take_newest if settings.cluster.in_flight else None
            self._sampler = LocalSampler(policy, max_rows=settings.sample.max_rows, renewed=renewed)

    @ray.method(concurrency_group="watch")
    def sign(self) -> SignOfLife:
        return self._life.sign()

    def write(
        self, key: int, weights: Sequence[Any], requests: Sequence[Request], sampling: Sampling, address: Address
    ) -> list[Loaded]:
        """Write the attempts with these weights: a handle to a ``Parcel``, in a list, so that it is fetched only where
        it is new. ``news`` hands the attempts over while this goes on, and afterwards. Returns what the model had:
        these weights, and those that ``renew`` told of meanwhile."""
        if weights[0] != self._handle:
            self._take(weights[0])
        self._used = [self._has]
        with self._lock:
            self._written[key], self._ended[key] = 0, []
        self._key = key
        with self._life.at(f"writing {len(requests)} attempts"):
            self._sampler.generate(requests, sampling, address, self._progress, self._finished)
        return self._used

    def _take(self, handle: Any) -> None:
        parcel: Parcel = ray.get(handle)
        with self._life.at("loading weights"):
            self._sampler.load(parcel.weights(), parcel.version)
            self._life.beat()
            mine = self._policy.weights()
            self._handle, self._has = handle, (parcel.version, weights_digest({n: mine[n] for n in parcel.arrays}))

    @ray.method(concurrency_group="watch")
    def renew(self, version: int, weights: Sequence[Any]) -> None:
        """There are newer weights: what is being written goes on with them, from its next token on."""
        self._newest = (version, weights[0])

    def _take_newest(self) -> bool:
        """Whether newer weights than the model's were there; it has them now."""
        version, handle = self._newest
        if version <= self._sampler.version:
            return False
        self._take(handle)
        self._used.append(self._has)
        return True

    def _progress(self, num_tokens: int, num_rows: int) -> None:
        self._life.beat()
        self._written[self._key] = num_tokens

    def _finished(self, place: int, rollout: Rollout) -> None:
        with self._lock:
            self._ended[self._key].append((place, rollout))

    @ray.method(concurrency_group="watch")
    def news(self, key: int) -> News:
        """What has come of the ``write`` with this key since it was last asked; nothing before it begins."""
        with self._lock:
            ended, self._ended[key] = self._ended.get(key, []), []
            return self._written.get(key, 0), ended

    @ray.method(concurrency_group="watch")
    def forget(self, key: int) -> None:
        """The ``write`` with this key is over, and all that came of it was taken."""
        with self._lock:
            self._written.pop(key, None)
            self._ended.pop(key, None)
