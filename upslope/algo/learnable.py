"""Which problems to try next, where something is known of them: slot ``sample``, value ``Learnable``.

A group teaches only where its rewards differ. A problem that the policy solves with chance p gives 0/1 rewards of
variance p (1 - p): nothing at 0 and at 1, most at 1/2. So problems are drawn by an estimate of that (arXiv 2502.12272
calls it learnability, and draws the top ones; here every problem keeps a chance).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from upslope.algo.sample import Attempts
from upslope.algo.slots import kind

PRIOR = 1.0
"""Of both sides of the Beta prior: any chance of success is as likely as any other."""


@kind("sample")
@dataclass(frozen=True)
class Learnable(Attempts):
    """Attempts at new problems, and at those of which it is most uncertain whether they are solved.

    With s right and f wrong attempts at a problem, the chance p of success has the posterior Beta(1 + s, 1 + f), and
    the estimate is e = E[p (1 - p)] = a b / ((a + b) (a + b + 1)), a = 1 + s, b = 1 + f. Every step multiplies s and f
    by ``decay``, since the policy moves: a problem that was mastered, or hopeless, comes back as its record fades.

    A step takes ``fresh`` of its problems from those never tried, while there are any, each with the same chance. The
    others come from those tried, with a chance proportional to (1 - floor) e / sum e + floor / n of n: never 0. With
    ``fresh = 0`` those never tried stand among the others, with the prior's e = 1/6.

    The chances are exact (systematic sampling), so what a step expects is known: with ``weighted``, a group counts
    1/n over its chance, and the expected gradient is that of problems drawn uniformly, at the price of variance (a
    recipe in which a group's part depends on what else was drawn, such as ``token_mean``, is refused). Without, it is
    that of another objective, in which a problem counts by its chance of being drawn. ``refill`` draws further problems
    by the same estimates, those never tried among them, and knows no ``fresh``.
    """

    fresh: float = 0.5
    floor: float = 0.1
    decay: float = 0.98
    weighted: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.fresh <= 1:
            raise ValueError(f"fresh is a share in [0, 1], not {self.fresh}")
        if not 0 < self.floor <= 1:
            raise ValueError(f"floor is a share in (0, 1], not {self.floor}; at 0 a problem could be forgotten")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay is a factor in (0, 1], not {self.decay}")
        if self.weighted and (self.refill or self.fresh == 1):
            raise ValueError(
                "weighted needs a chance for every problem at every step: set fresh below 1, and refill to 0"
            )


def learnability(right: float, wrong: float) -> float:
    """E[p (1 - p)] under Beta(1 + right, 1 + wrong).

    >>> learnability(0, 0), round(learnability(8, 8), 4), round(learnability(0, 16), 4)
    (0.16666666666666666, 0.2368, 0.0497)
    """
    a, b = PRIOR + right, PRIOR + wrong
    return a * b / ((a + b) * (a + b + 1))


def chances(estimates: Sequence[float], num: float, floor: float) -> list[float]:
    """The chance of every item to be among ``num`` drawn: proportional to (1 - floor) e / sum e + floor / n, and where
    that were more than 1, 1, the rest going to the others. They sum to ``num``, or all are 1 where there are no more.

    >>> [round(c, 3) for c in chances([0.25, 0.05, 0.0], 2, floor=0.1)]
    [1.0, 0.846, 0.154]
    """
    if num >= len(estimates):
        return [1.0] * len(estimates)
    weight_of = weights(estimates, floor)
    certain: set[int] = set()
    while True:
        rest = sum(w for i, w in enumerate(weight_of) if i not in certain)
        scale = (num - len(certain)) / rest
        above = {i for i, w in enumerate(weight_of) if i not in certain and w * scale >= 1}
        if not above:
            return [1.0 if i in certain else w * scale for i, w in enumerate(weight_of)]
        certain |= above


def weights(estimates: Sequence[float], floor: float) -> list[float]:
    """(1 - floor) e / sum e + floor / n for each estimate e of n; they sum to 1.

    >>> weights([0.2, 0.0], floor=0.5)
    [0.75, 0.25]
    """
    total, even = sum(estimates), 1 / max(len(estimates), 1)
    return [(1 - floor) * e / total + floor * even if total else even for e in estimates]


def systematic(chance: Sequence[float], start: float) -> list[int]:
    """Items drawn with exactly these chances, as many as they sum to: those over which start, start + 1, ... fall when
    the chances are laid end to end, for a ``start`` drawn from [0, 1) (Madow 1949).

    >>> systematic([0.5, 0.5, 1.0], 0.2), systematic([0.5, 0.5, 1.0], 0.7)
    ([0, 2], [1, 2])
    """
    drawn: list[int] = []
    reached, num = 0.0, round(sum(chance))
    for item, share in enumerate(chance):
        reached += share
        if len(drawn) < num and start + len(drawn) < reached:
            drawn.append(item)
    # Rounding can leave the very last one out.
    return drawn if len(drawn) == num else [*drawn, max(set(range(len(chance))) - set(drawn))]
