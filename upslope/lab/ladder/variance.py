"""How noisy the gradient is at the start: the same weights, many batches, every advantage on the same attempts.

With g_b the gradient of batch b, B batches, G their mean:

    noise    tr Cov(g)  = (sum_b |g_b|^2 - B |G|^2) / (B - 1)
    signal   |E g|^2    = |G|^2 - noise / B        (|G|^2 alone would count noise as signal)

both unbiased. Their quotient has no units and is the same for c g as for g: what a learning rate absorbs is not in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from upslope.algo.advantage import (
    GAE,
    BatchZScore,
    ConstantBaseline,
    GroupZScore,
    group_mean,
    leave_one_out,
    returns,
)
from upslope.algo.critic import OwnCopy
from upslope.algo.family import PPO
from upslope.algo.objective import Objective
from upslope.algo.recipe import Recipe
from upslope.algo.sample import Attempts
from upslope.lab.ladder.options import Ladder
from upslope.lab.ladder.plan import settings_of
from upslope.learn.learner import Learner
from upslope.learn.prepare import weigh
from upslope.learn.probe import surrogate_gradient
from upslope.model.hf import max_positions
from upslope.model.load import pick_device
from upslope.record.recorder import MemoryRecorder
from upslope.rollout.local import LocalSampler
from upslope.training.assemble import assemble
from upslope.training.collect import Collector
from upslope.training.metrics import of_batch
from upslope.training.named import open_run_task, resolve_recipe
from upslope.training.start import num_trainable, resolve_model, with_max_tokens, with_rate
from upslope.training.view import NullView
from upslope.types import Batch, Group

UNBIASED = "leave_one_out"
"""Whose mean gradient the others' direction is compared with."""
ADVANTAGES: dict[str, Callable[[Batch], Tensor]] = {
    "returns": returns,
    "constant 0.5": ConstantBaseline(0.5),
    "constant 1": ConstantBaseline(1.0),
    "group_mean": group_mean,
    UNBIASED: leave_one_out,
    "group_z_score": GroupZScore(),
    "batch_z_score": BatchZScore(),
    "gae": GAE(),
}
"""By name, in the order of the report."""
FIT_BATCHES = 10
"""Other batches, of a step's own size, that the critic is fitted on before; with the recipe's passes over each."""

ELSEWHERE = 10**6
"""The step from which these are drawn, beyond all that a run reaches."""


@dataclass(frozen=True)
class Moments:
    """The sums over batches that a mean gradient and its noise are made of; sums of disjoint batches add up.

    >>> found = Moments.of(torch.tensor([1.0, 0.0])) + Moments.of(torch.tensor([3.0, 0.0]))
    >>> found.noise, found.signal  # mean 2, variance 2: 4 - 2 / 2
    (2.0, 3.0)
    """

    num: int
    total: Tensor
    """Sum of the gradients, float64."""
    squares: float
    """Sum of their squared norms."""

    @staticmethod
    def of(gradient: Tensor) -> Moments:
        exact = gradient.double()
        return Moments(1, exact, float(exact @ exact))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.num + other.num, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> Tensor:
        return self.total / self.num

    @property
    def noise(self) -> float:
        """Trace of the covariance of one batch's gradient; needs two batches."""
        return max(self.squares - self.num * float(self.mean @ self.mean), 0.0) / (self.num - 1)

    @property
    def signal(self) -> float:
        """Squared norm of the expected gradient, without bias; chance can make it negative."""
        return float(self.mean @ self.mean) - self.noise / self.num

    @property
    def ratio(self) -> float:
        """Noise to signal; infinite where no signal can be told from noise."""
        return self.noise / self.signal if self.signal > 0 else math.inf


@dataclass(frozen=True)
class Noise:
    """One advantage's gradient at the start, of batches of P x G attempts."""

    advantage: str
    trace: float
    """tr Cov of one batch's gradient, in the advantage's own units."""
    ratio: float
    """tr Cov / |mean|^2, of one batch."""
    halves: tuple[float, float]
    """The same from every other batch: how sure the number is."""
    cosine: float
    """Of the mean gradient with that of leave_one_out."""
    num_batches: int
    num_attempts: int
    """In a batch."""
    explained_variance: float | None = None
    """1 - Var(G - V) / Var(G), G the outcome, mean over the batches, where a critic takes part."""

    @property
    def attempts_needed(self) -> float:
        """Attempts a batch would need for noise as large as the signal."""
        return self.ratio * self.num_attempts


def best_constant(noise: Sequence[Noise]) -> float | None:
    """The b whose gradient of (R - b) has the least noise: tr Cov is a parabola in b, and 0, 1/2 and 1 were measured.

    >>> at = {"returns": 2.0, "constant 0.5": 1.0, "constant 1": 2.0}
    >>> best_constant([Noise(name, trace, 1.0, (1.0, 1.0), 1.0, 4, 8) for name, trace in at.items()])
    0.5
    """
    trace = {n.advantage: n.trace for n in noise}
    if not {"returns", "constant 0.5", "constant 1"} <= trace.keys():
        return None
    at_0, at_half, at_1 = trace["returns"], trace["constant 0.5"], trace["constant 1"]
    curvature = 2 * (at_1 - 2 * at_half + at_0)
    return (3 * at_0 + at_1 - 4 * at_half) / (2 * curvature) if curvature > 0 else None


