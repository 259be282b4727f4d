"""What a claim is, and how two numbers are compared.

A claim is a generator of checks and facts. A check compares a left side, which went through the functions that train,
with a right side worked out on paper or by summing over everything that can happen; a fact is a number worth knowing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

TOLERANCE = 1e-9
"""Of an equality in float64: relative to the larger side."""

Relation = Literal["=", "<=", ">="]


@dataclass(frozen=True)
class Check:
    """One comparison. ``left`` and ``right`` are numbers, or the largest magnitudes of the vectors compared.

    >>> equal("two and two", 2.0 + 2.0, 4.0).holds
    True
    """

    label: str
    relation: Relation
    left: float
    right: float
    error: float
    """How far from holding: the largest difference relative to the larger side (=), or the excess (<=, >=)."""
    tolerance: float = TOLERANCE
    why: str = ""
    """Why the tolerance is not 1e-9, where it is not."""

    @property
    def holds(self) -> bool:
        return self.error <= self.tolerance  # False for NaN


@dataclass(frozen=True)
class Fact:
    """A number that a claim measured on its way: by how much, at which angle, with what variance."""

    label: str
    value: float


Proof = Callable[[], Iterator[Check | Fact]]


@dataclass(frozen=True)
class Claim:
    """A sentence of the theory and the function that looks whether the code obeys it."""

    number: int
    name: str
    statement: str
    source: str
    compares: str
    prove: Proof


@dataclass(frozen=True)
class Verdict:
    """What came of one claim. It holds if every check does, and if there was any."""

    claim: Claim
    checks: tuple[Check, ...]
    facts: tuple[Fact, ...]
    seconds: float
    failure: str = ""
    """The exception that ended the claim early, if one did."""

    @property
    def holds(self) -> bool:
        return bool(self.checks) and not self.failure and all(check.holds for check in self.checks)

    @property
    def error(self) -> float:
        """The worst error of an equality held to 1e-9; where there is none, of any check. NaN comes first."""
        strict = [c.error for c in self.checks if c.relation == "=" and not c.why]
        errors = strict or [c.error for c in self.checks]
        return math.nan if any(map(math.isnan, errors)) else max(errors, default=math.nan)


def claim(number: int, name: str, statement: str, *, source: str, compares: str) -> Callable[[Proof], Claim]:
    """Turn a generator of checks into a claim."""

    def made(prove: Proof) -> Claim:
        return Claim(number, name, statement, source, compares, prove)

    return made


@contextmanager
def one_thread() -> Iterator[None]:
    """These tensors are so small that a second thread would only be waited for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def judged(of: Claim) -> Verdict:
    """Run a claim. An exception is a verdict too (it does not hold), so that the other claims still get theirs."""
    checks: list[Check] = []
    facts: list[Fact] = []
    failure = ""
    start = time.perf_counter()
    try:
        for found in of.prove():
            if isinstance(found, Check):
                checks.append(found)
            else:
                facts.append(found)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    return Verdict(of, tuple(checks), tuple(facts), time.perf_counter() - start, failure)


# -- comparisons ----------------------------------------------------------------------------------------------------


def _vector(value: Tensor | float) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).detach().flatten()


def _largest(value: Tensor) -> float:
    return float(value.abs().max())


def equal(
    label: str, left: Tensor | float, right: Tensor | float, *, tolerance: float = TOLERANCE, why: str = ""
) -> Check:
    """left = right, entry by entry: max |left - right| / max(max |left|, max |right|). Two zeros are no evidence and
    fail; where zero is the claim, say ``vanishes``."""
    a, b = _vector(left), _vector(right)
    if a.shape != b.shape:
        raise ValueError(f"{label}: compares {a.shape[0]} numbers with {b.shape[0]}")
    scale = max(_largest(a), _largest(b))
    error = _largest(a - b) / scale if scale else math.nan
    return Check(label, "=", _largest(a), _largest(b), error, tolerance, why)


def vanishes(label: str, left: Tensor | float, *, tolerance: float = TOLERANCE, why: str = "") -> Check:
    """left = 0, entry by entry and absolutely."""
    largest = _largest(_vector(left))
    return Check(label, "=", largest, 0.0, largest, tolerance, why)


def at_most(label: str, left: Tensor | float, right: Tensor | float, *, tolerance: float = TOLERANCE) -> Check:
    """left <= right, entry by entry; the error is the largest excess."""
    a, b = _vector(left), _vector(right)
    excess = a - b
    worst = int(excess.argmax())
    return Check(
        label, "<=", float(a[worst]), float(b.expand_as(a)[worst]), float(excess[worst].clamp(min=0)), tolerance
    )


def at_least(label: str, left: float, bound: float) -> Check:
    """left >= bound: a gap that is really there."""
    error = bound - left
    return Check(label, ">=", left, bound, max(error, 0.0) if error == error else math.nan, 0.0)


def angle(a: Tensor, b: Tensor) -> float:
    """Degrees between two vectors, by |a/|a| - b/|b|| and |a/|a| + b/|b||: exact near 0, where a cosine is not."""
    a, b = a / a.norm(), b / b.norm()
    return math.degrees(2 * math.atan2(float((a - b).norm()), float((a + b).norm())))


def gap(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|: how far a is off b."""
    return float((a - b).norm() / b.norm())
