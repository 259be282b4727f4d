"""Prompts as their writers meant them: strings with the template in them, beginnings of answers, special tokens."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import templated
from transformers import GenerationConfig

from upslope.errors import UserError
from upslope.model.chat_renderer import ChatRenderer, reading
from upslope.model.chat_template import PLAIN_TEMPLATE
from upslope.model.renderer import is_raw, prompt_of
from upslope.training.prompt_notes import SpecialWatch, prompt_notes, special_note
from upslope.training.shown import shown_rows
from upslope.types import Form, Group, Problem, Rollout

FAMILIES = tuple(templated.SPECIAL)
USER = {"role": "user", "content": "What is 2 + 2?"}
BEGUN = {"role": "assistant", "content": "Let me think.\n<think>"}


def renderer(family: str, template: str | None = None, **more: Any) -> ChatRenderer:
    made = templated.tokenizer(family, template)
    if more:
        made.add_special_tokens(more)
    return ChatRenderer.of(made)


def string(text: str, form: Form = "auto", **fields: Any) -> Problem:
    return Problem("toy/0", ({"role": "user", "content": text},), plain=True, form=form, **fields)


def written(subject: ChatRenderer, *messages: Any, **options: Any) -> str:
    how = {"tokenize": False, "add_generation_prompt": True} | options
    return str(subject.tokenizer.apply_chat_template(list(messages), **how))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_string_that_carries_the_template_does_not_get_it_twice(family: str) -> None:
    subject = renderer(family)
    text = written(subject, USER) + "Let me see.\n<think>"
    assert subject.spelled(prompt_of(subject, string(text))) == text
    assert not is_raw(subject, string(USER["content"]))
    assert prompt_of(subject, string(USER["content"])) == subject.prompt_ids([USER])
    assert len(prompt_of(subject, string(text, "chat"))) > len(prompt_of(subject, string(text)))
    assert subject.spelled(prompt_of(subject, string("2 + 2 =", "raw"))).endswith("2 + 2 =")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_end_token_that_is_a_word_says_nothing_of_the_template(family: str) -> None:
    plain = templated.tokenizer(family)
    words = plain("user", add_special_tokens=False).input_ids
    subject = ChatRenderer.of(plain, GenerationConfig(eos_token_id=words))
    assert set(words) <= set(subject.end_ids) and subject.marks == renderer(family).marks
    assert not is_raw(subject, string("Which user asks this?"))
    assert is_raw(subject, string(written(subject, USER)))


@pytest.mark.parametrize("family", sorted(templated.BOS))
def test_a_string_has_one_start_token_whether_it_brings_it_or_not(family: str) -> None:
    subject = renderer(family)
    start = templated.BOS[family]
    text = written(subject, USER)
    bare = text.removeprefix(start)
    assert bare != text
    assert prompt_of(subject, string(text)) == prompt_of(subject, string(bare))
    assert subject.spelled(prompt_of(subject, string(text))).count(start) == 1


@pytest.mark.parametrize(
    ("text", "carries"),
    [
        ("A conversation.\nUser: What is 2 + 2?\nAssistant: Let me see.\n<think>", True),
        ("User: What is 2 + 2?\n\nAssistant:\n", True),
        ("User: Hi\n\nAssistant: Hello\n\nUser: Bye", False),
        ("What does Assistant: mean?", False),
    ],
)
def test_of_a_template_in_words_the_last_turn_decides(text: str, carries: bool) -> None:
    assert is_raw(renderer("smollm2", PLAIN_TEMPLATE), string(text)) == carries


def test_a_chat_cannot_be_taken_as_it_stands() -> None:
    chat = Problem("toy/0", ({"role": "system", "content": "Be brief."}, USER), form="raw")
    with pytest.raises(UserError, match=r"toy/0: task.template = raw is for prompts that are strings.* chat of 2"):
        prompt_of(renderer("smollm2"), chat)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_beginning_is_gone_on_with_as_the_whole_turn_is_written(family: str) -> None:
    subject = renderer(family)
    prompt = subject.spelled(subject.prompt_ids([USER, BEGUN]))
    assert prompt.endswith(BEGUN["content"])
    assert not any(prompt.endswith(subject.spelled([end])) for end in subject.end_ids)
    (shown,) = subject.shown_turns([USER, {**BEGUN, "content": BEGUN["content"] + " 4"}])
    whole = subject.spelled([*shown.prompt, *shown.response])
    assert whole.startswith(prompt + " 4")


def test_a_beginning_keeps_its_last_spaces_and_is_there_once() -> None:
    subject = renderer("smollm2")
    spaced = {**BEGUN, "content": "The answer is:\n\n"}
    assert subject.spelled(subject.prompt_ids([USER, spaced])).endswith("assistant\nThe answer is:\n\n")
    thinks = templated.tokenizer("smollm2").chat_template.replace("assistant\\n", "assistant\\n<think>\\n")
    begins = renderer("smollm2", thinks)
    assert written(begins, USER).endswith("<think>\n")
    prompt = begins.spelled(begins.prompt_ids([USER, {**BEGUN, "content": "<think>\nI see"}]))
    assert prompt == written(begins, USER) + "I see"


def test_an_answer_after_a_beginning_is_imitated_alone_and_ends_once() -> None:
    subject = renderer("smollm2")
    for text in ("4</think> 4", "4</think> 4<|im_end|>", "4</think> 4<|im_end|>\n"):
        (shown,) = shown_rows(subject, Problem("toy/0", (USER, BEGUN), demonstration=text))
        assert shown.prompt == subject.prompt_ids([USER, BEGUN])
        assert subject.spelled(shown.response) == "4</think> 4<|im_end|>"
        assert all(shown.mask)


REFUSES = (
    "{% for m in messages %}{% if m.role == 'developer' %}{{ raise_exception('no such role') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DROPS = REFUSES.replace("{{ raise_exception('no such role') }}{% endif %}", "{% else %}").replace(
    "<|im_end|>\n{% endfor", "<|im_end|>\n{% endif %}{% endfor"
)


@pytest.mark.parametrize("template", [REFUSES, DROPS])
def test_a_developer_is_a_system_where_the_template_does_not_know_it(template: str) -> None:
    subject = renderer("smollm2", template)
    chat = ({"role": "developer", "content": "Be brief."}, USER)
    assert "<|im_start|>system\nBe brief." in subject.spelled(subject.prompt_ids(chat))
    assert any("no role developer" in note for note in prompt_notes([Problem("toy/0", chat)], subject))
    knows = renderer("smollm2")
    assert "<|im_start|>developer\nBe brief." in knows.spelled(knows.prompt_ids(chat))
    assert prompt_notes([Problem("toy/0", chat)], knows) == []


SAYS = "<|im_start|>{{ m.role }}\n{% for b in m.content %}{% if b.type == 'text' %}{{ b.text }}{% endif %}{% endfor %}"
BLOCKS = (
    "{% for m in messages %}" + SAYS + "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    "template",
    [
        BLOCKS,
        BLOCKS.replace("{% for b in m.content %}", "{% set b = m.content[0] %}").replace(
            "{% endif %}{% endfor %}<", "{% endif %}<"
        ),
    ],
)
def test_a_template_that_reads_blocks_alone_gets_them(template: str) -> None:
    """Those of models with pictures write nothing of content that is text."""
    subject = renderer("smollm2", template)
    prompt = subject.spelled(subject.prompt_ids([{"role": "system", "content": "Be brief."}, USER]))
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    )
    answered = Problem("toy/0", (USER,), demonstration="4")
    assert subject.spelled(shown_rows(subject, answered)[0].response) == "4<|im_end|>"


def test_tools_that_a_template_leaves_out_are_refused_in_a_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    assert "add" in (able := renderer("qwen2.5")).spelled(able.prompt_ids([USER], {"tools": tools}))
    with pytest.raises(UserError, match="tools are not written by the model's chat template \\('add'"):
        renderer("smollm2", REFUSES).prompt_ids([USER], {"tools": tools})


NOTED = [
    ("<|im_start|>user\n2?<|im_end|>\n<|im_start|>assistant\n", "auto", "1 of 2 prompts .* are taken as they are"),
    ("<|im_start|>user\n2?<|im_end|>\n<|im_start|>assistant\n", "chat", "1 of 2 prompts .* get it once more"),
    ("[INST] 2? [/INST]", "auto", r"hold '\[/INST\]', as if a chat template"),
    ("Q: 2?\nAssistant:", "auto", "hold 'Assistant:', as if"),
]


@pytest.mark.parametrize(("text", "form", "says"), NOTED)
def test_what_is_odd_about_prompts_is_said(text: str, form: Form, says: str) -> None:
    (note,) = prompt_notes([string("2?"), string(text, form)], renderer("smollm2"))
    assert re.search(says, note)
    assert prompt_notes([string("2?"), string(text, "raw")], renderer("smollm2")) == []


DATED = "{{ 'Today: ' + (date_string or strftime_now('%d %b %Y')) + messages[0].content }}"


def test_a_prompt_that_holds_today_s_date_is_noted_and_one_date_can_be_kept() -> None:
    subject = renderer("smollm2", DATED)
    (note,) = prompt_notes([string("2?")], subject)
    assert "today's date" in note and "task.chat_template_kwargs.date_string" in note
    assert prompt_notes([string("2?", template={"date_string": "26 Jul 2024"})], subject) == []
    assert not any("date" in line for line in prompt_notes([string("2?")], renderer("smollm2")))


def test_arguments_that_the_template_never_reads_and_beginnings_are_said() -> None:
    odd = Problem("toy/0", (USER, BEGUN), template={"enable_thinkin": False})
    notes = prompt_notes([odd, replace(odd, template={"enable_thinking": False})], renderer("qwen3"))
    assert notes[0].startswith("2 of 2 prompts (such as toy/0) end with the beginning of an answer")
    assert notes[1:] == ["the chat template never reads 'enable_thinkin' (chat_template_kwargs)"]


def test_special_tokens_are_kept_for_rewards_that_look_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = renderer("smollm2", additional_special_tokens=["<|im_start|>", "<answer>"])
    ids = (*subject.tokenizer("<answer>4", add_special_tokens=False).input_ids, subject.turn_end_id)
    assert (subject.text(ids), reading(subject, special=True).text(ids)) == ("4", "<answer>4")
    rollout = Rollout("toy/0", 0, (1,), ids, (True,) * len(ids), None, 0, "stop", "4")
    plain = replace(rollout, response=(*subject.tokenizer("<|im_start|>4").input_ids, subject.turn_end_id))
    groups = [Group(string("a"), (rollout, plain))]
    assert "1 of 2 attempts hold special tokens (<answer>)" in special_note(groups, subject)
    assert special_note(groups, reading(subject, special=True)) == ""
    assert special_note([Group(string("a"), (plain,))], subject) == ""  # the template's own
    said: list[str] = []
    monkeypatch.setattr("upslope.tasks.at_work.WATCH.say", said.append)
    watch = SpecialWatch()
    watch(groups, subject)
    watch(groups, subject)
    assert len(said) == 1
