"""examples/tools: what is held out is new, the game needs its second turn, and its files work unchanged in TRL."""

from __future__ import annotations

import importlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "tools"
NAMES = ("calculator", "guessing", "make_tools", "room")


@pytest.fixture
def example() -> Iterator[Any]:
    """A module of the folder by its name, as ``python examples/tools/make_tools.py`` finds it."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))
    for name in NAMES:
        sys.modules.pop(name, None)


def test_held_out_numbers_are_in_no_sum_that_is_learnt_from(example: Any) -> None:
    made, rng = example("make_tools"), random.Random(0)
    sides = [[made.problem(rng, i, held_out=held) for i in range(400)] for held in (False, True)]
    learnt, held_out = ({(row["a"], row["b"]) for row in rows} for rows in sides)
    assert learnt and held_out and not learnt & held_out
    assert {row["asked"] for row in sides[1]} - {row["asked"] for row in sides[0]} == {r["asked"] for r in sides[1]}
    (operators,) = ({made.demonstration(rng, sides[0][0])[1]["content"] for _ in range(50)},)
    assert len(operators) == 4, "demonstrations do not say which operator is meant"


def test_held_out_ranges_are_new_and_what_they_are_made_of_is_not(example: Any) -> None:
    game = example("guessing")
    task = game.Guessing()
    learnt, held_out = ({p.messages[0]["content"] for p in task.problems(side)} for side in ("train", "test"))
    assert not learnt & held_out and {p.messages[0]["content"] for p in task.demonstrations()} == learnt
    new, old = game.HELD_OUT, [r for r in game.RANGES if r not in game.HELD_OUT]
    assert {low // 10 for low, _ in new} <= {low // 10 for low, _ in old}
    assert {low % 10 for low, _ in new} <= {low % 10 for low, _ in old}
    rooms = [[row["low"] for row in example("make_tools").rooms(held_out=held)] for held in (False, True)]
    assert not {*rooms[0]} & {*rooms[1]}


def test_the_game_is_won_always_with_two_turns_and_every_third_time_with_one(example: Any) -> None:
    game = example("guessing")
    for low, high in game.RANGES:
        two, one = [], []
        for secret in range(low, high + 1):
            world = game.Game(secret)
            heard = world.reply(str(low + 1))
            one.append(world.score(()).reward)
            if heard is not None:
                world.reply(str(low + 2 if heard == "Higher." else low))
            two.append(world.score(()).reward)
        assert (sum(two), sum(one)) == (3, 1)
    won = [room_of(example, secret, guesses) for secret, guesses in product((12, 13, 14), ((13, 14), (14, 12)))]
    assert won == [0, 1, 1, 0, 1, 1]


def room_of(example: Any, secret: int, guesses: tuple[int, int]) -> float:
    """What the room pays for two guesses; a third one is refused."""
    room = example("room").Room()
    assert room.reset(low=12, high=14, secret=secret, id="x").endswith("from 12 to 14.")
    for guess in guesses:
        room.guess(guess)
    with pytest.raises(ValueError, match="no guess is left"):
        room.guess(secret)
    return float(room.get_reward())


@pytest.mark.exhaustive
def test_the_same_files_are_called_alike_in_trls_trainer_and_in_upslope(tmp_path: Path) -> None:
    pytest.importorskip("trl", minversion="1.16")
    tools = shutil.copytree(
        FOLDER, tmp_path / "tools", ignore=shutil.ignore_patterns("words", "calculator", "guessing")
    )
    subprocess.run([sys.executable, tools / "make_tools.py"], check=True, capture_output=True, cwd=tmp_path)
    assert json.loads((tools / "guessing" / "train.jsonl").read_text().splitlines()[0])["low"] == 10
    command = [sys.executable, str(ROOT / "benchmarks" / "tools_vs_trl.py"), "--tools", str(tools)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    for said in ("calculator: 2 steps of TRL, 32 attempts, 32 calls", "room: 2 steps of TRL, 32 attempts, 86 calls"):
        assert said in done.stdout
