"""Claim 10: the Fisher matrix, its products, and the step inside a budget of KL."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from upslope.algo.advantage import ones, returns
from upslope.algo.family import REINFORCE, TRPO
from upslope.algo.outcome import Outcome
from upslope.algo.update import KLBall
from upslope.learn.bound import BoundLearner
from upslope.learn.trust_region import MeasuredRegion
from upslope.prove.claim import Check, Fact, angle, at_least, at_most, claim, equal
from upslope.prove.expect import each_gradient, gradient, in_expectation, prepared
from upslope.prove.penalty import visits
from upslope.prove.world import Prefix, World, llama, toy
from upslope.types import Batch

TRUST = TRPO.patch(advantage=returns)


def ball(delta: float = 0.01, damping: float = 1e-3) -> KLBall:
    """TRPO's update with as many iterations as it takes and all states in the Fisher matrix."""
    return KLBall(delta=delta, damping=damping, iterations=300, fisher_share=1.0)


def share_of_states(world: World) -> dict[Prefix, float]:
    """How often every state stands in a batch that holds every response once, as a share of all its tokens."""
    met = [r[:t] for r in world.responses for t in range(len(r))]
    return {prefix: met.count(prefix) / len(met) for prefix in world.states()}


def slopes_of_states(world: World) -> dict[Prefix, Tensor]:
    """grad log pi(v | s) for every token v, [V, W], at every state."""
    return {p: torch.stack([world.slope(logp) for logp in logp_V]) for p, logp_V in world.states().items()}


def fisher(world: World, share: dict[Prefix, float]) -> Tensor:
    """sum_s share(s) sum_v pi(v|s) grad log pi(v|s) grad log pi(v|s)^T, [W, W]: the matrix, written out."""
    states, slopes = world.states(), slopes_of_states(world)
    return sum(  # type: ignore[return-value]
        share[p] * slopes[p].T @ (states[p].detach().exp()[:, None] * slopes[p]) for p in states
    )


def hessian_of_kl(world: World, share: dict[Prefix, float]) -> Tensor:
    """The second derivatives of sum_s share(s) KL(old(.|s) || pi(.|s)) at pi = old, [W, W]."""
    kl = mean_kl(world, world, share)
    weights = list(world.policy.model.parameters())
    slope_W = torch.cat([s.flatten() for s in torch.autograd.grad(kl, weights, create_graph=True)])
    return torch.stack([world.slope(s) for s in slope_W])


def mean_kl(old: World, now: World, share: dict[Prefix, float]) -> Tensor:
    """sum_s share(s) KL(old(.|s) || now(.|s)), with gradient through ``now``."""
    before, after = old.states(), now.states()
    total = torch.zeros((), dtype=torch.float64)
    for prefix, logp_V in before.items():
        fixed_V = logp_V.detach()
        total = total + share[prefix] * (fixed_V.exp() * (fixed_V - after[prefix])).sum()
    return total


def standing(
    world: World, update: Callable[..., Outcome], lr: float = 1e-2
) -> tuple[BoundLearner, Batch, MeasuredRegion, Tensor]:
    """A learner, its batch of every response, and what lies around it; and the slope."""
    learner = world.learner(TRUST.patch(update=update), lr=lr)
    groups, prob_P = world.groups(1)
    batch = in_expectation(prepared(learner, groups), prob_P)
    slope_W = gradient(learner, batch)
    return learner, batch, learner.trust_region(learner.objective, batch), slope_W


@claim(
    10,
    "natural-gradient",
    "The KL's Hessian is the Fisher matrix; products, conjugate gradients and budget are right; the step is invariant",
    source="Amari 1998; Kakade 2001; arXiv 1502.05477, section 6 and appendix C",
    compares="Fisher-vector products with the matrix written out; steps in two coordinate systems",
)
def natural_gradient() -> Iterator[Check | Fact]:
    """F = sum_s share(s) sum_v pi grad log pi grad log pi^T = Hessian of KL(old || pi) at pi = old."""
    world = toy(limit=4, width=2)
    share = share_of_states(world)
    matrix = fisher(world, share)
    yield equal("the Hessian of the KL is the Fisher matrix", hessian_of_kl(world, share), matrix)
    update = ball()
    _, _, region, slope_W = standing(world, update)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    yield equal(
        "Fisher-vector products, column by column", torch.stack([region.fisher_product(e) for e in eye]), matrix
    )
    groups, prob_Y = world.groups(1)
    score_YW = each_gradient(world.learner(REINFORCE.patch(advantage=ones)), groups)
    met = {prefix: float(prob) for prefix, prob in visits(world).items()}
    yield equal(
        "E[s s^T] over responses is the sum over states as they are met",
        score_YW.T @ (prob_Y[:, None] * score_YW),
        fisher(world, met),
    )
    found = update.natural_direction(region, slope_W)
    damped = matrix + update.damping * eye
    yield equal("conjugate gradients: (F + damping) x = g", damped @ found.x, slope_W)
    yield equal(
        "conjugate gradients: x",
        found.x,
        torch.linalg.solve(damped, slope_W),
        tolerance=1e-6,
        why="a residual of 1e-10 over the smallest eigenvalue, 1e-3",
    )
    yield Fact("conjugate gradients: iterations", found.num_iterations)
    yield Fact("weights", len(matrix))
    yield from inside_budget(world, share, update)
    yield from inside_budget(world, share, TRPO.update)  # as shipped: few iterations, a part of the states
    yield from transformer_products()
    yield from other_coordinates(world)


