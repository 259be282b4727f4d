"""Why a run does not learn: rules over what it recorded, in the order in which one cause explains another."""

from __future__ import annotations

from collections.abc import Callable

from upslope.inspect.reading.opened import OpenRun
from upslope.inspect.why.attempts_rules import (
    always_right,
    cold,
    cut,
    duplicated,
    endless,
    missed_format,
    never_right,
    unmixed,
)
from upslope.inspect.why.facts import LEAST_STEPS, RunCourse
from upslope.inspect.why.finding import Diagnosis
from upslope.inspect.why.policy_rules import (
    blind_critic,
    clipped_always,
    collapsed_entropy,
    disagree,
    held_back,
    paid_noise,
    runaway_entropy,
    too_far,
    unlearns,
)
from upslope.inspect.why.reward_rules import by_length, rewarded_length, same_for_all

WhyRule = Callable[[RunCourse], Diagnosis | None]
RULES: tuple[WhyRule, ...] = (
    disagree,
    same_for_all,
    by_length,
    rewarded_length,
    always_right,
    cold,
    paid_noise,
    held_back,
    too_far,
    unlearns,
    endless,
    cut,
    missed_format,
    never_right,
    runaway_entropy,
    collapsed_entropy,
    blind_critic,
    unmixed,
    duplicated,
    clipped_always,
)
"""An earlier one is the cause of what a later one sees: a policy that jumped too far does not end its attempts,
attempts that are all cut earn nothing, and groups that all earn nothing are not mixed."""
UNPAID: tuple[WhyRule, ...] = (disagree, unlearns, clipped_always)
"""Those that do not ask what attempts earn: no other speaks of a run that imitates, or that a teacher judges."""


def diagnose(run: OpenRun) -> list[Diagnosis]:
    """What is wrong with a run, the likeliest cause first; empty where no rule speaks, or too few steps are done."""
    facts = RunCourse(run)
    if facts.num_steps < LEAST_STEPS:
        return []
    by_name: dict[str, Diagnosis] = {}
    for finding in (rule(facts) for rule in (RULES if facts.is_paid else UNPAID)):
        if finding is not None:
            by_name.setdefault(finding.rule, finding)  # two rules may see one sickness
    return list(by_name.values())
