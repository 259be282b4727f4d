"""Texts that a model is too short for are found before a run begins, without tokenising those that cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import tiny

from upslope.errors import UserError
from upslope.model.admission import PlainWay
from upslope.model.byte_pairs import learn_tokenizer
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.renderer import is_raw
from upslope.tasks.complete import complete
from upslope.tasks.user import problem_of
from upslope.training.fitting import Reader, fit_held_out, fit_training
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


def test_a_model_that_is_right_in_short_rows_alone_says_so_where_rows_are_too_long(renderer: Counting) -> None:
    way = PlainWay(side_by_side=True, keeps="all rows", longest=20, beyond="it looks ahead")
    task = complete(type("One", (), {"problems": lambda self, split: [LONG], "score": lambda *_: []})())
    with pytest.raises(UserError, match=r"the model's 20 positions; .* at most 20 tokens.* in them it looks ahead"):
        fit_held_out(task, RunSettings(), Reader(renderer, 20, way))


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}<|h|>{{ m['role'] }}<|/h|>\n\n{{ m['content'] }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|h|>assistant<|/h|>\n\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
)
SYSTEM = {"role": "system", "content": "Answer in one word, as a sailor would."}


def with_special(*tokens: str) -> Any:
    tokenizer = learn_tokenizer(["hello there this is some text " * 5] * 3, 280)
    tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": list(tokens)})
    return tokenizer


@pytest.mark.parametrize(
    ("template", "special", "chat"),
    [
        (CHATML, ("<|im_start|>", "<|im_end|>"), (SYSTEM, LONG.messages[0])),
        (CHATML, ("<|im_start|>", "<|im_end|>"), ({**SYSTEM, "content": "Sail. " * 300}, PROBLEMS[0].messages[0])),
        (HEADERS, ("<|h|>", "<|/h|>", "<|eot|>"), (SYSTEM, LONG.messages[0])),
        (INST, ("[INST]", "[/INST]"), LONG.messages),
        (None, (), (SYSTEM, LONG.messages[0])),
    ],
)
def test_what_is_cut_from_a_prompt_that_holds_the_template_is_what_was_said(template, special, chat) -> None:
    """The string loses as much as the chat that it was made of, and nothing that the template wrote."""
    tokenizer = with_special(*special)
    tokenizer.chat_template = template
    made = ChatRenderer(tokenizer, (tokenizer.eos_token_id,))
    written = made.template(chat, generate=True)
    raw = Problem("raw", ({"role": "user", "content": written},), plain=True)
    assert is_raw(made, raw)
    room = Room(made, Sampling(max_tokens=8), 160)
    cut, like = room.shortened(raw), room.shortened(Problem("chat", chat))
    assert cut is not None and like is not None
    assert cut.messages[0]["content"] == made.template(like.messages, generate=True) != written


def test_a_string_without_a_template_loses_its_beginning_and_no_part_of_a_special_token() -> None:
    tokenizer = with_special("<|im_start|>")
    tokenizer.chat_template = None
    made = ChatRenderer(tokenizer, (tokenizer.eos_token_id,))
    text = "<s>" + "pens " * 300 + "?"
    raw = Problem("raw", ({"role": "user", "content": text},), form="raw", plain=True)
    cut = Room(made, Sampling(max_tokens=8), 100).shortened(raw)
    assert cut is not None and cut.messages[0]["content"].startswith("<s>")
    assert text.endswith(cut.messages[0]["content"][3:]) and len(cut.messages[0]["content"]) > 80
