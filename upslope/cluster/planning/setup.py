"""Which cluster is simulated, and what it is to do."""

from __future__ import annotations

from dataclasses import dataclass

from upslope.bounds import at_least, require_bounds
from upslope.cluster.planning.lengths import AddressedLengths
from upslope.cluster.planning.times import WorkTimes


@dataclass(frozen=True)
class SimulatedSetup:
    """A cluster, its work, and how often it fails. ``samplers`` = 0: the learner samples, in turns with learning."""

    times: WorkTimes
    lengths: AddressedLengths
    prompt: int
    """Tokens of a prompt."""
    samplers: int = at_least(0, 0)
    ranks: int = at_least(1, 1)
    shard: bool = False
    staleness: int = at_least(0, 0)
    problems: int = at_least(1, 64)
    group_size: int = at_least(1, 8)
    rows: int = at_least(1, 512)
    """Attempts that a sampler has in hand at once."""
    rewards: int = at_least(0, 0)
    """Processes that score; 0: as many as it takes."""
    reward_seconds: float = at_least(0, 0.0)
    """Of one attempt."""
    steps: int = at_least(1, 20)
    hours_between_failures: float = at_least(0, 0.0)
    """Of one worker, on average; 0: none fails."""
    restart_seconds: float = at_least(0, 120.0)
    save_every: int = at_least(1, 10)
    """Updates between checkpoints: what a learner that failed goes back to."""
    seed: int = 0

    def __post_init__(self) -> None:
        require_bounds(self)
        if self.staleness and not self.samplers:
            raise ValueError(f"staleness = {self.staleness} needs samplers beside the learner; there are none")

    @property
    def workers(self) -> int:
        return self.samplers + self.ranks

    @property
    def piece(self) -> int:
        """Attempts of a problem that go to one sampler: the whole group, or fewer where samplers would be left without
        any."""
        places = (self.staleness + 1) * self.problems * self.group_size
        return max(1, min(self.group_size, self.rows, places // max(self.samplers, 1)))
