"""Rules about the policy: how it spreads, how far it moves, and who agrees with whom."""

from __future__ import annotations

from upslope.inspect.why.facts import RunCourse
from upslope.inspect.why.finding import Diagnosis
from upslope.inspect.words import percent

GAP = {"float32": 0.01, "bfloat16": 0.15}
"""Nats a token between sampler and learner that rounding explains: measured 1e-6 to 1e-4 and 0.01 to 0.03. Stale
weights of one step at usual rates give ten times more."""
FAR = 0.1
"""Nats a token in one step: half of the usual steps of PPO and TRPO move by 0.001 to 0.02."""
WILD = 100.0
"""Of pi / pi_old: one token then weighs as much as a hundred others."""
RUNAWAY = 4.0
"""Growth of the entropy over a run at which exploration is no more than noise."""
COLLAPSED = 0.1
"""Of the entropy at the beginning; less than that, attempts hardly differ."""
FLAT = 0.02
"""A reward that rises by less than this share of its range did not rise."""
HELD = 0.005
"""Nats a token from the reference: no answer changes."""
BEND = 10.0
"""Times the limit: the gradient is cut to a tenth or less, so its size says nothing any more."""
BLIND = 0.05
"""A critic that explains less of the outcome's variance knows no more than the mean."""


def disagree(facts: RunCourse) -> Diagnosis | None:
    dtype = str(facts.setting("learn", "dtype"))
    bound = GAP.get(dtype, GAP["bfloat16"])
    if facts.last("logp_gap_mean") > bound:
        return Diagnosis(
            "sampler and learner disagree",
            "The sampler writes with other weights, or another distribution, than the learner scores.",
            f"{facts.last('logp_gap_mean'):.3g} nats a token apart, more than the {bound:g} that rounding explains",
            "are the weights handed over at every step, and is the prefix cache dropped? With `cluster.staleness` the "
            "gap is its price: lower it, or set a correction",
        )
    return None


def too_far(facts: RunCourse) -> Diagnosis | None:
    moved = max(facts.known("kl_step"), default=0.0)
    ratio = facts.last("ratio_max") if facts.number("recipe", "reuse", "epochs") > 1 else 0.0
    fell = facts.accuracy[1:] and facts.accuracy[-1] < max(facts.accuracy) - 0.1
    peak = max(facts.known("reward"), default=0.0)
    lost = facts.last("reward") < 0.5 * peak and facts.last("reward") < facts.first("reward") + FLAT
    if moved > FAR or ratio > WILD or (fell and lost):
        wild = f", ratios up to {ratio:.3g}, where {WILD:g} is wild" if ratio > WILD else ""
        far = f", where {FAR:g} is far" if moved > FAR else ""
        return Diagnosis(
            "rate too high",
            "The policy jumps in a step further than its attempts can speak for.",
            f"up to {moved:.3g} nats a token in one step{far}{wild}; reward {facts.first('reward'):.3g} at "
            f"the beginning, {peak:.3g} at best, {facts.last('reward'):.3g} at the end",
            "a lower learn.lr (a third of it), warm-up, or a leash (clipping, recipe.regulariser, kl_ball)",
        )
    return None


def runaway_entropy(facts: RunCourse) -> Diagnosis | None:
    first, last = facts.first("entropy"), facts.last("entropy")
    paid = facts.setting("recipe", "regulariser", "kind") == "entropy_bonus"
    bonus = facts.number("recipe", "regulariser", "coefficient") if paid else 0.0
    if last > 1.5 * first and (bonus > 0 or last > RUNAWAY * first) and not facts.last("reward") > rise_over(facts):
        return Diagnosis(
            "entropy runs away",
            "The policy becomes noise: its entropy rises and its reward does not.",
            f"entropy {first:.3g} to {last:.3g} nats a token, reward {facts.first('reward'):.3g} to "
            f"{facts.last('reward'):.3g}",
            "a smaller bonus for entropy, or none (recipe.regulariser)" if bonus > 0 else "a lower learn.lr",
        )
    return None


def collapsed_entropy(facts: RunCourse) -> Diagnosis | None:
    first, last = facts.first("entropy"), facts.last("entropy")
    if facts.acts and last < COLLAPSED * first and facts.last("accuracy") < 0.9:
        return Diagnosis(
            "entropy collapsed",
            "The policy has settled on one way to answer, and it is often wrong.",
            f"entropy {first:.3g} to {last:.3g} nats a token while {percent(facts.last('accuracy'))} are right",
            "a wider clip above (recipe dapo), clip-cov or kl-cov, a lower learn.lr, a higher temperature",
        )
    return None


def held_back(facts: RunCourse) -> Diagnosis | None:
    paid = facts.setting("recipe", "regulariser", "kind") != "entropy_bonus"
    pays = facts.number("recipe", "regulariser", "coefficient") if paid else 0.0
    still = facts.last("kl_reference") < HELD and facts.num_steps >= 20
    if still and pays > 0 and not facts.last("reward") > rise_over(facts) and facts.last("equal_groups") <= 0.9:
        return Diagnosis(
            "penalty too strong",
            "The penalty holds the policy at its reference: nothing changes.",
            f"{facts.last('kl_reference'):.2g} nats a token from the reference after {facts.num_steps} steps, at a "
            f"coefficient of {pays:g}; reward {facts.first('reward'):.3g} to {facts.last('reward'):.3g}",
            "a tenth of the coefficient (recipe.regulariser.coefficient), or none: exact answers cannot be gamed",
        )
    return None


def blind_critic(facts: RunCourse) -> Diagnosis | None:
    if facts.last("explained_variance") < BLIND and facts.num_steps >= 10 and facts.last("equal_groups") <= 0.9:
        return Diagnosis(
            "critic explains nothing",
            "The critic does not know better than the mean which attempts will succeed.",
            f"it explains {percent(facts.last('explained_variance'))} of the outcomes' variance, less than "
            f"{percent(BLIND)}",
            "more warm-up (recipe.critic.warmup), a higher rate for it, or the group's mean in its place (grpo)",
        )
    return None


def clipped_always(facts: RunCourse) -> Diagnosis | None:
    limit = facts.number("learn", "clip")
    if limit > 0 and facts.share("grad_norm", limit * BEND) > 0.5:
        return Diagnosis(
            "gradient always clipped",
            "The gradient is far above its limit at most steps: learn.clip, not learn.lr, says how far they go.",
            f"{percent(facts.share('grad_norm', limit * BEND))} of the steps more than {BEND:g} times "
            f"learn.clip = {limit:g}",
            "a higher learn.clip with a lower learn.lr; or look for attempts whose ratio explodes",
        )
    return None


def rise_over(facts: RunCourse) -> float:
    """What the reward must lie above at the end to have risen: where it began, and a share of what was left to win."""
    first = facts.first("reward")
    return first + max(FLAT, FLAT * abs(1 - first))
