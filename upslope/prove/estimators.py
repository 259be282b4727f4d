"""Claim 32: pass@k from n attempts."""

from __future__ import annotations

from collections.abc import Iterator

from upslope.prove.claim import Check, Fact, at_least, claim, equal
from upslope.prove.zscore import chance
from upslope.training.statistics import pass_at_k


@claim(
    32,
    "pass-at-k",
    "The estimate of pass@k from n attempts is right on average for every success rate; the plug-in one is too low",
    source="arXiv 2107.03374, equation 1 and appendix A",
    compares="the expectation over every number of right attempts with 1 - (1 - p)^k",
)
def pass_at_k_is_unbiased() -> Iterator[Check | Fact]:
    """E_{c ~ Binomial(n, p)}[1 - C(n - c, k) / C(n, k)] = 1 - (1 - p)^k. Putting c/n for p in the right side is biased
    for k > 1: the right side is concave in p, so by Jensen it comes out too low."""
    for num in (1, 4, 16):
        for k in (k for k in (1, 2, 4, 16) if k <= num):
            for p in (0.02, 0.3, 0.9):
                truth = 1 - (1 - p) ** k
                found = sum(chance(c, p, num) * pass_at_k(num, c, k) for c in range(num + 1))
                yield equal(f"n = {num}, k = {k}, p = {p}", found, truth)
                plugged = sum(chance(c, p, num) * (1 - (1 - c / num) ** k) for c in range(num + 1))
                if k > 1:
                    yield at_least(f"n = {num}, k = {k}, p = {p}: the plug-in is too low by", truth - plugged, 1e-12)
                if k > 1 and p == 0.3:
                    yield Fact(f"n = {num}, k = {k}, p = {p}: the plug-in is off by", plugged - truth)
