"""What can be known of rows is known before the first step: which are too long, and which no tokenizer or template
takes. Rows that are too long stop the run, are left out, or are shortened."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from in_process import upslope_says

from upslope.algo.learnable import Learnable
from upslope.algo.sample import Attempts, Demonstrations
from upslope.model.chat_renderer import ChatRenderer
from upslope.training.chosen import chosen_problems
from upslope.training.collect import Collector
from upslope.training.known import KnownProblems
from upslope.training.room import Room
from upslope.types import Problem, Sampling

NAMES = ["Tom", "Sam", "Eva", "Leo"]
ROWS: list[dict[str, Any]] = [{"prompt": f"{name} has {i} apples."} for i, name in enumerate(NAMES * 2)]
LONG = {"prompt": "pens " * 300 + "Tom has 9 apples."}
REWARD = "def odd(completions, **_):\n    return [float(sum(map(ord, c)) % 2) for c in completions]\n"
RUN = [
    *("train", "--model", "model", "--data", "rows", "--plain", "--name", "mine", "problems=2", "eval.problems=2"),
    *("sample.max_tokens=5", "learn.warmup=0", "threads=1", "steps=2", "device=cpu"),
]
AGAIN = [word for word in RUN if word not in ("--data", "rows")]
ROWS_GIVEN = ("--data", "rows", "--reward", "mine.py:odd")
ACT = ("--reward", "mine.py:odd", "recipe.sample.group_size=2")
SHOW = ("--recipe", "sft")
SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tom has 1 apple."}]


@pytest.fixture
def upslope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(REWARD)
    tiny.policy(dtype=torch.float32).save(Path("model"))

    def call(*words: str) -> tuple[int, str]:
        code, out, err = upslope_says(monkeypatch, capsys, *words)
        return code, out + err

    return call


def given(train: list[dict[str, Any]], test: list[dict[str, Any]]) -> None:
    Path("rows").mkdir()
    for side, rows in (("train", train), ("test", test)):
        Path("rows", f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def journal(kind: str) -> list[dict[str, Any]]:
    rows = map(json.loads, Path("runs/mine/journal.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == kind]


def stops(ended: tuple[int, str], *told: str) -> None:
    code, said = ended
    assert code == 2 and len(said.strip().splitlines()) == 1, said
    assert all(words in said for words in told), said
    assert not Path("runs/mine/journal.jsonl").exists()


def test_too_long_a_row_stops_the_run_before_it_begins(upslope) -> None:
    given([*ROWS, LONG, {"prompt": LONG["prompt"] + " And 1."}], ROWS)
    found = upslope(*RUN, *ACT)
    stops(found, "problem user/train/9 (", "train.jsonl row 10): ", "of 10 training problems 2 are too long", '"drop"')


def test_a_held_out_row_too(upslope) -> None:
    given(ROWS, [ROWS[0], LONG])
    stops(upslope(*RUN, *ACT), "problem user/test/1 (", "test.jsonl row 2): ")


def test_a_held_out_row_that_is_not_looked_at_stops_nothing(upslope) -> None:
    """Two of these are evaluated, by their ids; the long one is none of them."""
    three = [Problem(f"h{place}", ({"role": "user", "content": "Tom"},)) for place in range(3)]
    taken = chosen_problems(SimpleNamespace(problems=lambda split: three, independent=False), 2)
    given(ROWS, [(ROWS[0] if problem in taken else LONG) | {"id": problem.id} for problem in three])
    assert upslope(*RUN, *ACT, "steps=1")[0] == 0


@pytest.mark.parametrize(("how", "num"), [("drop", 4), ("truncate", 5)])
def test_such_rows_are_left_out_or_shortened_and_counted(upslope, how: str, num: int) -> None:
    import pyarrow.parquet as pq

    given([*ROWS[:4], LONG], [LONG, *ROWS[:4]])
    code, said = upslope(*RUN, *ACT, f"task.too_long={how}", "problems=4" if how == "drop" else "problems=5")
    assert code == 0 and "task.too_long: 1 of 5 training problems" in said and "1 of 5 held-out problems" in said
    assert "are too long" not in said  # it is said already how many
    (row,) = journal("rows")
    assert {name: (of["num"], of["of"]) for name, of in row["too_long"].items()} == {
        "training problems": (1, 5),
        "held-out problems": (1, 5),
    }
    attempts = pq.read_table("runs/mine/rollouts/step-000000.parquet").to_pylist()
    assert len({row["problem"] for row in attempts}) == num
    longest = max(attempts, key=lambda row: len(row["prompt"]))
    assert len(longest["prompt"]) + 5 <= 256
    if how == "truncate":
        assert longest["prompt_text"].endswith("Tom has 9 apples.") and longest["prompt_text"].count("pens") > 100
    again = upslope("train", "--resume", "runs/mine", "steps=3")
    assert again[0] == 0 and len(journal("step")) == 3 and len(journal("rows")) == 1


@pytest.mark.parametrize("how", ["drop", "truncate"])
def test_a_pass_is_over_the_rows_that_are_left(upslope, how: str) -> None:
    """Also for a rate that falls to nothing at its end; a run that goes on has as many steps."""
    given([*ROWS[:4], LONG, {"prompt": "pens " * 900, "answer": "."}], ROWS[:2])
    passes = [*RUN[:-3], "device=cpu", *ACT, f"task.too_long={how}", "epochs=1.5", "learn.decay=linear", "learn.lr=0.5"]
    code, said = upslope(*passes)
    num = {"drop": 3, "truncate": 5}[how]  # ceil(1.5 x 2), and ceil(1.5 x 3)
    assert code == 0 and len(journal("step")) == num, said
    assert journal("step")[-1]["lr"] == pytest.approx(0.5 / num)
    assert f"\nsteps = {num}\nepochs = 0.0\n" in Path("runs/mine/run.toml").read_text()
    assert upslope("train", "--resume", "runs/mine")[0] == 0 and len(journal("step")) == num


def test_fewer_rows_than_a_step_takes_stop_the_run_before_it_begins(upslope) -> None:
    """Also where problems are drawn by what is known of them, and where a step is refilled."""
    given([*ROWS[:4], LONG], ROWS)
    for more in (
        (),
        ("recipe.sample.kind=learnable",),
        ("--recipe", "dapo", "recipe.reuse.minibatches=1"),
        ("epochs=2",),
    ):
        words = [word for word in RUN if word != "steps=2"] if more == ("epochs=2",) else RUN
        ended = upslope(*words, *ACT, "task.too_long=drop", "problems=5", *more)
        assert ended[0] == 2 and "5 training problems" in ended[1] and "4" in ended[1], ended
        assert not Path("runs/mine/journal.jsonl").exists(), more


def test_what_is_known_of_a_row_that_is_left_out_does_not_count() -> None:
    there = tiny.problems(3)
    found = KnownProblems(there, Learnable(), 0)
    found.load({there[0].id: (1.0, 2.0, 3), "gone": (4.0, 5.0, 3)})
    assert found.row(4, [])["num_known"] == 1 and found.state() == {there[0].id: [1.0, 2.0, 3]}


def test_a_prompt_is_shortened_no_more_than_it_must_be() -> None:
    renderer = ChatRenderer.of(tiny.TOKENIZER)
    room = Room(renderer, Sampling(max_tokens=8), 64)
    chat = ({"role": "system", "content": "Sam."}, {"role": "user", "content": LONG["prompt"]})
    short = room.shortened(Problem("a", chat))
    assert short is not None and short.messages[0] == chat[0]
    assert len(renderer.prompt_ids(short.messages)) + 8 == 64
    assert chat[1]["content"].endswith(short.messages[1]["content"])
    assert Room(renderer, Sampling(max_tokens=8), 10).shortened(Problem("a", chat)) is None


SHOWN = [{**row, "completion": "5 apples."} for row in ROWS]
SHOWN_LONG = [{"prompt": "Tom.", "completion": LONG["prompt"]}, {**LONG, "completion": "9"}]


def test_too_long_a_demonstration_stops_the_run_before_it_begins(upslope) -> None:
    given([*SHOWN, *SHOWN_LONG], SHOWN)
    stops(upslope(*RUN, *SHOW), "train.jsonl row ", "of 10 demonstrations 2 are too long")


def test_the_row_that_is_named_is_the_one_to_shorten(upslope) -> None:
    longer = {"prompt": "Tom.", "completion": "Tom has " + LONG["prompt"] * 2}
    given([*SHOWN, SHOWN_LONG[0], longer], SHOWN)
    stops(upslope(*RUN, *SHOW), "train.jsonl row 10)", "shorten the text 'Tom has pens")


@pytest.mark.parametrize(("how", "num"), [("drop", 8), ("truncate", 9)])
def test_demonstrations_are_left_out_or_lose_their_end(upslope, how: str, num: int) -> None:
    given([*SHOWN, *SHOWN_LONG], SHOWN)
    code, said = upslope(*RUN, *SHOW, f"task.too_long={how}", f"problems={num}", "steps=1")
    assert code == 0 and "2 of 10 demonstrations" in said
    (row,) = journal("step")
    assert row["num_rollouts"] == num


@pytest.mark.parametrize("how", [ACT, SHOW])
def test_a_row_that_the_template_refuses_is_known_before_the_run(upslope, how: tuple[str, ...]) -> None:
    """It refuses by what a row says, so no other row of the same roles tells of it."""
    template = tiny.TOKENIZER.chat_template
    policy = tiny.policy(dtype=torch.float32)
    policy.tokenizer.chat_template = (
        "{% if 'Leo' in messages[0].content %}{{ raise_exception('not him') }}{% endif %}" + template
    )
    try:
        policy.save(Path("model"))
    finally:
        policy.tokenizer.chat_template = template
    given(SHOWN, SHOWN[:2])
    stops(upslope(*RUN, *how, "steps=9"), "not him", "train.jsonl row ", "2 of the ", "mend or drop the row")


def test_text_that_the_tokenizer_cannot_read_is_known_before_the_run(upslope) -> None:
    """A vocabulary of words without one for unknown words raises whatever its library raises."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {
        word: i
        for i, word in enumerate(["<end>", *NAMES, "has", "apples", ".", *map(str, range(8)), "User", ":", "Assistant"])
    }
    words = Tokenizer(models.WordLevel(known, unk_token="<none>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>").save_pretrained("model")
    given([*ROWS, {"prompt": "Zoe has 1 apples."}], ROWS)
    stops(upslope(*RUN, *ACT, "steps=9"), "user/train/8 (", "row 9)", "the tokenizer cannot read")


def test_only_the_rows_that_the_steps_take_are_looked_at() -> None:
    class Toy:
        name, keep_special = "toy", False
        problems = staticmethod(lambda split: tiny.problems(40))
        demonstrations = staticmethod(lambda: [Problem(f"d{i}", (), demonstration="a") for i in range(30)])
        shares = documents = staticmethod(lambda: ())

    made = Collector(Toy(), None, None, Sampling(), 0, per_step=4)  # type: ignore[arg-type]
    sample = Attempts(group_size=2)
    drawn = {p.id for step in range(3) for p in made._problems(sample, step)}
    assert {p.id for p in made.upcoming(sample, range(3))} == drawn and len(drawn) == 12
    assert len(made.upcoming(sample, range(1_000_000_000))) == 40
    assert len(made.upcoming(Attempts(group_size=2, refill=2.0, keep=sample.keep), range(1))) == 40
    assert len(made.upcoming(Demonstrations(), range(2))) == 8


def test_a_column_that_a_reward_asks_for_and_no_row_has_is_known_before_the_run(upslope) -> None:
    given(ROWS, ROWS)
    Path("mine.py").write_text("def odd(completions, answr):\n    return [0.0 for _ in completions]\n")
    stops(upslope(*RUN, *ACT, "eval.problems=0"), "reward function 'odd' needs 'answr'", "no such column in any row")


LATE = """
import os

import torch
import upslope as up
from upslope.tasks.base import Task
from upslope.types import Problem, Score

CALLS = []


def late(of):
    CALLS.append(of)
    if of == "{of}" and CALLS.count(of) > int(os.environ["MOST"]):
        raise {error}


@up.kind("advantage", compares="group")
def breaks(batch):
    late("advantage")
    return torch.where(batch.mask_NT, batch.reward_N[:, None], 0)


MINE = up.REINFORCE.patch(advantage=breaks)


def keep(group):
    late("keep")
    return group


class Mine(Task):
    name = "mine"

    def problems(self, split):
        return [Problem(f"{split}/{i}", ({"role": "user", "content": f"Tom has {i} apples."},)) for i in range(9)]

    def score(self, problems, responses):
        late(problems[0].id.partition("/")[0])
        return [Score(float(len(r) % 2)) for r in responses]

    def episode(self, problem):
        late("episode")
        return None
"""
KINDS = {
    "a reward": ("train", 1, "ValueError('no more')", ["--task", "late.py:Mine"]),
    "an evaluation": ("test", 1, "ValueError('no more')", ["--task", "late.py:Mine", "eval.every=1", "problems=3"]),
    "an episode": ("episode", 8, "ValueError('no more')", ["--task", "late.py:Mine"]),
    "a slot": ("advantage", 1, "ValueError('no more')", [*ROWS_GIVEN, "--recipe", "late.py:MINE"]),
    "a slot that leaves": ("advantage", 1, "SystemExit(0)", [*ROWS_GIVEN, "--recipe", "late.py:MINE"]),
    "what is kept": ("keep", 5, "OSError('no more')", [*ROWS_GIVEN, "recipe.sample.keep=late.py:keep"]),
}


FAST = ("an evaluation", "a slot that leaves", "what is kept")
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind not in FAST]


@pytest.mark.parametrize("kind", [*FAST, *SLOW])
def test_whatever_code_of_the_users_raises_late_leaves_a_run_to_go_on_with(
    upslope, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    of, most, error, how = KINDS[kind]
    mine = LATE.replace("{of}", of).replace("{error}", error)
    given(ROWS, ROWS)
    Path("late.py").write_text(mine)
    monkeypatch.setenv("MOST", str(most))
    code, said = upslope(*AGAIN, *how, "recipe.sample.group_size=2", "steps=3")
    last = said.strip().splitlines()[-1]
    assert code == 2 and "Traceback" not in said and "late.py:" in last, said
    assert last.endswith("; continue with: upslope train --resume runs/mine"), last
    done = len(journal("step"))
    assert 0 < done < 3 and Path(f"runs/mine/checkpoints/step-{done:06d}").is_dir()
    monkeypatch.setenv("MOST", "1000000")
    code, said = upslope("train", "--resume", "runs/mine")
    assert code == 0 and len(journal("step")) == 3, said
