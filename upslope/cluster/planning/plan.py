"""A plan: memory of a learner and of a sampler, and what a cluster does in simulation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from upslope.cluster.planning.cards import CardSheet, card_of
from upslope.cluster.planning.lengths import AddressedLengths, KeptLengths, Lengths, LognormalLengths, mean_length
from upslope.cluster.planning.memory import RowSizes, in_all, learner_parts, sampler_parts
from upslope.cluster.planning.outcome import SimulatedRun
from upslope.cluster.planning.rates import TimedRun, facts_of_run, measured_times
from upslope.cluster.planning.request import PlanRequest
from upslope.cluster.planning.run_file import settings_in
from upslope.cluster.planning.setup import SimulatedSetup
from upslope.cluster.planning.simulate import simulate
from upslope.cluster.planning.sizes import ModelSizes, sizes_of
from upslope.cluster.planning.split import SplitFinder, WorkerSplit
from upslope.cluster.planning.times import CardTimes, MeasuredTimes, WorkTimes
from upslope.errors import UserError, nearest
from upslope.training.cluster_settings import ClusterSettings

ELEMENTS = {"bfloat16": 2, "float32": 4}
PROBLEMS, GROUP, PROMPT, MOST = 64, 8, 128, 1024
"""Where neither the user nor a run says otherwise."""


def _require_finite(request: PlanRequest) -> None:
    """Raise UserError for a number that is none, or has no end."""
    given = {"memory" if name == "memory_gb" else name: value for name, value in asdict(request).items()}
    given |= {name if name == "network" else f"{name}_share": value for name, value in asdict(request.shares).items()}
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name.replace('_', '-')} {value} is no number to plan with")


class Planner:
    """Everything that a request means, worked out once."""

    def __init__(self, request: PlanRequest) -> None:
        """Raises UserError for a request that contradicts itself or names what is not there."""
        if request.dtype not in ELEMENTS:
            raise UserError(f"--dtype {request.dtype!r} cannot be planned{nearest(request.dtype, ELEMENTS)}")
        _require_finite(request)
        if len(request.staleness) > 1 and max(request.gpus) == 1:
            raise UserError("--staleness needs workers beside the learner; give --gpus 2 or more")
        if request.card is None and not request.measured:
            raise UserError("a plan needs rates: name a card with --card (such as h100), or a run with --measured")
        own = (request.tflops, request.memory_gb, request.bandwidth)
        if request.card is None and any(value is not None for value in own):
            raise UserError("--tflops, --memory and --bandwidth change a card's; name it with --card")
        self.request = request
        self.runs: Sequence[TimedRun] = [facts_of_run(folder) for folder in request.measured]
        self.sizes: ModelSizes = sizes_of(request.model, request.new)
        self.card: CardSheet | None = None
        if request.card is not None:
            self.card = card_of(
                request.card, tflops=request.tflops, memory_gb=request.memory_gb, bandwidth=request.bandwidth
            )
        self.element = ELEMENTS[request.dtype]
        self._take_work()
        self.times: WorkTimes = self._times()

    def _take_work(self) -> None:
        request, first = self.request, self.request.measured[:1]
        problems, group, prompt, most = PROBLEMS, GROUP, PROMPT, MOST
        if first:
            settings = settings_in(first[0])
            problems = settings.problems
            group = settings.recipe.get("sample", {}).get("group_size", GROUP)
            prompt, most = self.runs[0].prompt, settings.sample.max_tokens or max(self.runs[0].lengths, default=MOST)
        self.problems = problems if request.problems is None else request.problems
        self.work = RowSizes(
            prompt=prompt if request.prompt_tokens is None else request.prompt_tokens,
            most=most if request.max_tokens is None else request.max_tokens,
            group=group if request.group_size is None else request.group_size,
        )
        self.lengths = self._lengths()
        self.mean = mean_length(self.lengths)

    def _lengths(self) -> Lengths:
        most, kept = self.work.most, [n for run in self.runs for n in run.lengths]
        if self.request.mean_tokens is None and kept:
            return KeptLengths(kept, most)
        mean = self.request.mean_tokens or most / 2
        return LognormalLengths(mean, self.request.spread, most)

    def _times(self) -> WorkTimes:
        if self.runs:
            return measured_times(self.runs)
        assert self.card is not None, "one of the two was asked for"
        return CardTimes(self.sizes, self.card, self.request.shares, self.element)

    # -- one cluster ------------------------------------------------------------------------------------------------

    @property
    def finder(self) -> SplitFinder:
        memory = None if self.card is None else self.card.memory_gb * 1e9
        return SplitFinder(
            self.sizes, self.times, self.element, self.work, self.problems, self.mean, self.request.rows, memory,
            self.request.shard,
        )  # fmt: skip

    def split(self, workers: int, staleness: int) -> WorkerSplit:
        """As asked for, or the fastest by arithmetic. Raises UserError for numbers that do not add up."""
        samplers, ranks, shard = self.request.samplers, self.request.ranks, self.request.shard
        if samplers is None and ranks is None and shard and workers == 2:
            raise UserError("--shard: of 2 workers one samples, and 1 learner has nobody to share with; give --gpus 3")
        if ranks is not None and ranks > workers:
            raise UserError(f"--ranks {ranks} are more than --gpus {workers}")
        if samplers is None and ranks is None:
            return self.finder.split(workers, staleness)
        if samplers is None:
            samplers = workers - (ranks or 1)
        ranks = max(1, workers - samplers) if ranks is None else ranks
        if samplers + ranks != workers or samplers < 0:
            raise UserError(
                f"--samplers {samplers} and --ranks {ranks} are {samplers + ranks} workers, and --gpus is {workers}"
            )
        return WorkerSplit(samplers, ranks, ranks > 1 if shard is None else shard)

    def setup(self, workers: int, staleness: int) -> SimulatedSetup:
        """The cluster as the simulation wants it. Raises UserError for settings that a run would refuse."""
        split, request = self.split(workers, staleness), self.request
        rows = max(1, self.finder.rows(split))
        try:
            ClusterSettings(split.samplers, "local", split.ranks, split.shard, request.rewards, staleness)
            return SimulatedSetup(
                self.times,
                AddressedLengths(self.lengths, request.seed),
                self.work.prompt,
                samplers=split.samplers,
                ranks=split.ranks,
                shard=split.shard,
                staleness=staleness,
                problems=self.problems,
                group_size=self.work.group,
                rows=rows,
                rewards=request.rewards,
                reward_seconds=request.reward_seconds,
                steps=request.steps,
                hours_between_failures=request.hours_between_failures,
                restart_seconds=request.restart_seconds,
                save_every=request.save_every,
                seed=request.seed,
            )
        except ValueError as error:
            raise UserError(f"plan: {error}") from error

    def memory(self, workers: int, staleness: int) -> dict[str, Any]:
        """Bytes by part, and whether they fit; of unknown memory ``fits`` is None."""
        split = self.split(workers, staleness)
        rows = self.finder.rows(split)
        learner = learner_parts(self.sizes, self.element, self.work, split.ranks, shard=split.shard)
        sampler = sampler_parts(self.sizes, self.element, self.work, max(rows, 1))
        return {
            "workers": workers,
            **asdict(split),
            "rows": rows,
            "learner": learner | {"all": in_all(learner)},
            "sampler": sampler | {"all": in_all(sampler)},
            "room": self.finder.room,
            "fits": None if self.finder.room is None else self.finder.fits(split),
        }

    def simulated(self) -> Iterator[SimulatedRun]:
        """Every number of workers at every staleness; one worker has none."""
        for workers in self.request.gpus:
            for staleness in self.request.staleness:
                if workers > 1 or staleness == 0 or len(self.request.gpus) == len(self.request.staleness) == 1:
                    yield simulate(self.setup(workers, staleness))

    # -- where numbers are from -------------------------------------------------------------------------------------

    def numbers(self) -> Iterator[tuple[str, float, str, str]]:
        """(name, value, unit, where it is from) of everything that times depend on."""
        shares, request = self.request.shares, self.request
        yield "weights", self.sizes.weights, "", "the model's config"
        if isinstance(self.times, MeasuredTimes):
            found = f"measured in {', '.join(run.folder.name for run in self.runs)}"
            yield "a position", self.times.step * 1e3, "ms", found
            yield "an attempt in it", self.times.row * 1e6, "us", found
            yield "an update, fixed", self.times.fixed * 1e3, "ms", found
            yield "a learnt token", self.times.token * 1e6, "us", found
            yield "attempts with a gradient", self.times.share, "", found
        elif self.card is not None:
            said = {"tflops": request.tflops, "memory": request.memory_gb, "bandwidth": request.bandwidth}
            source = {key: self.card.source if value is None else "given" for key, value in said.items()}
            yield "products", self.card.tflops, "TFLOP/s", source["tflops"]
            yield "memory", self.card.memory_gb, "GB", source["memory"]
            yield "memory, read", self.card.bandwidth, "GB/s", source["bandwidth"]
            yield "to a card beside", self.card.link, "GB/s", self.card.source
            defaults = type(shares)()
            for name, value in asdict(shares).items():
                unit = "GB/s" if name == "network" else "of the sheet"
                label = name if name == "network" else f"share reached: {name}"
                yield label, value, unit, "assumed" if value == getattr(defaults, name) else "given"
        kept = isinstance(self.lengths, KeptLengths)
        yield "tokens of an attempt", self.mean, "", "measured" if kept else f"lognormal, cut at {self.work.most}"
        prompt = "given" if request.prompt_tokens is not None else "measured" if self.runs else "assumed"
        yield "tokens of a prompt", self.work.prompt, "", prompt
