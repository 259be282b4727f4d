"""Write a world to start from nothing in: text, demonstrations and problems made from four tasks of reasoning-gym.

    pip install upslope[gym]
    python examples/gym/world.py FOLDER [--seed 1]

FOLDER then holds ``text/TASK.jsonl`` to pretrain on, ``train.jsonl`` (of each task some rows with a demonstration to
imitate) and ``test.jsonl``. Questions and answers are reasoning-gym's own; `worked.py` works them out. A problem's
content decides by hash whether it is held out, so that no text, demonstration or training problem shows a held-out one
in other words. Everything is a function of the seed, and of the version of reasoning-gym.

The demonstrations are careless on purpose: only ``SHARE_RIGHT`` of them reach the right answer, the others stop early.
Whoever imitates them is wrong as often, which leaves the reward something to teach.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import reasoning_gym
from worked import WORKED

TASKS: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
    "simple_equations": {"min_terms": 2, "max_terms": 2, "max_value": 10},
    "count_bits": {"max_n": 511},
    "spell_backward": {"min_word_len": 3, "max_word_len": 5},
}
"""Their settings: small numbers and short texts, which a few million weights can learn in minutes."""
NUM_TRAIN, NUM_TEST, NUM_DEMONSTRATIONS = 1000, 100, 300
"""Rows of a task, or as many as there are: only 511 numbers have nine bits."""
NUM_DRAWS = 20_000
"""How many entries of a task are looked at; with few distinct ones most of them come again."""
NUM_DOCUMENTS, NUM_PASSAGES = 6000, 3
"""Documents of a task, and what one of them consists of."""
SHARE_ASKED = 0.6
SHARE_RIGHT = 0.45
SHARE_HELD_OUT = 0.1


def entries(task: str, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a task holds, in order, each with what decides its side. reasoning-gym draws number i of a data set from
    ``seed + i``: neighbouring seeds share nearly all, so a seed here is a range of its own."""
    dataset = reasoning_gym.create_dataset(task, seed=seed * NUM_DRAWS, size=NUM_DRAWS, **TASKS[task])
    for entry in dataset:
        yield f"{task} {WORKED[task].content(entry['metadata'])}", entry


def held_out(content: str) -> bool:
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big") < SHARE_HELD_OUT * 2**32


def demonstration(task: str, entry: dict[str, Any], draw: random.Random) -> str:
    """Worked steps and the answer; in some of them the annotator stops where the answer is not right yet."""
    steps = WORKED[task].steps(entry["metadata"])
    early = [number for number, (_, answer) in enumerate(steps) if answer != entry["answer"]]
    if early and draw.random() >= SHARE_RIGHT:
        steps = steps[: early[-1] + 1]
    return "\n".join([*(line for line, _ in steps), f"#### {steps[-1][1]}"])


def document(task: str, pool: list[dict[str, Any]], draw: random.Random) -> str:
    """Some problems, one after another: ``SHARE_ASKED`` of them asked first and told at the end, the others worked out
    and no more. So the text has all that a solution needs, but not how an answer is marked.
    """
    return "\n".join(
        passage(task, entry, asked=draw.random() < SHARE_ASKED) for entry in draw.choices(pool, k=NUM_PASSAGES)
    )


def passage(task: str, entry: dict[str, Any], *, asked: bool) -> str:
    lines = [line for line, _ in WORKED[task].steps(entry["metadata"])]
    if asked:
        lines = [entry["question"].strip(), *lines, WORKED[task].told.format(answer=entry["answer"])]
    return "\n".join(lines)


def row(task: str, split: str, number: int, entry: dict[str, Any]) -> dict[str, Any]:
    """A problem as a row; ``metadata`` is for reasoning-gym's scorer."""
    return {
        "id": f"{task}/{split}/{number}",
        "task": task,
        "prompt": entry["question"].strip(),
        "answer": entry["answer"],
        "metadata": entry["metadata"],
    }


def make(folder: Path, seed: int) -> None:
    """Write the world. Rows go through the tasks in turn, so that the first few hundred are balanced."""
    rows: dict[str, list[list[dict[str, Any]]]] = {"train": [], "test": []}
    (folder / "text").mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        sides: dict[bool, dict[str, dict[str, Any]]] = {False: {}, True: {}}
        for content, entry in entries(task, seed):
            sides[held_out(content)].setdefault(content, entry)
        draw = random.Random(f"{seed}/{task}")
        train, test = (list(side.values()) for side in sides.values())
        rows["train"].append([row(task, "train", i, entry) for i, entry in enumerate(train[:NUM_TRAIN])])
        rows["test"].append([row(task, "test", i, entry) for i, entry in enumerate(test[:NUM_TEST])])
        for made, entry in zip(rows["train"][-1][:NUM_DEMONSTRATIONS], train, strict=False):
            made["demonstration"] = demonstration(task, entry, draw)
        texts = ({"text": document(task, train, draw)} for _ in range(NUM_DOCUMENTS))
        write(folder / "text" / f"{task}.jsonl", texts)
    for split, parts in rows.items():
        in_turn = itertools.chain.from_iterable(itertools.zip_longest(*parts))
        write(folder / f"{split}.jsonl", (made for made in in_turn if made))


def write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    make(given.folder, given.seed)
