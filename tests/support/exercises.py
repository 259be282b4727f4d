"""A row of HumanEval's shape, of which the prompt brings a helper."""

from __future__ import annotations

from typing import Any

HUMAN: dict[str, Any] = {
    "task_id": "HumanEval/x",
    "prompt": 'import math\n\ndef half(x):\n    return x / 2\n\ndef quarter(x):\n    """A quarter.\n    """\n',
    "entry_point": "quarter",
    "canonical_solution": "    return half(half(x))\n",
    "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(4) == half(half(4))\n"
    "    assert candidate(1) == .25\n",
}
