"""Claim 21: the same attempts used again after the policy moved, weighed and not."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from upslope.algo.family import REINFORCE
from upslope.algo.surrogate import ImportanceRatio
from upslope.prove.claim import Check, Fact, angle, at_least, claim, equal, gap
from upslope.prove.ratio import DRIFTS, off_policy
from upslope.prove.stale import pushed, weights
from upslope.prove.world import World, toy


@claim(
    21,
    "naive-reuse",
    "Reused as they are, attempts teach an imitation of their reward, not J; a ratio is off less until it is far away",
    source="arXiv 1502.05477, equation 3; arXiv 1707.06347, equation 6",
    compares="expected gradients of reused attempts, unweighed and by token ratios, with sums by hand and with grad J",
)
def naive_reuse() -> Iterator[Check | Fact]:
    """Unweighed: grad sum_y mu(y) R(y) log pi(y), whose optimum for R >= 0 is pi ~ mu R, an imitation. By token:
    sum_y mu(y) R(y) sum_t r_t grad log pi(y_t). Both are grad J at pi = mu and off by a term of first order.

    Length and direction are two things: far away the unweighed gradient may point better than the ratio's and still be
    further off, because it is too short or too long."""
    world = toy()
    found: dict[str, list[float]] = {"unweighed": [], "token ratio": []}
    for drift in DRIFTS:
        now = world.moved(drift)
        truth_W = now.slope(now.expected_reward())
        naive_W, _ = off_policy(world, now, REINFORCE)
        ratio_W, _ = off_policy(world, now, REINFORCE.patch(surrogate=ImportanceRatio()))
        whole_W, _ = off_policy(world, now, REINFORCE.patch(surrogate=ImportanceRatio("trajectory")))
        ones_YT = torch.ones_like(now.logp_YT())
        yield equal(f"drift {drift}, unweighed: by hand", naive_W, pushed(world, now, ones_YT))
        yield equal(f"drift {drift}, token ratio: by hand", ratio_W, pushed(world, now, weights(world, now, "token")))
        yield equal(f"drift {drift}, trajectory ratio: grad J", whole_W, truth_W)
        for name, found_W in (("unweighed", naive_W), ("token ratio", ratio_W)):
            found[name].append(gap(found_W, truth_W))
            yield Fact(f"drift {drift}, {name}: off grad J by", gap(found_W, truth_W))
            yield Fact(f"drift {drift}, {name}: degrees off grad J", angle(found_W, truth_W))
            yield Fact(f"drift {drift}, {name}: length over |grad J|", float(found_W.norm() / truth_W.norm()))
    for drift, naive, ratio in zip(DRIFTS, *found.values(), strict=True):
        yield at_least(f"drift {drift}: unweighed is off by more than twice what the ratio is", naive, 2 * ratio)
    yield at_least(
        "a tenth of the drift: a ninth or less of what is off, unweighed",
        found["unweighed"][1],
        9 * found["unweighed"][0],
    )
    yield from far_away(world)


def far_away(world: World) -> Iterator[Check | Fact]:
    """At the largest drift the two orders differ: by distance the ratio is the closer one, by angle the other."""
    now = world.moved(DRIFTS[-1])
    truth_W = now.slope(now.expected_reward())
    naive_W, _ = off_policy(world, now, REINFORCE)
    ratio_W, _ = off_policy(world, now, REINFORCE.patch(surrogate=ImportanceRatio()))
    yield at_least(
        f"drift {DRIFTS[-1]}: the unweighed direction is the closer one",
        angle(ratio_W, truth_W),
        angle(naive_W, truth_W),
    )
