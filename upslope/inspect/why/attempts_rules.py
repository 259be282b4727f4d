"""Rules about what was attempted and what it earned: without differences between attempts nothing is learnt."""

from __future__ import annotations

from collections import Counter, defaultdict

from upslope.inspect.why.facts import RunCourse, mean_of
from upslope.inspect.why.finding import Diagnosis
from upslope.inspect.words import percent

CUT = 0.5
"""Every second attempt has no end: its reward says nothing of what it would have become. A healthy run cuts a tenth."""
MISSED = 0.5
"""Every second attempt that ended has no answer that the task could find."""
SAME = 0.9
"""One group of ten teaches: less than that, and a step's gradient is a matter of one or two problems."""
SATURATED = 0.98
"""With one attempt of fifty wrong, a group of eight is mixed once in seven, and by a single attempt."""
SHORT = 8
"""Tokens: answers of a word or two are the same where they are right."""
ALIKE = 0.5
"""Half of a problem's attempts are word for word another one: the group is half as large as it is paid for."""
COLD = 0.5
"""Below this temperature a model of any size repeats itself."""
ANYWHERE = 0.9
"""A short answer ("yes") is right at many problems and wrong at others: it is no hack unless it is paid wherever it
is said."""
UNASKED = 0.5
"""Half of the paid attempts say word for word what is said to other problems too: what earns is not an answer."""


def cut(facts: RunCourse) -> Diagnosis | None:
    if facts.last("truncated") > CUT:
        return Diagnosis(
            "limit too short",
            "Most attempts are cut off before they end.",
            f"{percent(facts.last('truncated'))} are cut at {facts.setting('sample', 'max_tokens')} tokens; more than "
            f"{percent(CUT)} is no way to judge an answer",
            "raise sample.max_tokens, or teach the form first (SFT); overlong shaping (recipe dapo) if they ramble",
        )
    return None


def missed_format(facts: RunCourse) -> Diagnosis | None:
    ended = [row for row in facts.attempts if row.get("ended") in ("stop", "stop_string")]
    extracts = any(row.get("extracted") for row in facts.attempts)
    none = [row for row in ended if not row.get("extracted")]
    lost = len(none) / len(ended) if ended else 0.0
    if ended and facts.last("reward") < 0.5 and lost > MISSED and (extracts or facts.setting("task", "name") in KNOWN):
        return Diagnosis(
            "format missed",
            "No answer is found in most attempts that ended.",
            f"in {len(none)} of {len(ended)} of the newest; one ends with {_end(none[0])!r}",
            "look at an attempt: teach the answer's form first (a few steps of SFT), say it in the prompt, or let the "
            "task read the form that the model writes",
        )
    return None


KNOWN = ("gsm8k", "pocket", "math")
"""Tasks of which it is known that they extract an answer, even where no attempt has one."""


def cold(facts: RunCourse) -> Diagnosis | None:
    temperature = facts.number("sample", "temperature")
    if temperature < COLD and (facts.last("equal_groups") > 0.5 or _alike(facts) > ALIKE):
        return Diagnosis(
            "temperature too low",
            "The attempts at a problem are nearly the same, because they are drawn at a low temperature.",
            f"sample.temperature is {temperature:g}, less than {COLD:g}; {percent(facts.last('equal_groups'))} of the "
            f"groups earn all the same",
            "sample.temperature between 0.7 and 1",
        )
    return None


def never_right(facts: RunCourse) -> Diagnosis | None:
    rewards = facts.known("reward")
    if (
        facts.acts
        and rewards
        and max(rewards) == min(rewards)
        and facts.last("equal_groups") > SAME
        and rewards[-1] <= 0
    ):
        return Diagnosis(
            "reward always 0",
            "No attempt ever earned anything: there is nothing to learn from.",
            f"reward {rewards[-1]:g} in all {len(rewards)} steps",
            "easier problems (task.where after `upslope measure`), SFT first, more attempts a problem; or look at an "
            "attempt that should have been right, and mend the reward",
        )
    return None


