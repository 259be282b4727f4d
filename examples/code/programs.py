"""Make train.jsonl and test.jsonl: word problems of the pocket world whose answer is a small program.

    python examples/code/programs.py

A program gives every step of a solution a name, and the last one is called ``left``; that is what the one test of a row
looks at. The demonstrations are careless on purpose, as those of task pocket are: only some 43 % do what was asked.
Numbers that are held out in the pocket world are held out here, so the model has read no text about them.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from upslope.tasks.pocket_templates import NAMES, TEMPLATES, THINGS, Numbers, Template

NUM_TRAIN, NUM_TEST = 1200, 240
SHARE_RIGHT = 0.43
RESULTS = ("rest", "more", "left")
"""What the steps are called; words that the pocket model's tokenizer has."""


def row(template: Template, numbers: Numbers, random: Random) -> dict[str, object]:
    """One data row: the question, its test, a demonstration that is often wrong."""
    a, b, c = random.sample(NAMES, 3)
    values = template.values(numbers)
    text = f"{template.facts} {template.asked}"
    steps = [line.split() for line in template.plan]
    if random.random() >= SHARE_RIGHT:
        steps = careless(steps, random)
    return {
        "prompt": text.format(A=a, B=b, C=c, things=random.choice(THINGS), **values),
        "tests": [f"assert left == {values[f'r{len(template.plan)}']}"],
        "demonstration": program(steps, values),
    }


def careless(steps: list[list[str]], random: Random) -> list[list[str]]:
    """The last step left out, or one of them with another operation."""
    if random.random() < 0.6:
        return steps[:-1]
    wrong = random.randrange(len(steps))
    other = random.choice([operation for operation in "+-*" if operation != steps[wrong][1]])
    return [[x, other, y] if place == wrong else [x, operation, y] for place, (x, operation, y) in enumerate(steps)]


def program(steps: list[list[str]], values: dict[str, int]) -> str:
    """The steps as Python: ``[["k", "*", "x"], ["r1", "+", "y"]]`` is ``rest = 3 * 5`` and ``left = rest + 2``."""
    names = {f"r{i}": name for i, name in enumerate(RESULTS[: len(steps) - 1], 1)}
    lines = []
    for place, (x, operation, y) in enumerate(steps):
        result = RESULTS[place] if place < len(steps) - 1 else RESULTS[-1]
        operands = (names.get(operand, str(values[operand])) for operand in (x, y))
        lines.append(f"{result} = {f' {operation} '.join(operands)}")
    return "\n".join(lines)


def main() -> None:
    random = Random(0)
    for name, num_rows, held_out in (("train", NUM_TRAIN, False), ("test", NUM_TEST, True)):
        rows: dict[object, dict[str, object]] = {}
        while len(rows) < num_rows:
            template = TEMPLATES[len(rows) % len(TEMPLATES)]
            new = row(template, random.choice(template.split(held_out=held_out)), random)
            rows.setdefault(new["prompt"], new)
        text = "".join(json.dumps(r) + "\n" for r in rows.values())
        (Path(__file__).parent / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
