"""Rules about the policy: how it spreads, how far it moves, and who agrees with whom."""

from __future__ import annotations

import math

from upslope.inspect.why.facts import FLAT, RunCourse, mean_of
from upslope.inspect.why.finding import Diagnosis
from upslope.inspect.words import percent

GAP = {"float32": 0.01, "float64": 0.01}
"""Nats a token between sampler and learner that rounding explains: measured 1e-6 to 1e-4. Stale weights of one step at
usual rates give ten times more."""
COARSE_GAP = 0.15
"""The same where the precision is bfloat16, or not known: measured 0.01 to 0.03."""
GROWN = 10.0
"""Times what sampler and learner were apart at the first step, when both had the same weights: rounding does not grow,
and the entropy, with which it goes, halves or doubles."""
FINE_GAP = 1e-3
"""Nats a token that are of no matter, however fast they grew."""
FAR = 0.1
"""Nats a token in one step: half of the usual steps of PPO and TRPO move by 0.001 to 0.02."""
WILD = 100.0
"""Of pi / pi_old: one token then weighs as much as a hundred others."""
RUNAWAY = 4.0
"""Growth of the entropy over a run at which exploration is no more than noise."""
PULLED = 2.0
"""Times the most that the reward's gradient can have: the other half is a penalty's, which then says where to go."""
COLLAPSED = 0.1
"""Of the entropy at the beginning; less than that, attempts hardly differ."""
HELD = 0.005
"""Nats a token from the reference: no answer changes."""
PAYS = 1.0
"""A coefficient at which a nat costs as much as a right answer earns; usual ones are 0.001 to 0.1."""
BEND = 10.0
"""Times the limit: the gradient is cut to a tenth or less, so its size says nothing any more."""
BLIND = 0.02
"""A critic that explains less of the outcome's variance, in the whole run and at its end, knows no more than the mean:
pocket's explains 0.05 to 0.15 from its third step on."""
BLINDED = -0.5
"""A critic that is off by half as much again as the mean, whatever it knew once."""


def disagree(facts: RunCourse) -> Diagnosis | None:
    gaps = facts.known("logp_gap_mean")
    bound = GAP.get(str(facts.setting("learn", "dtype")), COARSE_GAP)
    if (
        gaps and not facts.last("age_max") > 0
    ):  # where attempts are old on purpose, it grows as the policy begins to move
        bound = min(bound, max(GROWN * gaps[0], FINE_GAP))
    if facts.last("logp_gap_mean") > bound:
        return Diagnosis(
            "sampler and learner disagree",
            "The sampler writes with other weights, or another distribution, than the learner scores.",
            f"{facts.last('logp_gap_mean'):.3g} nats a token apart ({gaps[0]:.2g} at the first step), more than the "
            f"{bound:.2g} that rounding explains",
            "are the weights handed over at every step, and is the prefix cache dropped? With `cluster.staleness` the "
            "gap is its price: lower it, or set a correction",
        )
    return None


def too_far(facts: RunCourse) -> Diagnosis | None:
    moved = max(facts.known("kl_step"), default=0.0)
    ratio = facts.last("ratio_max") if facts.number("recipe", "reuse", "epochs") > 1 else 0.0
    lost = facts.lost()
    if facts.acts and (lost > 0 or (not facts.rises and (moved > FAR or ratio > WILD))):
        wild = f", ratios up to {ratio:.3g}, where {WILD:g} is wild" if ratio > WILD else ""
        far = f"up to {moved:.3g} nats a token in one step, where {FAR:g} is far{wild}; " if moved > FAR or wild else ""
        return Diagnosis(
            "rate too high",
            "The policy jumps further than its attempts can speak for: what it had won is lost."
            if lost
            else "The policy jumps in a step further than its attempts can speak for.",
            f"{far}reward {facts.first('reward'):.3g} at the beginning, {max(facts.known('reward')):.3g} at best, "
            f"{facts.last('reward'):.3g} at the end",
            "a lower learn.lr (a third of it), warm-up, or a leash (clipping, recipe.regulariser, kl_ball)",
        )
    return None


