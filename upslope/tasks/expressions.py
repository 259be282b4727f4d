"""Whether two mathematical expressions are the same, by math-verify, in a process that can be killed.

Expressions of a model may keep sympy busy for ever or fill the memory (``9^{9^{9^9}}``), and math-verify's own limit is
an alarm that works in a main thread only. Only its grammar for LaTeX is used, never the one for plain expressions: that
hands text to sympy's parser, which evaluates it as Python.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

from upslope.errors import UserError
from upslope.tasks.boxed import same_answer
from upslope.tasks.boxed_shape import coordinates, readable
from upslope.tasks.workers import Workers
from upslope.types import Problem, Score

MEMORY = 2 << 30
"""Bytes of address space of the process."""
DIGITS = 14
"""Two irrational numbers are the same if they agree in twice so many digits. Decimals are handed over as fractions
(``readable``), so that none is ever one."""


class Judge:
    """What the process does. ``problems`` have the right expression as their truth, ``responses`` are expressions."""

    def __init__(self) -> None:
        import resource

        import math_verify

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        logging.disable()  # that its own limits are switched off
        self._library: Any = math_verify
        self._latex = [math_verify.LatexExtractionConfig(boxed_match_priority=0)]

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        return [Score(float(self._safely(p.truth, r))) for p, r in zip(problems, responses, strict=True)]

    def _safely(self, truth: str, answer: str) -> bool:
        try:
            return self._same(truth, answer)
        except (Exception, MemoryError, RecursionError):  # whatever sympy makes of a model's words: not the same
            return False

    def _same(self, truth: str, answer: str) -> bool:
        """Tuples and intervals place by place, so that a number in them is compared as one; all else as it is."""
        wanted, given = coordinates(truth), coordinates(answer)
        if wanted is None or given is None:
            return self._equal(readable(truth, truth), readable(truth, answer))
        return len(wanted) == len(given) and all(map(self._right, wanted, given))

    def _right(self, truth: str, answer: str) -> bool:
        verdict = same_answer(truth, answer)
        return self._same(truth, answer) if verdict is None else verdict

    def _equal(self, truth: str, answer: str) -> bool:
        return bool(
            self._library.verify(
                self._parsed(truth),
                self._parsed(answer),
                float_rounding=DIGITS,
                numeric_precision=2 * DIGITS,
                timeout_seconds=None,
            )
        )

    def _parsed(self, expression: str) -> Any:
        return self._library.parse(
            rf"\boxed{{{expression}}}",
            extraction_config=self._latex,
            extraction_mode="first_match",
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )


class Expressions:
    """Asks such processes. An answer that cannot be compared within ``seconds`` is not the same."""

    def __init__(self, seconds: float, num: int) -> None:
        self._workers = Workers("upslope.tasks.expressions:Judge", {}, num, seconds)

    def same(self, truths: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Whether each answer is the truth at the same place."""
        if not truths:
            return []
        asked = [Problem(truth, (), truth) for truth in truths]
        found = self._workers.score(asked, answers, lambda lost: Score(0.0))
        return [score.reward == 1.0 for score in found]


def require_math_verify() -> None:
    """Raise UserError unless math-verify is installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise UserError("task math compares expressions with the package math-verify: pip install 'upslope[math]'")