def inside_budget(world: World, share: dict[Prefix, float], update: Callable[..., Outcome]) -> Iterator[Check | Fact]:
    """The step that a run would take: its KL, measured by us, is the one it reports, and within the budget."""
    learner, batch, _, _ = standing(world, update)
    name = "TRPO as shipped" if update is TRPO.update else "the exact direction"
    outcome = update(learner, learner.objective, batch)
    there = world.at(learner)
    kl, budget = float(mean_kl(world, there, share).detach()), outcome.stats["kl_budget"]
    yield equal(f"{name}: the KL it reports is the KL", outcome.stats["kl_update"], kl)
    yield at_most(f"{name}: KL of the step <= delta", kl, budget)
    yield at_least(f"{name}: and a good part of it is used", kl / budget, 0.3)
    yield at_least(f"{name}: J rises", float((there.expected_reward() - world.expected_reward()).detach()), 1e-3)
    yield Fact(f"{name}: KL of the step over the budget", kl / budget)


def transformer_products() -> Iterator[Check | Fact]:
    """The same products on a real attention model, packed: five arbitrary vectors, and the solution."""
    world = llama()
    matrix = fisher(world, share_of_states(world))
    update = ball(damping=1e-2)
    _, _, region, slope_W = standing(world, update)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(5, len(matrix), dtype=torch.float64, generator=generator)
    yield equal("transformer: products", torch.stack([region.fisher_product(v) for v in vectors]), vectors @ matrix)
    x_W = update.natural_direction(region, slope_W).x
    yield equal("transformer: (F + damping) x = g", matrix @ x_W + update.damping * x_W, slope_W)


def other_coordinates(world: World) -> Iterator[Check | Fact]:
    """theta = A phi: the natural step changes the distribution in the same way, the gradient's and Adam's do not."""
    mixed = toy(limit=4, width=2, mixed=True)
    yield equal("both coordinates: the same policy", mixed.prob_Y(), world.prob_Y())
    undamped = ball(1e-8, damping=0.0)
    updates = {"far": undamped, "near": ball(1e-10, damping=0.0), "damped": ball(1e-10, damping=1e-3)}
    first_order: dict[str, list[Tensor]] = {"natural": [], "gradient": []}
    moved: dict[str, list[Tensor]] = {"far": [], "near": [], "damped": [], "Adam": []}
    for here in (world, mixed):
        slopes_XW = torch.cat(list(slopes_of_states(here).values()))
        _, _, region, slope_W = standing(here, undamped)
        first_order["natural"].append(slopes_XW @ undamped.natural_direction(region, slope_W).x)
        first_order["gradient"].append(slopes_XW @ slope_W)
        for name, update in updates.items():
            learner, batch, _, _ = standing(here, update)
            learner.recipe.update(learner, learner.objective, batch)
            moved[name].append(change(here, here.at(learner)))
        learner, _, _, _ = standing(here, undamped, lr=1e-6)
        learner.step()
        moved["Adam"].append(change(here, here.at(learner)))
    yield equal(
        "natural direction: the same change of the distribution",
        *first_order["natural"],
        tolerance=1e-6,
        why="F is singular (more weights than a distribution has), so rounding decides where the residual ends",
    )
    # A step of finite length is invariant to first order. The second shrinks with its length, the root of the budget.
    far, near = angle(*moved["far"]), angle(*moved["near"])
    yield at_most("the step taken: the same direction of change, in degrees", near, 0.1)
    yield at_least("a hundredth of the budget: the coordinates agree ten times better", far / near, 9.0)
    for name, pair in (("gradient", first_order["gradient"]), ("Adam", moved["Adam"])):
        yield at_least(f"{name}: degrees between the two coordinates' changes", angle(*pair), 5.0)
        yield Fact(f"{name}: degrees between the two coordinates' changes", angle(*pair))
    yield Fact("natural, KL 1e-8: degrees between the two coordinates' changes", far)
    yield Fact("natural, KL 1e-10: degrees between the two coordinates' changes", near)
    yield Fact("natural with damping 1e-3, KL 1e-10: degrees", angle(*moved["damped"]))


def change(before: World, after: World) -> Tensor:
    """Of log pi(v | s), at every state."""
    pairs = zip(before.states().values(), after.states().values(), strict=True)
    return torch.cat([(b - a).detach() for a, b in pairs])
