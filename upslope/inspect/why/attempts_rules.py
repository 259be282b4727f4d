"""Rules about what was attempted and what it earned: without differences between attempts nothing is learnt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import median

from upslope.inspect.reading.attempts import Brief
from upslope.inspect.why.facts import RunCourse, earned_by, share_where
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
ALIKE = 0.75
"""Three of four attempts that earn too little are word for word another one: trying again is paid for and not done. A
sharp policy that learns (pocket, 1.5 nats an attempt) has half of them."""
COLD = 0.5
"""Below this temperature a model of any size repeats itself."""
RAMBLES = 0.2
"""Of the words behind an attempt's middle: a fifth of them, by threes, stands in other problems' prompts and not in its
own (measured: 0.4 where a model goes on to the next problem, 0 in answers that are cut)."""
CIRCLES = 0.5
"""Half of the words behind its middle were said before, by fours."""


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


def endless(facts: RunCourse) -> Diagnosis | None:
    """Cut from the first step on, and not in the middle of an answer: what is missing is the way to end."""
    rows = [row for row in facts.attempts if row.get("ended") == "length"]
    if not (facts.last("truncated") > CUT and facts.first("truncated") > CUT and rows):
        return None
    prompts = {str(row.get("problem")): by_words(_numberless(row.get("prompt_text")), 3) for row in rows}
    said_in = Counter(gram for grams in prompts.values() for gram in set(grams))
    further, again = [], []
    for row in rows:
        own = set(prompts[str(row.get("problem"))])
        threes = by_words(_numberless(row.get("response_text")), 3)
        fours = by_words(str(row.get("response_text") or ""), 4)
        late = threes[len(threes) // 2 :]
        further.append(share_where([gram in said_in and gram not in own for gram in late]))
        before = {gram: place for place, gram in reversed(list(enumerate(fours)))}
        again.append(share_where([before[gram] < place for place, gram in enumerate(fours)][len(fours) // 2 :]))
    rambles, circles = median(further), median(again)
    if rambles > RAMBLES or circles > CIRCLES:
        how = "with other problems" if rambles > RAMBLES else "in circles"
        return Diagnosis(
            "format missed",
            "Attempts do not end: the policy does not know how an answer ends here, and goes on until it is cut.",
            f"{percent(facts.last('truncated'))} are cut at {facts.setting('sample', 'max_tokens')} tokens, and they "
            f"go on {how}; one ends with {_end(rows[0])!r}",
            "teach the answer's form first (a few steps of SFT), or say it in the prompt; a higher limit does not help",
        )
    return None


def by_words(text: str, num: int) -> list[tuple[str, ...]]:
    """Every ``num`` words that follow one another.

    >>> by_words("Ann has 12 pens.", 3)
    [('ann', 'has', '12'), ('has', '12', 'pens.')]
    """
    words = text.lower().split()
    return [tuple(words[place : place + num]) for place in range(len(words) - num + 1)]


def _numberless(text: object) -> str:
    """Another problem of the same kind has other numbers."""
    return re.sub(r"\d+", "0", str(text or ""))


def missed_format(facts: RunCourse) -> Diagnosis | None:
    ended = [row for row in facts.attempts if row.get("ended") in ("stop", "stop_string")]
    extracts = any(row.get("extracted") for row in facts.attempts)
    none = [row for row in ended if not row.get("extracted")]
    lost = len(none) / len(ended) if ended else 0.0
    if ended and facts.last("reward") < 0.5 and lost > MISSED and (extracts or facts.task in KNOWN):
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
    if temperature < COLD and (facts.equal > 0.5 or _alike(facts.attempts) > ALIKE):
        return Diagnosis(
            "temperature too low",
            "The attempts at a problem are nearly the same, because they are drawn at a low temperature.",
            f"sample.temperature is {temperature:g}, less than {COLD:g}; {percent(facts.equal)} of the groups earn all "
            "the same",
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


def unmixed(facts: RunCourse) -> Diagnosis | None:
    if facts.compares and facts.equal > SAME:
        return Diagnosis(
            "no mixed groups",
            "Nearly all groups earn all the same: they have no gradient.",
            f"{percent(facts.equal)} of the groups, more than {percent(SAME)}; mean reward {facts.last('reward'):.3g}",
            "more attempts a problem (recipe.sample.group_size), problems where some succeed (recipe.sample.kind = "
            "learnable, or dynamic), a higher temperature",
        )
    return None


def duplicated(facts: RunCourse) -> Diagnosis | None:
    """Most attempts earn less than they could, and these are the same again and again."""
    best = max((earned_by(row) for row in facts.attempts), default=0.0)
    wanting = [row for row in facts.attempts if earned_by(row) < best] or facts.attempts
    alike = _alike(wanting)
    if facts.acts and alike > ALIKE and len(wanting) > 0.5 * len(facts.attempts) and facts.last("length") > SHORT:
        return Diagnosis(
            "attempts are duplicated",
            "Most attempts at a problem that earn too little are word for word the same.",
            f"{percent(alike)} of the newest of them repeat another one of their group, more than {percent(ALIKE)}",
            "a higher sample.temperature, fewer steps at a lower rate, or a bonus for entropy",
        )
    return None


def _alike(rows: Sequence[Brief]) -> float:
    """Share of attempts whose text another one at the same problem has too."""
    told = Counter((row["step"], row.get("problem"), row.get("response_text")) for row in rows)
    return share_where([told[row["step"], row.get("problem"), row.get("response_text")] > 1 for row in rows])


def _end(row: dict[str, object]) -> str:
    return str(row.get("response_text") or "").strip()[-60:]
