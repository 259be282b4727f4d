"""Why a run does not learn: rules over what it recorded, in the order in which one cause explains another."""

from __future__ import annotations

from collections.abc import Callable

from upslope.inspect.reading.opened import OpenRun
from upslope.inspect.why.attempts_rules import (
    always_right,
    cold,
    cut,
    duplicated,
    missed_format,
    never_right,
    rewarded_length,
    same_for_all,
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
    runaway_entropy,
    too_far,
)

WhyRule = Callable[[RunCourse], Diagnosis | None]
RULES: tuple[WhyRule, ...] = (
    disagree,
    rewarded_length,
    same_for_all,
    cut,
    missed_format,
    always_right,
    never_right,
    too_far,
    runaway_entropy,
    cold,
    collapsed_entropy,
    held_back,
    blind_critic,
    unmixed,
    duplicated,
    clipped_always,
)
"""An earlier one is the cause of what a later one sees: attempts that are all cut earn nothing, and groups that all
earn nothing are not mixed."""


def diagnose(run: OpenRun) -> list[Diagnosis]:
    """What is wrong with a run, the likeliest cause first; empty where no rule speaks, or too few steps are done."""
    facts = RunCourse(run)
    if facts.num_steps < LEAST_STEPS:
        return []
    found = (rule(facts) for rule in RULES)
    return [finding for finding in found if finding is not None]
