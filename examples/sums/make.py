"""Make train.jsonl and test.jsonl: sums of three terms, worked out term by term.

    python examples/sums/make.py

No sum of the test file (as a set of terms) occurs in the training file.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

NUM_TRAIN, NUM_TEST = 1000, 200
LARGEST = 20


def row(terms: tuple[int, ...]) -> dict[str, str]:
    """One data row: the question, a worked answer for SFT, and the truth for the reward."""
    lines, total = [], terms[0]
    for term in terms[1:]:
        lines.append(f"{total} + {term} = {total + term}")
        total += term
    return {
        "prompt": f"What is {' + '.join(map(str, terms))}? Work it out step by step and end with '#### <number>'.",
        "demonstration": "\n".join([*lines, f"#### {total}"]),
        "answer": str(total),
    }


def main() -> None:
    rng = random.Random(0)
    seen: dict[tuple[int, ...], tuple[int, ...]] = {}
    while len(seen) < NUM_TRAIN + NUM_TEST:
        terms = tuple(rng.randint(2, LARGEST) for _ in range(3))
        seen.setdefault(tuple(sorted(terms)), terms)
    rows = [row(terms) for terms in seen.values()]
    folder = Path(__file__).parent
    for name, part in (("test", rows[:NUM_TEST]), ("train", rows[NUM_TEST:])):
        text = "".join(json.dumps(r) + "\n" for r in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