def unlearns(facts: RunCourse) -> Diagnosis | None:
    """The same of a run that imitates, which has no reward to lose."""
    first, last = facts.first("loss"), facts.last("loss")
    if not facts.acts and first > 0 and last > LOST_LOSS * first:
        return Diagnosis(
            "rate too high",
            "The loss on what is imitated rises: the policy forgets what it knew.",
            f"{first:.3g} nats a token at the beginning, {last:.3g} at the end",
            "a lower learn.lr (a third of it), or warm-up",
        )
    return None


LOST_LOSS = 1.1
"""Batches differ by a few percent, and a loss that imitates falls."""


def paid_noise(facts: RunCourse) -> Diagnosis | None:
    """A bonus for entropy that says more than the reward."""
    first, last, coefficient = facts.first("entropy"), facts.last("entropy"), _coefficient(facts, bonus=True)
    pulled = facts.pull() > PULLED and last > first
    if coefficient > 0 and (last > 1.5 * first or pulled) and not facts.rises:
        return _noise(
            facts, f" at a bonus of {coefficient:g} a nat", "a tenth of the bonus (recipe.regulariser), or none"
        )
    return None


def runaway_entropy(facts: RunCourse) -> Diagnosis | None:
    if facts.last("entropy") > RUNAWAY * facts.first("entropy") and not facts.rises:
        return _noise(facts, "", "a lower learn.lr, or a leash (clipping, recipe.regulariser)")
    return None


def _noise(facts: RunCourse, bonus: str, mend: str) -> Diagnosis:
    return Diagnosis(
        "entropy runs away",
        "The policy becomes noise: its entropy rises and its reward does not.",
        f"entropy {facts.first('entropy'):.3g} to {facts.last('entropy'):.3g} nats a token{bonus}, reward "
        f"{facts.first('reward'):.3g} to {facts.last('reward'):.3g}",
        mend,
    )


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
    coefficient, away = _coefficient(facts, bonus=False), facts.last("kl_reference")
    pull = facts.pull()
    still = away < HELD and coefficient >= PAYS and facts.num_steps >= 20
    costs = facts.setting("recipe", "regulariser", "place") == "reward" and facts.last("reward_shaped") < (
        facts.last("reward") - 0.5 * max(abs(facts.last("reward")), FLAT)
    )
    teaches = not facts.equal > SAME
    if coefficient > 0 and (pull > PULLED or still or costs) and not facts.rises and teaches:
        pulls = f", whose gradient is {pull:.2g} times what the reward's can be" if pull > PULLED else ""
        pays = f"; it takes the reward down to {facts.last('reward_shaped'):.3g}" if costs else ""
        return Diagnosis(
            "penalty too strong",
            "The penalty, and not the reward, says where the policy goes: it is held at its reference.",
            f"{away:.2g} nats a token from the reference after {facts.num_steps} steps, at a coefficient of "
            f"{coefficient:g}{pulls}; reward {facts.first('reward'):.3g} to {facts.last('reward'):.3g}{pays}",
            "a tenth of the coefficient (recipe.regulariser.coefficient), or none: exact answers cannot be gamed",
        )
    return None


def _coefficient(facts: RunCourse, *, bonus: bool) -> float:
    """Of the bonus for entropy, or of the penalty; NaN where the recipe has none."""
    is_bonus = facts.setting("recipe", "regulariser", "kind") == "entropy_bonus"
    return facts.number("recipe", "regulariser", "coefficient") if is_bonus == bonus else math.nan


SAME = 0.9
"""Groups that earn all the same have no gradient, and so no course either."""


def blind_critic(facts: RunCourse) -> Diagnosis | None:
    learnt = facts.num_steps >= 10 and not facts.last("warming") > 0 and not facts.equal > SAME
    last, whole = facts.last("explained_variance"), mean_of(facts.known("explained_variance"))
    if learnt and (last < BLINDED or max(last, whole) < BLIND):
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
