"""Claims 8 and 14: what a clip does to value and gradient, and DAPO's three further rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from upslope.algo.advantage import group_mean
from upslope.algo.aggregate import sequence_mean, sequence_sum, token_mean
from upslope.algo.family import DAPO, IMPORTANCE
from upslope.algo.objective import Objective
from upslope.algo.outcome import Scored
from upslope.algo.recipe import Recipe, show
from upslope.algo.sample import Attempts
from upslope.algo.shape import SoftOverlong
from upslope.algo.surrogate import ClippedRatio, ImportanceRatio
from upslope.learn.prepare import judge, to_batch, weigh
from upslope.prove.claim import Check, Fact, at_least, at_most, claim, equal, vanishes
from upslope.prove.expect import gradient, in_expectation, loss, prepared
from upslope.prove.world import World, stand_at, toy
from upslope.types import Batch, Group, Problem, Rollout, Score, given


def one_token(ratio_N: Tensor, advantage_N: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor, Tensor]:
    """(value, gradient by log pi, marked as clipped) of N attempts of one token whose ratio is given."""
    num = len(ratio_N)
    rollouts = tuple(Rollout("grid", i, (1,), (2,), (True,), (0.0,), 0, "stop", "") for i in range(num))
    batch = replace(
        to_batch([Group(Problem("grid", ()), rollouts)], torch.device("cpu"), torch.float64),
        old_logp_NT=torch.full((num, 1), -1.0, dtype=torch.float64),
        advantage_NT=advantage_N[:, None],
        weight_NT=torch.ones(num, 1, dtype=torch.float64),
    )
    logp_NT = (ratio_N.log()[:, None] - 1.0).requires_grad_()
    losses, trace = Objective(recipe)(Scored(logp_NT, torch.zeros_like(logp_NT)), batch)
    (slope_NT,) = torch.autograd.grad(-losses.policy, logp_NT)
    value_NT = recipe.surrogate(Scored(logp_NT.detach(), torch.zeros_like(logp_NT)), batch)
    marked_NT = trace.clipped_low_NT | trace.clipped_high_NT
    return value_NT[:, 0], slope_NT[:, 0], marked_NT[:, 0]


@claim(
    8,
    "ppo-clip",
    "PPO's four cases in value and gradient; a lower bound of the unclipped objective; an infinite clip is importance",
    source="arXiv 1707.06347, equation 7 and figure 1",
    compares="the objective of single tokens with the four cases by hand; expectations with the unclipped surrogate",
)
def ppo_clip() -> Iterator[Check | Fact]:
    """A > 0: min(r, 1 + e) A, gradient r A until 1 + e, then none. A < 0: max(r, 1 - e) A, none below 1 - e."""
    low, high = 0.2, 0.2
    clip = IMPORTANCE.patch(surrogate=ClippedRatio(low, high))
    ratio = torch.tensor([0.5, 0.9, 1.0, 1.1, 1.7], dtype=torch.float64)
    for name, sign in (("A > 0", 1.5), ("A < 0", -0.7)):
        advantage = torch.full_like(ratio, sign)
        value, slope, marked = one_token(ratio, advantage, clip)
        bound = ratio.clamp(max=1 + high) if sign > 0 else ratio.clamp(min=1 - low)
        lives = ratio <= 1 + high if sign > 0 else ratio >= 1 - low
        yield equal(f"{name}: value at r = 0.5, 0.9, 1, 1.1, 1.7", value, bound * sign)
        yield equal(f"{name}: gradient there", slope, ratio * sign * lives)
        yield equal(f"{name}: marked as clipped is what has no gradient", marked.double(), (~lives).double())
    ratios = torch.linspace(0.1, 3, 59, dtype=torch.float64)
    for sign in (1.0, -1.0):
        value, _, _ = one_token(ratios, torch.full_like(ratios, sign), clip)
        yield at_most(f"A = {sign:+.0f}: never above r A", value, ratios * sign)
    yield from bound_in_expectation()


def bound_in_expectation() -> Iterator[Check | Fact]:
    """The same over every group of two, after the policy moved: E[clipped] <= E[r A], and clip to infinity."""
    world = toy()
    groups, prob_P = world.groups(2)
    plain = IMPORTANCE.patch(aggregate=sequence_sum)
    for drift in (0.2, 1.0):
        now = world.moved(drift)
        losses, slopes = {}, {}
        for name, surrogate in (
            ("r A", ImportanceRatio()),
            ("clipped", ClippedRatio()),
            ("clipped at infinity", ClippedRatio(low=1.0, high=1e12)),
        ):
            learner = world.learner(plain.patch(surrogate=surrogate))
            batch = in_expectation(prepared(learner, groups), prob_P)
            stand_at(learner, now)
            losses[name], slopes[name] = -loss(learner, batch), gradient(learner, batch)
            if name == "clipped":
                yield from silent_tokens(world, now, batch, slopes[name], drift)
        yield at_most(f"drift {drift}: E[clipped] is a lower bound of E[r A]", losses["clipped"], losses["r A"])
        yield Fact(f"drift {drift}: E[r A] - E[clipped]", losses["r A"] - losses["clipped"])
        yield equal(f"drift {drift}: clip at infinity, value", losses["clipped at infinity"], losses["r A"])
        yield equal(f"drift {drift}: clip at infinity, gradient", slopes["clipped at infinity"], slopes["r A"])


def silent_tokens(world: World, now: World, batch: Batch, slope_W: Tensor, drift: float) -> Iterator[Check | Fact]:
    """PPO's gradient is the unclipped one of the tokens it has not marked."""
    learner = world.learner(IMPORTANCE)
    stand_at(learner, now)
    with torch.no_grad():
        marks = ClippedRatio().clipped(learner.score(batch).logp_NT, batch)
    marked_NT = (marks[0] | marks[1]) & batch.mask_NT
    rest = replace(batch, advantage_NT=torch.where(marked_NT, 0, given(batch.advantage_NT, "advantage_NT")))
    yield equal(f"drift {drift}: the gradient is r A's of the unmarked tokens", slope_W, gradient(learner, rest))
    share = float((given(batch.weight_NT, "weight_NT") * marked_NT).sum())
    whole = float((given(batch.weight_NT, "weight_NT") * batch.mask_NT).sum())
    yield Fact(f"drift {drift}: share of tokens clipped", share / whole)