def measure(ladder: Ladder, model: Path, say: Callable[[str], None]) -> list[Noise]:
    """Sample once, then go through the same attempts with every advantage; weights never move (the critic's do, on
    other batches, before)."""
    settings = replace(settings_of(ladder, "reinforce"), model=str(model))
    task = open_run_task(settings.task, settings.seed)
    if ladder.lr is not None:
        settings = replace(settings, learn=replace(settings.learn, lr=ladder.lr))
    network, tokenizer = resolve_model(settings, NullView)
    settings = with_max_tokens(settings, task, max_positions(network))
    settings = with_rate(settings, num_trainable(network, settings.learn))
    base = resolve_recipe(settings.recipe)
    assert isinstance(base.sample, Attempts)
    judged = base.patch(advantage=GAE(), critic=OwnCopy(warmup=10**9), aggregate=PPO.aggregate)
    device = pick_device(settings.device)
    learner = assemble(network.to(device), tokenizer, judged, settings, MemoryRecorder(), None)
    sampler = LocalSampler(learner.policy, max_rows=settings.sample.max_rows)

    def collector(num_problems: int) -> Collector:
        return Collector(
            task, sampler, learner.policy.renderer, settings.sample.sampling(), settings.seed, num_problems
        )

    say(f"gradient noise: {ladder.noise_batches} batches, then {len(ADVANTAGES)} advantages on the same attempts ...")
    small = collector(ladder.noise_problems)
    batches = [small(judged.sample, step).attempted for step in range(ladder.noise_batches)]
    large = collector(settings.problems)
    fit(learner, judged, [large(judged.sample, ELSEWHERE + i).attempted for i in range(FIT_BATCHES)])
    one, other = gather(learner, base.patch(advantage=ADVANTAGES[UNBIASED]), batches)[0]
    reference = (one + other).mean
    found: list[Noise] = []
    for name, advantage in ADVANTAGES.items():
        moments, explained = gather(learner, base.patch(advantage=advantage), batches)
        found.append(summary(name, moments, reference, ladder.noise_problems * base.sample.group_size, explained))
    return found


def fit(learner: Learner, recipe: Recipe, batches: Sequence[Sequence[Group]]) -> None:
    """Teach the critic alone, as ``ppo`` does while it warms up: some passes over every batch."""
    objective = Objective(recipe)
    for groups in batches:
        whole = weigh(learner.prepare(recipe, groups), recipe)
        for _ in range(PPO.reuse.epochs):
            learner.gradient(objective, whole)
            learner.step()


def gather(
    learner: Learner, recipe: Recipe, batches: Sequence[Sequence[Group]]
) -> tuple[tuple[Moments, Moments], float | None]:
    """The sums over even and over odd batches, and the critic's explained variance where there is one."""
    halves: list[Moments | None] = [None, None]
    explained = []
    for index, groups in enumerate(batches):
        batch = weigh(learner.prepare(recipe, groups), recipe)
        if batch.value_NT is not None:
            explained.append(float(of_batch(batch, list(groups), recipe)["explained_variance"]))
        one = Moments.of(surrogate_gradient(learner, recipe, batch))
        before = halves[index % 2]
        halves[index % 2] = one if before is None else before + one
    assert halves[0] is not None and halves[1] is not None
    return (halves[0], halves[1]), sum(explained) / len(explained) if explained else None


def summary(
    name: str, halves: tuple[Moments, Moments], reference: Tensor, num_attempts: int, explained: float | None = None
) -> Noise:
    """What the two halves say, together and apart."""
    whole = halves[0] + halves[1]
    cosine = float(torch.nn.functional.cosine_similarity(whole.mean, reference, dim=0))
    return Noise(
        name, whole.noise, whole.ratio, (halves[0].ratio, halves[1].ratio), cosine, whole.num, num_attempts, explained
    )


def noise_of(ladder: Ladder, model: Path, say: Callable[[str], None]) -> list[Noise]:
    """``measure``, or what it found before for the same question."""
    if not ladder.noise_batches:
        return []
    path = ladder.out / "noise.json"
    asked = [ladder.noise_batches, ladder.noise_problems, ladder.lr, *ladder.overrides, *ladder.task_words()]
    if path.exists():
        kept = json.loads(path.read_text("utf-8"))
        if kept["asked"] == asked:
            return [Noise(**row | {"halves": tuple(row["halves"])}) for row in kept["found"]]
    found = measure(ladder, model, say)
    path.write_text(json.dumps({"asked": asked, "found": [asdict(noise) for noise in found]}, indent=1), "utf-8")
    return found
