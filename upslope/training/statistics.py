"""How sure a measured share is: interval estimates for accuracies and for pass@k.

A held-out accuracy is a mean over a few hundred problems, so a gain of three points may be luck. Every number an
evaluation reports therefore comes with its 95 % interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal: two-sided 95 %."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the 95 % interval around it.

    >>> Interval(0.41, low=0.37, high=0.45).value
    0.41
    """

    value: float
    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval:
    """The share ``p = successes / trials`` with its 95 % Wilson score interval (Wilson 1927).

    The interval is the set of true shares ``q`` that a two-sided score test does not reject,
    ``|p - q| <= z * sqrt(q * (1 - q) / n)``. Solved for ``q`` (a quadratic):

        (p + z²/2n  ±  z * sqrt(p * (1 - p) / n + z²/4n²)) / (1 + z²/n)

    Unlike ``p ± z * sqrt(p * (1 - p) / n)`` it never leaves [0, 1] and does not shrink to a point at 0 or ``n``
    successes, which is where small models begin.

    >>> wilson(0, 10)
    Interval(value=0.0, low=0.0, high=0.2775327998628892)
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"need 0 <= successes <= trials and trials >= 1, got {successes} of {trials}")
    return _score_interval(successes / trials, trials)


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of per-problem values in [0, 1] (such as pass@k of every problem) with a 95 % interval.

    It is the Wilson interval with the sum of the values in the place of the number of successes. That is sound: a
    variable on [0, 1] with mean ``q`` has variance at most ``q * (1 - q)`` (Bhatia and Davis 2000), a 0/1 variable
    being the extreme case, so the score test above covers at least as often as it claims, to the same normal
    approximation. The price is width where values lie in the middle of [0, 1]; a t-interval would be tighter there,
    but it is a single point when all values are equal (every problem unsolved, say), which is no honest statement
    about the next problem. Values that are all 0 or 1 give exactly ``wilson``.

    >>> mean_interval([1.0, 0.0, 1.0, 1.0]) == wilson(3, 4)
    True
    """
    if not values or not all(0.0 <= value <= 1.0 for value in values):
        raise ValueError("need at least one value, all of them in [0, 1]")
    return _score_interval(math.fsum(values) / len(values), len(values))


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that at least one of ``k`` samples is right, from ``num_correct`` right ones among ``num_samples``.

    With n samples of which c are right, the unbiased estimator (Chen et al. 2021, arXiv 2107.03374, eq. 1) is

        pass@k = 1 - C(n - c, k) / C(n, k):

    the share of the k-subsets of the n samples that hold a right one. (``1 - (1 - c/n)^k`` is biased low.) The
    binomials are exact integers, so no product of small ratios loses digits.

    >>> pass_at_k(num_samples=4, num_correct=1, k=2)  # 3 of the 6 pairs hold the right one
    0.5
    """
    if not (1 <= k <= num_samples and 0 <= num_correct <= num_samples):
        raise ValueError(f"need 1 <= k <= n and 0 <= c <= n, got n={num_samples}, c={num_correct}, k={k}")
    missing = math.comb(num_samples - num_correct, k)
    subsets = math.comb(num_samples, k)
    return (subsets - missing) / subsets


def _score_interval(mean: float, num: int) -> Interval:
    spread = Z_95**2 / num
    centre = (mean + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(mean * (1 - mean) / num + spread / (4 * num)) / (1 + spread)
    # Near 0 and 1 an end meets the mean, and rounding may put it an ulp to the wrong side.
    return Interval(mean, low=min(mean, max(0.0, centre - half)), high=max(mean, min(1.0, centre + half)))