@claim(
    14,
    "dapo-rules",
    "Clip-higher moves the upper edge of the gradient alone; overlong punishment ramps; a filtered row counts nowhere",
    source="arXiv 2503.14476, equations 10 and 13, sections 3.1 and 3.4",
    compares="single tokens, single lengths and filtered batches with the formulas by hand",
)
def dapo_rules() -> Iterator[Check | Fact]:
    """The gradient lives where (A > 0 and r <= 1.28) or (A < 0 and r >= 0.8)."""
    ratio = torch.linspace(0.605, 1.495, 90, dtype=torch.float64)  # steps of 0.01 that miss the edges
    for sign in (1.0, -1.0):
        advantage = torch.full_like(ratio, sign)
        _, slope, _ = one_token(ratio, advantage, DAPO)
        _, narrow, _ = one_token(ratio, advantage, DAPO.patch(surrogate=ClippedRatio()))
        lives = ratio < 1.28 if sign > 0 else ratio > 0.8
        yield equal(f"A = {sign:+.0f}: gradient lives up to its edge", slope, ratio * sign * lives)
        between = (ratio > 1.2) & (ratio < 1.28)
        if sign > 0:
            yield equal("A = +1: between 1.2 and 1.28 it lives", slope[between], ratio[between])
            yield vanishes("A = +1: where PPO's is gone", narrow[between])
        else:
            yield equal("A = -1: the lower edge is PPO's", slope, narrow)
    yield Fact("a token of probability 0.01 may rise by, PPO", 0.01 * 0.2)
    yield Fact("a token of probability 0.01 may rise by, DAPO", 0.01 * DAPO.surrogate.high)  # type: ignore[attr-defined]
    yield from overlong()
    yield from filtered()


def answers(lengths: list[int], limit: int, rewards: list[float] | None = None) -> list[Group]:
    """One group of attempts of the given lengths; those at the limit were cut."""
    rollouts = tuple(
        Rollout(
            "long",
            i,
            (1,),
            (2,) * n,
            (True,) * n,
            (-1.0,) * n,
            0,
            "length" if n == limit else "stop",
            "",
            Score(rewards[i] if rewards else 0.0),
        )
        for i, n in enumerate(lengths)
    )
    return [Group(Problem("long", ()), rollouts)]


def overlong() -> Iterator[Check | Fact]:
    """Up to L - B nothing, then (L - B - T) / B, at L minus 1; L = 100, B = 20. And added to what was earned. With the
    paper's factor of 1; the recipe's own, for rewards of 1 and 0, is half of it."""
    lengths = [1, 79, 80, 81, 90, 99, 100]
    expected = torch.tensor([0, 0, 0, -1 / 20, -1 / 2, -19 / 20, -1], dtype=torch.float64)
    recipe = DAPO.patch(sample=Attempts(), shape=SoftOverlong(factor=1.0))
    for reward in (0.0, 1.0):
        batch = to_batch(answers(lengths, 100, [reward] * 7), torch.device("cpu"), torch.float64, limit=100)
        shaped_N = judge(batch, recipe).reward_N
        yield equal(
            f"punishment at 1, 79, 80, 81, 90, 99, 100 tokens, reward {reward:.0f}", shaped_N, expected + reward
        )


def filtered() -> Iterator[Check | Fact]:
    """A truncated attempt is compared with its siblings, then counts neither above nor below the line: the gradient is
    sum over the kept of w A grad log p with A from the whole group and w from the kept alone."""
    world = toy()
    groups, _ = world.groups(2)
    chosen = [g for g in groups if {r.ended for r in g.rollouts} == {"stop", "length"}][::17]
    logp_YT = world.logp_YT()
    index = {r: i for i, r in enumerate(world.responses)}
    pairs = [(r, r.reward - sum(s.reward for s in g.rollouts) / 2) for g in chosen for r in g.rollouts]
    kept = [(r, a) for r, a in pairs if r.ended == "stop"]
    num, tokens = len(kept), sum(len(r.response) for r, _ in kept)
    by_hand: dict[Callable[[Batch], Tensor], Callable[[Rollout], float]] = {
        token_mean: lambda r: 1 / tokens,
        sequence_sum: lambda r: 1 / num,
        sequence_mean: lambda r: 1 / num / len(r.response),
    }
    for aggregate, weight in by_hand.items():
        recipe = IMPORTANCE.patch(sample=Attempts(drop_truncated=True), advantage=group_mean, aggregate=aggregate)
        learner = world.learner(recipe)
        batch = weigh(learner.prepare(chosen), recipe)
        total = torch.stack([weight(r) * a * logp_YT[index[r.response]].sum() for r, a in kept]).sum()
        yield equal(f"filtered, {show(aggregate)}", gradient(learner, batch), world.slope(total))
        if aggregate is token_mean:
            all_tokens = (given(batch.weight_NT, "weight_NT") * batch.mask_NT).sum()
            yield equal("filtered: the weights of what is left add up to 1", all_tokens, 1.0)
    yield at_least("attempts filtered", float(len(pairs) - num), 1.0)
