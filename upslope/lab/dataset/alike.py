"""Problems that training and held-out data share, word for word or nearly."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from upslope.types import Problem

SHINGLE = 5
"""Words of a run that two texts can share. Shorter ones are shared by chance, longer ones miss a changed number."""
NEAR = 0.8
"""Share of their runs of words that two texts have in common (Jaccard), from which on they are nearly the same."""
COMMON = 200
"""A run of words in more held-out problems than that is a form of speech, and no sign of a copy."""
_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Alike:
    """A held-out problem and the training problem that is most like it.

    >>> Alike("test/3", "train/7", 1.0).exact
    True
    """

    held_out: str
    train: str
    share: float
    """Of their runs of words, how many both have: 1 for the same text, but for case and spacing."""

    @property
    def exact(self) -> bool:
        return self.share == 1.0


def shared_problems(train: Sequence[Problem], held_out: Sequence[Problem], near: float = NEAR) -> list[Alike]:
    """Every held-out problem that is in the training data, or nearly, the most alike first. What is compared is all
    that the user and system say, without regard to case and spacing."""
    texts = {_flat(problem): problem for problem in reversed(train)}
    same = [(place, texts.get(_flat(problem))) for place, problem in enumerate(held_out)]
    wanted = [_shingles(_text(problem)) for problem in held_out]
    homes: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, shingles in enumerate(wanted):
        for shingle in shingles:
            homes[shingle].append(place)
    found = {place: Alike(held_out[place].id, copy.id, 1.0) for place, copy in same if copy is not None}
    for problem in train:
        shingles = _shingles(_text(problem))
        shared = Counter(place for s in shingles if len(homes.get(s, ())) <= COMMON for place in homes.get(s, ()))
        for place, num in shared.items():
            if num * (1 + near) < near * (len(shingles) + len(wanted[place])):
                continue  # Jaccard = num / (a + b - num) is below the bound
            share = len(shingles & wanted[place]) / len(shingles | wanted[place])
            if share >= near and (place not in found or share > found[place].share):
                found[place] = Alike(held_out[place].id, problem.id, share)
    return sorted(found.values(), key=lambda pair: -pair.share)


def _flat(problem: Problem) -> str:
    """Without regard to case and spacing."""
    return " ".join(_WORDS.findall(_text(problem).lower()))


def _text(problem: Problem) -> str:
    return "\n".join(m["content"] for m in problem.messages if m["role"] != "assistant")


def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Every run of ``SHINGLE`` words; of a shorter text the whole.

    >>> sorted(_shingles("A b"))
    [('a', 'b')]
    """
    words = _WORDS.findall(text.lower())
    return frozenset(tuple(words[i : i + SHINGLE]) for i in range(max(len(words) - SHINGLE + 1, 1)))
