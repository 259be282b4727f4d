"""Makes what the examples of this folder need: the tokenizer of their small models, the calculator's problems, and the
rows of the guessing room.

    python examples/tools/make_tools.py

The problems are sums in words. Their demonstrations call the calculator, with an operator at random: they show how a
tool is called and how its result is said, and nothing of which operator is meant. No pair of numbers is in both halves.
``alone.jsonl`` has the right answers to imitate without a tool, which shows what the tool is worth.
"""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from calculator import calculate
from guessing import HELD_OUT, RANGES

HERE = Path(__file__).parent
WORDS = {
    "+": ["{a} and {b} more", "{a} plus {b}", "{a} pens and {b} pens together"],
    "-": ["{a} without {b}", "{a} minus {b}", "{a} pens, {b} of them lost"],
    "*": ["{a} times {b}", "{a} boxes with {b} pens each", "{a} rows of {b}"],
    "/": ["{a} shared by {b}", "{a} divided by {b}", "{a} pens in {b} equal boxes"],
}
TRAIN, TEST = 3000, 300
NUMBERS = range(2, 31)


def is_held_out(a: int, b: int) -> bool:
    """Every fifth pair of numbers, whatever is to be done with them."""
    return (a + 3 * b) % 5 == 0


def problem(rng: random.Random, number: int, *, held_out: bool) -> dict[str, Any]:
    while True:
        sign = rng.choice(list(WORDS))
        a, b = rng.choice(NUMBERS), rng.choice(NUMBERS)
        a = a * b if sign == "/" else a + b if sign == "-" else a
        if is_held_out(a, b) == held_out:
            break
    asked = rng.choice(WORDS[sign]).format(a=a, b=b)
    return {"id": str(number), "asked": asked, "a": a, "b": b, "answer": calculate(f"{a}{sign}{b}")}


def demonstration(rng: random.Random, row: dict[str, Any]) -> list[dict[str, Any]]:
    expression = f"{row['a']}{rng.choice(list(WORDS))}{row['b']}"
    call = json.dumps({"name": "calculate", "arguments": {"expression": expression}})
    result = calculate(expression)
    return [
        {"role": "user", "content": row["asked"]},
        {"role": "assistant", "content": f"<tool_call>{call}</tool_call>"},
        {"role": "tool", "name": "calculate", "content": result},
        {"role": "assistant", "content": result},
    ]


def rooms(*, held_out: bool) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{low}/{secret}",
            "prompt": [{"role": "user", "content": "Guess my number."}],
            "low": low,
            "high": high,
            "secret": secret,
        }
        for low, high in RANGES
        if ((low, high) in HELD_OUT) == held_out
        for secret in range(low, high + 1)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    rng = random.Random(0)
    rows = [problem(rng, number, held_out=number >= TRAIN) for number in range(TRAIN + TEST)]
    shown = [{"id": r["id"], "messages": demonstration(rng, r)} for r in rows[:TRAIN]]
    asked = [{"id": r["id"], "prompt": [{"role": "user", "content": r["asked"]}], "answer": r["answer"]} for r in rows]
    write(HERE / "calculator" / "shown.jsonl", shown)
    write(HERE / "calculator" / "train.jsonl", asked[:TRAIN])
    write(HERE / "calculator" / "test.jsonl", asked[TRAIN:])
    alone = [{**a, "messages": [*a["prompt"], {"role": "assistant", "content": a["answer"]}]} for a in asked[:TRAIN]]
    write(HERE / "calculator" / "alone.jsonl", [{k: v for k, v in row.items() if k != "prompt"} for row in alone])
    for side in ("train", "test"):
        write(HERE / "guessing" / f"{side}.jsonl", rooms(held_out=side == "test"))
    text = "\n".join(m["content"] for row in shown for m in row["messages"])
    text += "\nI think of a number from 12 to 14. Guess it.\nHigher.\nLower.\nThat is no number." * 50
    text += "\nsystem\nTools: calculate\nuser\nassistant\ntool\n" * 50
    source = HERE / "calculator" / "words.txt"
    source.write_text(text)
    shutil.rmtree(HERE / "words", ignore_errors=True)
    command = ["tokenizer", str(source), "--vocab", "400", "-o", str(HERE / "words")]
    subprocess.run([sys.executable, "-m", "upslope.cli", *command], check=True)
    (HERE / "words" / "chat_template.jinja").write_text((HERE / "template.jinja").read_text())


if __name__ == "__main__":
    main()
