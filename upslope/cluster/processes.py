"""The processes of a run: started by Ray, watched, ended with it. A ``Company``."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError

from upslope.algo.recipe import Recipe
from upslope.cluster.ahead import Ahead
from upslope.cluster.crew import GROUPS, Crew, Member, fate, reason
from upslope.cluster.follower import Follower
from upslope.cluster.gpus import GpuShares, share_gpus
from upslope.cluster.ports import free_port
from upslope.cluster.ranks import DistributedRanks, meet, part
from upslope.cluster.remote_sampler import RemoteSampler
from upslope.cluster.reward_worker import JudgedElsewhere, RewardWorker
from upslope.cluster.sampler_worker import SamplerWorker
from upslope.cluster.sharding import require_shardable
from upslope.cluster.together import builder, stand_together
from upslope.cluster.vllm.engine import vllm_of_run
from upslope.cluster.vllm.sampler import VllmSampler
from upslope.cluster.watchdog import Watchdog
from upslope.errors import Stopped, UserError
from upslope.learn.build import build_learner
from upslope.learn.learner import Learner
from upslope.model.load import pick_device
from upslope.rollout.base import Sampler
from upslope.rollout.local import LocalSampler
from upslope.tasks.base import Task
from upslope.training.cluster_settings import ClusterSettings
from upslope.training.company import BuildLearner
from upslope.training.named import task_spec
from upslope.training.run import Run
from upslope.training.settings import RunSettings
from upslope.types import Group

AGAIN = 0.5
"""Seconds between two looks at who is gone."""


def _of_a_sum(error: BaseException) -> bool:
    """Whether an error is what the learners' exchange raises when one of them is gone. Ray may know it only later, for
    a whole machine by up to a minute."""
    if not torch.distributed.is_available():
        return False
    gloos = isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    return gloos or isinstance(error, torch.distributed.DistError)


class Processes:
    """Samplers, further learners and judges of one run, by the settings. The process that asks is the first learner."""

    def __init__(self, settings: ClusterSettings, held: contextlib.ExitStack) -> None:
        """``held`` ends what is begun, last things first."""
        self._settings, self._held = settings, held
        self.build: BuildLearner = build_learner
        self._ranks: DistributedRanks | None = None
        self._crews: list[Crew] = []
        self._followers: list[Member] = []
        self._watch: Watchdog | None = None
        self._vllm: VllmSampler | None = None
        self._busy = False
        """Whether the learners are within a step."""

    # -- in the order of a run's beginning ---------------------------------------------------------------------------

    def begin(
        self,
        model: Any,
        tokenizer: Any,
        recipe: Recipe,
        settings: RunSettings,
        say: Callable[[str], None],
        folder: Path | None,
    ) -> None:
        self._run, self._say, self._folder = settings, say, folder
        if self._settings.shard:
            require_shardable(recipe, settings.learn, model, resets_reference=bool(settings.reference.every))
        self._open_ray()
        self._device, self._gpus = pick_device(settings.device), GpuShares()
        s = self._settings
        if s.ranks > 1 and settings.learn.offload and self._device.type != "cpu":
            raise UserError(
                "learn.offload: several learners add up gradients on their devices, and these are in the host's "
                "memory; set false, or cluster.shard = true, which divides them, or cluster.ranks = 1"
            )
        if self._device.type == "cuda" and (s.samplers or s.ranks > 1):
            self._gpus = share_gpus(settings.device, s.ranks, s.samplers, self._held)
            if self._gpus.said:
                say(f"{self._gpus.said}: so there must be memory for all of them")
        self._cores = torch.get_num_threads()
        torch.set_num_threads(self._threads(self._settings.ranks))
        self._opened = ray.put((model, tokenizer))
        self._watch = Watchdog(self._members, self._settings.patience)
        self._held.callback(self._watch.stop)
        if self._settings.ranks > 1:
            self._begin_learners(recipe)

    def _threads(self, num: int) -> int:
        """Threads of each of ``num`` processes that compute at the same time; those of one machine share its cores."""
        return self._run.threads or max(1, self._cores // (1 if self._settings.address else num))

    def _open_ray(self) -> None:
        """Raises UserError if the cluster that is named cannot be reached."""
        where = self._settings.address
        if ray.is_initialized():  # a notebook's own; it is not ours to end
            return
        before = signal.getsignal(signal.SIGTERM)
        try:
            # Ray says much of its own on standard error; what matters is said by whoever waits for it.
            with warnings.catch_warnings(action="ignore"):
                ray.init(
                    where or "local",
                    num_cpus=None if where else self._num_processes,
                    include_dashboard=None if where else False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    configure_logging=True,
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"cluster.address = {where!r}: {reason(error)}") from error
        self._held.callback(ray.shutdown)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray puts one of its own there

    @property
    def _num_processes(self) -> int:
        s = self._settings
        return s.samplers + s.ranks + s.rewards

    def _actor(self, kind: type[Any], *arguments: Any, gpu: float = 0.0) -> Any:
        """Start a process, with so much of a GPU; it answers for signs of life in a thread of its own."""
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpu, "concurrency_groups": GROUPS, "max_restarts": 0}
        return ray.remote(**options)(kind).remote(*arguments)

    def _begin_learners(self, recipe: Recipe) -> None:
        size = self._settings.ranks
        settings = replace(self._run, threads=torch.get_num_threads())

        def start() -> Any:
            return self._actor(Follower, self._opened, recipe, settings, gpu=self._gpus.learner)

        crew = Crew("learner", size - 1, start, self._say, first=1)
        self._followers = crew.members
        self._held.callback(crew.end)
        host = "127.0.0.1"
        if self._settings.address:
            host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        at = f"{host}:{free_port(host)}"
        for number, member in enumerate(crew.members, start=1):
            member.work = member.actor.follow.remote(number, size, at)
        self._ranks = meet(0, size, at, self._device)
        self._held.callback(part)
        self.build = builder(self._ranks, self._settings)

    def task(self, task: Task) -> Task:
        if not self._settings.rewards:
            return task
        spec = task_spec(self._run.task, self._run.seed)

        def start() -> Any:
            return self._actor(RewardWorker, spec, str(Path.cwd()))

        return JudgedElsewhere(task, self._crew("reward worker", self._settings.rewards, start))

    def sampler(self, learner: Learner) -> Sampler:
        if self._settings.engine == "vllm":
            self._vllm = vllm_of_run(self._run, self._folder, learner.policy, self._say, self._held)
            return self._vllm
        if not self._settings.samplers:
            return LocalSampler(learner.policy, max_rows=self._run.sample.max_rows)
        dtype = next(iter(learner.policy.weights().values())).dtype

        threads = self._threads(self._settings.samplers)

        def start() -> Any:
            return self._actor(SamplerWorker, self._opened, self._run, dtype, threads, gpu=self._gpus.sampler)

        crew = self._crew("sampler", self._settings.samplers, start)
        sampler = RemoteSampler(crew, learner.policy.max_positions, in_flight=self._settings.in_flight)
        sampler.load(learner.policy.weights(), version=0)
        return sampler

    def join(self, run: Run) -> None:
        run.told = self._told
        if self._settings.staleness and run.recipe.acts:
            last = run.settings.steps - 1
            ahead = Ahead(run.collect, self._settings.staleness, run.settings.problems, last)
            run.collect = ahead
            self._held.callback(ahead.leave)
        if self._ranks is None:
            return
        stand_together(run.learner, self._ranks, run.resumed)
        steps = iter(range(run.first_step, run.settings.steps))
        run.learner.share = lambda groups: self._hand(None if groups is None else next(steps), groups or ())

    def _told(self) -> dict[str, Any]:
        """For a step's line in the journal, once its updates are done on all learners."""
        self._busy = False
        return {} if self._vllm is None else self._vllm.handed_over[-1].row()

    # -- while it lasts ----------------------------------------------------------------------------------------------

    def _hand(self, step: int | None, groups: Sequence[Group]) -> None:
        if step is None and not self._settings.shard:
            return  # the first learner has all that is kept
        if step is None and self._busy:
            raise UserError("the learners stopped within a step, so their parts of the weights cannot be gathered")
        self._busy = step is not None
        given = ray.put(list(groups))
        for member in self._followers:
            try:
                ray.get(member.actor.hand.remote(step, given))
            except RayActorError as error:
                raise UserError(f"{member.where} {member.ended or fate(member, error)}") from None

    def cause(self, error: BaseException) -> UserError | None:
        """The process that died or hung, where that is why the run ends."""
        if isinstance(error, (UserError, KeyboardInterrupt, Stopped)) or self._watch is None:
            return None
        until = time.monotonic() + (self._settings.patience if _of_a_sum(error) else 0.0)
        while True:
            for member in self._followers:
                if not member.ended:
                    self._watch.look(member)
            if any(member.ended for member in self._followers) or time.monotonic() >= until:
                break
            time.sleep(AGAIN)
        ended = [member for member in self._followers if member.ended]
        # Who died first breaks the others' sums off: these failed, and were not the cause.
        ended.sort(key=lambda member: member.ended.startswith("failed"))
        return UserError(f"{ended[0].where} {ended[0].ended}") if ended else None

    # -- inside ------------------------------------------------------------------------------------------------------

    def _crew(self, role: str, num: int, start: Callable[[], Any]) -> Crew:
        crew = Crew(role, num, start, self._say)
        self._crews.append(crew)
        self._held.callback(crew.end)
        return crew

    def _members(self) -> list[Member]:
        return [*self._followers, *(member for crew in self._crews for member in crew.members)]