def always_right(facts: RunCourse) -> Diagnosis | None:
    if facts.acts and facts.first("accuracy") >= SATURATED and facts.last("accuracy") >= SATURATED:
        return Diagnosis(
            "reward always full",
            "Nearly every attempt earns full marks from the beginning: there is nothing left to learn.",
            f"{percent(facts.first('accuracy'))} at the beginning, {percent(facts.last('accuracy'))} at the end; from "
            f"{percent(SATURATED)} on it is full",
            "harder problems, or a reward that tells a good answer from a better one",
        )
    return None


def same_for_all(facts: RunCourse) -> Diagnosis | None:
    """What earns does not depend on what was asked."""
    paid = [row for row in facts.attempts if (row.get("reward") or 0) > 0 and row.get("response_text")]
    homes: dict[str, set[str]] = defaultdict(set)
    earned: dict[str, list[float]] = defaultdict(list)
    for row in facts.attempts:
        homes[str(row.get("response_text"))].add(str(row.get("problem")))
        earned[str(row.get("response_text"))].append(float((row.get("reward") or 0) > 0))
    shared = [
        row
        for row in paid
        if len(homes[str(row["response_text"])]) > 1 and mean_of(earned[str(row["response_text"])]) > ANYWHERE
    ]
    share = len(shared) / len(paid) if paid else 0.0
    if len({row.get("problem") for row in facts.attempts}) >= 4 and share > UNASKED:
        return Diagnosis(
            "reward is hacked",
            "What earns is said to other problems too, word for word: the reward is paid for something else than "
            "answers.",
            f"{len(shared)} of {len(paid)} paid attempts, such as {_end(shared[0])!r}",
            "look at the best paid attempts, and mend the reward: it must depend on the problem's answer",
        )
    return None


def rewarded_length(facts: RunCourse) -> Diagnosis | None:
    """Reward and length rise together up to the limit: the reward pays for words."""
    limit = facts.number("sample", "max_tokens")
    grown = facts.last("length") > 1.5 * facts.first("length")
    if grown and facts.last("length") > 0.8 * limit and facts.last("reward") > facts.first("reward"):
        return Diagnosis(
            "reward is hacked",
            "The reward is earned by writing more: attempts run up to the limit.",
            f"length {facts.first('length'):.0f} to {facts.last('length'):.0f} of {limit:.0f} tokens while the reward "
            f"went from {facts.first('reward'):.3g} to {facts.last('reward'):.3g}",
            "look at the best paid attempts, and mend the reward; a penalty of length (recipe.shape) if it is right",
        )
    return None


def unmixed(facts: RunCourse) -> Diagnosis | None:
    if facts.acts and facts.last("equal_groups") > SAME:
        return Diagnosis(
            "no mixed groups",
            "Nearly all groups earn all the same: they have no gradient.",
            f"{percent(facts.last('equal_groups'))} of the groups, more than {percent(SAME)}; mean reward "
            f"{facts.last('reward'):.3g}",
            "more attempts a problem (recipe.sample.group_size), problems where some succeed (recipe.sample.kind = "
            "learnable, or dynamic), a higher temperature",
        )
    return None


def duplicated(facts: RunCourse) -> Diagnosis | None:
    if (
        facts.acts
        and _alike(facts) > ALIKE
        and facts.last("length") > SHORT
        and not facts.last("accuracy") >= SATURATED
    ):
        return Diagnosis(
            "attempts are duplicated",
            "Most attempts at a problem are word for word the same.",
            f"{percent(_alike(facts))} of the newest repeat another one of their group, more than {percent(ALIKE)}",
            "a higher sample.temperature, fewer steps at a lower rate, or a bonus for entropy",
        )
    return None


def _alike(facts: RunCourse) -> float:
    """Share of attempts whose text another one at the same problem has too."""
    told = Counter((row["step"], row.get("problem"), row.get("response_text")) for row in facts.attempts)
    return mean_of(
        [float(told[row["step"], row.get("problem"), row.get("response_text")] > 1) for row in facts.attempts]
    )


def _end(row: dict[str, object]) -> str:
    return str(row.get("response_text") or "").strip()[-60:]
