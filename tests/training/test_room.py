"""Texts that a model is too short for are found before a run begins, without tokenising those that cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import tiny

from upslope.errors import UserError
from upslope.model.byte_pairs import learn_tokenizer
from upslope.model.chat_renderer import ChatRenderer
from upslope.tasks.complete import complete
from upslope.tasks.user import problem_of
from upslope.training.fitting import Reader, fit_training
from upslope.training.room import Room
from upslope.training.settings import RunSettings, SampleSettings
from upslope.types import Problem, Sampling

PROBLEMS = tiny.problems(200)
LONG = replace(PROBLEMS[0], id="long", messages=({"role": "user", "content": "pens " * 300},))
LONGER = replace(LONG, id="longer", messages=({"role": "user", "content": "pens " * 400},))


class Counting(ChatRenderer):
    """Counts the prompts that it tokenises."""

    asked = 0

    def prompt_ids(self, messages):
        Counting.asked += 1
        return super().prompt_ids(messages)


@pytest.fixture
def renderer() -> Counting:
    Counting.asked = 0
    return Counting(tiny.TOKENIZER, (tiny.TOKENIZER.eos_token_id,))


def fit(problems: Sequence[Problem], renderer: Counting, max_tokens: int, positions: int) -> None:
    task = complete(type("Given", (), {"problems": lambda self, split: problems, "score": lambda *_: []})())
    settings = RunSettings(sample=SampleSettings(max_tokens=max_tokens))
    assert list(fit_training(task, settings, Reader(renderer, positions)).task.problems("train")) == list(problems)


def test_short_prompts_are_not_tokenised(renderer: Counting) -> None:
    fit(PROBLEMS, renderer, 8, 256)
    assert Counting.asked == 1  # what the chat template adds


def test_a_tight_model_has_each_of_them_tokenised(renderer: Counting) -> None:
    longest = max(len(renderer.prompt_ids(p.messages)) for p in PROBLEMS)
    Counting.asked = 0
    fit(PROBLEMS, renderer, 8, longest + 8)
    assert Counting.asked == 1 + len(PROBLEMS)
    with pytest.raises(UserError, match=f"{longest} prompt tokens and max_tokens=8 do not fit the model's"):
        fit(PROBLEMS, renderer, 8, longest + 7)


def test_the_longest_is_named_at_once(renderer: Counting) -> None:
    with pytest.raises(UserError, match=r"problem longer: 40\d prompt tokens .*; of 202 training problems 2 are too"):
        fit([LONG, *PROBLEMS, LONGER], renderer, 8, 256)
    assert Counting.asked == 1 + 2  # those that may be too long, to say how many are


def test_no_problems_fit_anywhere(renderer: Counting) -> None:
    assert not Room(renderer, Sampling(max_tokens=1), 1).too_long_to_attempt(())
    with pytest.raises(UserError, match="problem a: "):
        fit([Problem("a", PROBLEMS[0].messages)], renderer, 1, 2)


def test_a_conversation_of_many_short_turns_is_found_before_the_run() -> None:
    tokenizer = learn_tokenizer(["hello there this is some text " * 5] * 3, 280)
    turns = [
        turn for _ in range(20) for turn in ({"role": "assistant", "content": "a"}, {"role": "user", "content": "b"})
    ]
    row = {"prompt": "hi", "completion": [*turns, {"role": "assistant", "content": "c"}]}
    problem = replace(problem_of(row, "row 1"), id="talk")
    (found,) = Room(ChatRenderer.of(tokenizer), Sampling(max_tokens=1), 256).too_long_to_imitate([problem])
    assert found.problem.id == "talk" and found.total > 256
