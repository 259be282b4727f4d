"""Makes what the examples of this folder need: the tokenizer of their small models, and the calculator's problems.

    python examples/tools/make_tools.py

The problems are sums in words. Their demonstrations call the calculator, with an operator at random: they show how a
tool is called and how its result is said, and nothing of which operator is meant.
"""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from calculator import calculate

HERE = Path(__file__).parent
WORDS = {
    "+": ["{a} and {b} more", "{a} plus {b}", "{a} pens and {b} pens together"],
    "-": ["{a} without {b}", "{a} minus {b}", "{a} pens, {b} of them lost"],
    "*": ["{a} times {b}", "{a} boxes with {b} pens each", "{a} rows of {b}"],
    "/": ["{a} shared by {b}", "{a} divided by {b}", "{a} pens in {b} equal boxes"],
}
TRAIN, TEST = 1500, 200


def problem(rng: random.Random, number: int) -> dict[str, Any]:
    sign = rng.choice(list(WORDS))
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    a = a * b if sign == "/" else a + b if sign == "-" else a
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


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    rng = random.Random(0)
    rows = [problem(rng, number) for number in range(TRAIN + TEST)]
    shown = [{"id": r["id"], "messages": demonstration(rng, r)} for r in rows[:TRAIN]]
    asked = [{"id": r["id"], "prompt": [{"role": "user", "content": r["asked"]}], "answer": r["answer"]} for r in rows]
    write(HERE / "calculator" / "shown.jsonl", shown)
    write(HERE / "calculator" / "train.jsonl", asked[:TRAIN])
    write(HERE / "calculator" / "test.jsonl", asked[TRAIN:])
    text = "\n".join(m["content"] for row in shown for m in row["messages"])
    text += "\nI think of a number from 1 to 9. Guess it.\nHigher.\nLower.\nThat is no number." * 50
    text += "\nsystem\nTools: calculate\nuser\nassistant\ntool\n" * 50
    source = HERE / "calculator" / "words.txt"
    source.write_text(text)
    command = ["tokenizer", str(source), "--vocab", "400", "-o", str(HERE / "words")]
    subprocess.run([sys.executable, "-m", "upslope.cli", *command], check=True)
    (HERE / "words" / "chat_template.jinja").write_text((HERE / "template.jinja").read_text())


if __name__ == "__main__":
    main()
