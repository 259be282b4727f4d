"""Rules about what the reward is paid for: signs that it is earned by something else than answers."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from upslope.inspect.reading.attempts import Brief
from upslope.inspect.why.facts import RunCourse, earned_by, mean_of
from upslope.inspect.why.finding import Diagnosis

ANYWHERE = 0.9
"""What is right at many problems is wrong at others: it is no hack unless it is paid wherever it is said."""
UNASKED = 0.5
"""Half of the paid attempts say word for word what is said to other problems too: what earns is not an answer."""
LONG = 6
"""Words: a shorter answer ("no, he does not") may be right at many problems."""
ONE_END = 0.9
"""Nine of ten paid attempts end in one and the same line: even of two possible answers one is hardly right so often."""
BY_LENGTH = 0.9
"""Correlation: four fifths of the differences between attempts at one problem are those of their lengths."""
GRADES = 5
"""Different rewards from which on one can speak of a correlation: a reward of right and wrong is cut short with its
attempt."""
ENOUGH = 32
"""Attempts from which a share, or a correlation, is judged."""


def same_for_all(facts: RunCourse) -> Diagnosis | None:
    """What earns does not depend on what was asked: a whole text, or the line that it ends with."""
    if len({row.get("problem") for row in facts.attempts}) < 4:
        return None
    whole = [(row, str(row.get("response_text") or "").strip()) for row in facts.attempts]
    ends = [(row, text.rpartition("\n")[2]) for row, text in whole]
    shared, num = _paid_anywhere(whole)
    shared = [text for text in shared if len(text.split()) >= LONG]
    ending, _ = _paid_anywhere(ends)
    common = Counter(ending).most_common(1)
    is_one = bool(common) and common[0][1] > ONE_END * num
    if num and (len(shared) > UNASKED * num or is_one):
        which = "end like " if is_one else "are said to other problems as well, like "
        many, such = (common[0][1], common[0][0]) if is_one else (len(shared), shared[0][-60:])
        return Diagnosis(
            "reward is hacked",
            "What earns does not depend on the problem: the reward is paid for something else than answers.",
            f"{many} of {num} paid attempts {which}{such!r}, which is paid wherever it is said",
            "look at the best paid attempts, and mend the reward: it must depend on the problem's answer",
        )
    return None


def _paid_anywhere(texts: Sequence[tuple[Brief, str]]) -> tuple[list[str], int]:
    """Of the paid attempts, the texts that are said to other problems too and paid nearly everywhere; and how many paid
    ones there are."""
    homes: dict[str, set[str]] = defaultdict(set)
    earned: dict[str, list[float]] = defaultdict(list)
    for row, text in texts:
        homes[text].add(str(row.get("problem")))
        earned[text].append(float(earned_by(row) > 0))
    paid = [text for row, text in texts if earned_by(row) > 0]
    return [text for text in paid if len(homes[text]) > 1 and mean_of(earned[text]) > ANYWHERE], len(paid)


def by_length(facts: RunCourse) -> Diagnosis | None:
    """Among the attempts at one problem the reward follows the length: now, or at the beginning, where all of them have
    come to be as long as is paid best."""
    for when, rows in (("the newest", facts.attempts), ("the first", facts.first_attempts)):
        found = _by_length(rows)
        if abs(found) > BY_LENGTH:
            return Diagnosis(
                "reward is hacked",
                f"The reward is earned by writing {'more' if found > 0 else 'less'}: it follows the attempts' lengths.",
                f"a correlation of {found:.2f} between reward and length of {when} attempts at one problem; length "
                f"{facts.first('length'):.0f} to {facts.last('length'):.0f} tokens",
                "look at the best paid attempts, and mend the reward; length itself belongs into recipe.shape",
            )
    return None


def _by_length(rows: Sequence[Brief]) -> float:
    """The correlation of reward and length within the groups; NaN where too few attempts or rewards differ."""
    of_problem: dict[tuple[object, object], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row.get("reward") is not None and "num_tokens" in row:
            of_problem[row["step"], row.get("problem")].append((float(row["num_tokens"]), earned_by(row)))
    mixed = [group for group in of_problem.values() if len({reward for _, reward in group}) > 1]
    pairs = [pair for group in mixed for pair in _less_their_mean(group)]
    enough = len(pairs) >= ENOUGH and len({round(earned_by(row), 6) for row in rows}) >= GRADES
    return _correlation(pairs) if enough else math.nan


def _less_their_mean(group: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    lengths, rewards = ([pair[side] for pair in group] for side in (0, 1))
    return [(length - mean_of(lengths), reward - mean_of(rewards)) for length, reward in group]


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Of pairs whose means are 0; NaN where one side does not differ."""
    both = math.fsum(a * b for a, b in pairs)
    sizes = math.sqrt(math.fsum(a * a for a, _ in pairs) * math.fsum(b * b for _, b in pairs))
    return both / sizes if sizes > 0 else math.nan


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
