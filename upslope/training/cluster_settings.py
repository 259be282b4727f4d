"""Which processes a run has besides the one that began it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from upslope.bounds import at_least, require_bounds

Engine = Literal["local", "vllm"]
MOST_PROCESSES = 65_536
"""Of a kind."""


@dataclass(frozen=True)
class ClusterSettings:
    """Processes of a run, placed and watched by Ray. All as it is here: one process, no Ray.

    >>> ClusterSettings().used, ClusterSettings(samplers=2).used
    (False, True)
    """

    samplers: int = at_least(0, 0)
    """Processes that write attempts; 0: the first learner does."""
    engine: Engine = "local"
    """What writes attempts: local (upslope's own, in every sampler) or vllm (one server, see docs/cluster.md)."""
    ranks: int = at_least(1, 1)
    """Learners. They hold the same weights, and each takes its share of the rows of an update."""
    shard: bool = False
    """Weights, gradients and moments are shared out among the learners (FSDP2), so that each holds a part."""
    rewards: int = at_least(0, 0)
    """Processes that score attempts; 0: where ``task.reward_workers`` says."""
    staleness: int = at_least(0, 0)
    """How many steps old the weights may be that wrote what a step learns from. 0: samplers wait for the learner."""
    in_flight: bool = False
    """New weights reach a sampler in the middle of its attempts, which go on with them from the next token on. Beside
    staleness."""
    address: str = ""
    """A Ray cluster that is there (``auto``, ``HOST:PORT``, ``ray://HOST:10001``); empty: one of this machine's own."""
    patience: float = at_least(1, 60.0)
    """Seconds without a sign of life after which a process is ended and named: a sampler or a reward worker is
    replaced, a learner's end stops the run."""
    vllm_python: str = ""
    """The interpreter of the environment that has vLLM; empty: this one."""
    vllm_url: str = ""
    """A vLLM server that is there; empty: the run starts its own."""
    vllm_memory: float = at_least(0.01, 0.4)
    """Of the GPU's memory, or of the machine's where it computes on a CPU: the share that the run's vLLM server takes.
    The learner needs the rest."""
    most_gap: float | None = at_least(0, None)
    """Nats by which sampler and learner may differ over a token after weights were handed over, at most; more stops the
    run. Left out: 0.001 where they compute in float32, 0.5 in bfloat16 and float16."""

    def __post_init__(self) -> None:
        require_bounds(self)
        for name in ("samplers", "rewards", "ranks"):
            if getattr(self, name) > MOST_PROCESSES:
                raise ValueError(f"{name} = {getattr(self, name):g} must be at most {MOST_PROCESSES:,}")
        if self.shard and self.ranks == 1:
            raise ValueError("shard = true needs several learners to share out among; set ranks to 2 or more")
        if self.staleness and self.engine == "vllm":
            raise ValueError(
                f"staleness = {self.staleness} is for upslope's own samplers, and engine = 'vllm' is one server that "
                "waits for the learner; leave one of the two out"
            )
        if self.staleness and not self.samplers:
            raise ValueError(
                f"staleness = {self.staleness} needs samplers that go on while the learner learns; set samplers to 1 "
                "or more"
            )
        if self.in_flight and not self.staleness:
            raise ValueError(
                "in_flight = true needs attempts that are written while the learner learns; set staleness to 1 or more"
            )
        if self.engine == "vllm" and self.samplers:
            raise ValueError(
                f"samplers = {self.samplers} are upslope's own, and engine = 'vllm' is one server; leave samplers out"
            )
        for name in ("vllm_python", "vllm_url"):
            if getattr(self, name) and self.engine != "vllm":
                raise ValueError(
                    f"{name} is vLLM's, and engine = {self.engine!r}; set engine = 'vllm', or leave it out"
                )

        if not self.used:
            for f in fields(self):
                if getattr(self, f.name) != f.default:
                    raise ValueError(
                        f"{f.name} is of no use to one process; set samplers, rewards or ranks, or drop it"
                    )
        if self.vllm_memory > 1:
            raise ValueError(f"vllm_memory = {self.vllm_memory:g} is a share of a memory; set it to 1 or less")
        if self.vllm_memory != ClusterSettings.vllm_memory and self.engine != "vllm":
            raise ValueError(f"vllm_memory = {self.vllm_memory:g} is vLLM's; set engine = 'vllm', or leave it out")
        if self.most_gap is not None and self.engine != "vllm":
            raise ValueError(f"most_gap = {self.most_gap:g} is vLLM's; set engine = 'vllm', or leave it out")

    @property
    def used(self) -> bool:
        """Whether a run needs more than the process that began it."""
        return bool(self.samplers or self.rewards or self.ranks > 1 or self.engine != "local")
