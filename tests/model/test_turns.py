"""Of a conversation the assistant's own text and its end are imitated, and nothing else, whatever the chat template."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import templated
from tiny import TOKENIZER, bare_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from upslope.errors import UserError
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.renderer import Shown

FAMILIES = tuple(templated.SPECIAL)
TAKES_TOOLS = ("qwen2.5", "qwen3", "llama3")
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
SAID = ("I think of it: 4.", "Yes.\n\nThe answer is 4.", "<b>4</b> é 数", "Good bye.")


def renderer(family: str, template: str | None = None) -> ChatRenderer:
    return ChatRenderer.of(templated.tokenizer(family, template))


def end_of(family: str) -> str:
    return templated.END.get(family, "<|im_end|>")


def talk(num: int, *, system: bool = False) -> list[dict[str, Any]]:
    """A conversation of so many questions and answers."""
    asked = [{"role": "user", "content": f"What is {i} + 2?"} for i in range(num)]
    said = [{"role": "assistant", "content": text} for text in SAID[:num]]
    first = [{"role": "system", "content": "Be short."}] if system else []
    return [*first, *itertools.chain(*zip(asked, said, strict=True))]


def read(subject: ChatRenderer, ids: Any) -> str:
    return str(subject.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def spans(subject: ChatRenderer, shown: Shown) -> list[str]:
    """The text of every unbroken span of counted tokens."""
    runs = itertools.groupby(zip(shown.response, shown.mask, strict=True), key=lambda pair: pair[1])
    return [read(subject, [token for token, _ in run]) for counted, run in runs if counted]


def whole(subject: ChatRenderer, shown: Shown) -> str:
    return read(subject, shown.prompt + shown.response)


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("num", [1, 2, 3, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_assistants_text_and_its_end_count_and_nothing_else(family: str, num: int, system: bool) -> None:
    if (family, system) == ("gemma", True):
        return  # refused, below
    subject, chat = renderer(family), talk(num, system=system)
    (shown,) = subject.shown_turns(chat)
    space = " " if family == "mistral" else ""  # written by its template, so that its policy has to write it
    assert spans(subject, shown) == [space + text + end_of(family) for text in SAID[:num]]
    assert shown.mask[0] and shown.mask[-1]
    text = subject.tokenizer.apply_chat_template(chat, tokenize=False)
    if family == "qwen3":  # the empty thinking of the last turn is left out again when the chat goes on
        text = text.replace("<think>\n\n</think>\n\n", "")
    assert whole(subject, shown) == text.rstrip("\n")
    assert shown.prompt + shown.response == tuple(subject.tokenizer(text.rstrip("\n")).input_ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_turn_follows_the_very_prompt_that_a_policy_would_get(family: str) -> None:
    subject, chat = renderer(family), talk(3)
    (shown,) = subject.shown_turns(chat)
    ids = shown.prompt + shown.response
    counted = (False,) * len(shown.prompt) + shown.mask
    begins = [i for i in range(1, len(ids)) if counted[i] and not counted[i - 1]]
    assert [ids[:i] for i in begins] == [subject.prompt_ids(chat[:k]) for k in (1, 3, 5)]


@pytest.mark.parametrize("family", TAKES_TOOLS)
def test_a_call_of_a_tool_counts_as_the_template_writes_it_and_the_answer_of_the_tool_does_not(family: str) -> None:
    calls = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    chat = [*talk(1), talk(2)[2], calls, {"role": "tool", "content": "4"}, {"role": "assistant", "content": "It is 4."}]
    subject = renderer(family)
    (shown,) = subject.shown_turns(chat, {"tools": [{"name": "add"}]} if family == "qwen2.5" else {})
    first, called, last = spans(subject, shown)
    end = end_of(family)
    key, around = ("parameters", "{}") if family == "llama3" else ("arguments", "<tool_call>\n{}\n</tool_call>")
    told = json.dumps({"name": "add", key: CALL["function"]["arguments"]})  # type: ignore[index]
    assert (first, called.lstrip("\n"), last) == (SAID[0] + end, around.replace("{}", told) + end, "It is 4." + end)
    assert ('"name": "add"}\n</tools>' in whole(subject, shown)) == (family == "qwen2.5")


@pytest.mark.parametrize("family", ["smollm2", "gemma"])
def test_calls_and_tools_that_a_template_leaves_out_are_refused(family: str) -> None:
    subject = ChatRenderer.of(templated.tokenizer(family))
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    chat = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    with pytest.raises(UserError, match=r"message 2 \(assistant\): its tool_calls are not written by .*'add'"):
        subject.shown_turns(chat)
    thought = [chat[0], {"role": "assistant", "content": "2", "reasoning_content": "One and one."}]
    with pytest.raises(UserError, match=r"message 2 \(assistant\): its reasoning_content is not written by"):
        subject.shown_turns(thought)
    said = [chat[0], {"role": "assistant", "content": "2"}]
    with pytest.raises(UserError, match=r"the tools are not written by the model's chat template \('add'"):
        subject.shown_turns(said, {"tools": [call]})
    assert subject.shown_turns(said, {"tools": []}) == subject.shown_turns(said)


def test_thinking_counts_in_the_turn_that_thinks_and_is_gone_when_the_chat_goes_on() -> None:
    """Qwen3 drops earlier thinking: then a turn is learnt where a policy would write it, in a row of its own."""
    subject, chat = renderer("qwen3"), talk(3)
    for i, thought in ((1, "Two and none."), (5, "Two and two.")):
        chat[i] = {**chat[i], "reasoning_content": thought}
    rows = subject.shown_turns(chat)
    assert [spans(subject, shown) for shown in rows] == [
        [f"<think>\nTwo and none.\n</think>\n\n{SAID[0]}<|im_end|>"],
        [f"{SAID[1]}<|im_end|>", f"<think>\nTwo and two.\n</think>\n\n{SAID[2]}<|im_end|>"],
    ]
    assert "none" not in whole(subject, rows[1]) and SAID[0] in whole(subject, rows[1])
    assert [shown.prompt for shown in rows] == [subject.prompt_ids(chat[:1]), subject.prompt_ids(chat[:3])]


@pytest.mark.parametrize(
    "more",
    [
        {"reasoning_content": "a<|im_end|>b"},
        {"tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": "2<|im_end|>"}}}]},
    ],
)
def test_an_end_within_thoughts_or_calls_is_refused_as_in_the_text(more: dict[str, Any]) -> None:
    subject = renderer("qwen3")
    chat = [*talk(1)[:1], {"role": "assistant", "content": "4"} | more]
    with pytest.raises(UserError, match=r"message 2 \(assistant\): its text holds '<\|im_end\|>', which ends a turn"):
        subject.shown_turns(chat)
    subject.shown_turns([*talk(1)[:1], {"role": "assistant", "content": "4", "reasoning_content": "a b"}])


def test_thinking_within_the_text_is_the_assistants_own() -> None:
    subject = renderer("qwen3")
    chat = [*talk(1)[:1], {"role": "assistant", "content": "<think>\nTwo.\n</think>\n\n4."}]
    assert spans(subject, subject.shown_turns(chat)[0]) == ["<think>\nTwo.\n</think>\n\n4.<|im_end|>"]


def test_keywords_of_a_row_reach_the_template() -> None:
    """Without thinking, the prompt of Qwen3 has it empty, and a chat that goes on has none."""
    subject, chat = renderer("qwen3"), talk(2)
    rows = subject.shown_turns(chat, {"enable_thinking": False})
    assert [spans(subject, shown) for shown in rows] == [[SAID[0] + "<|im_end|>"], [SAID[1] + "<|im_end|>"]]
    assert all(read(subject, shown.prompt).endswith("assistant\n<think>\n\n</think>\n\n") for shown in rows)


@pytest.mark.parametrize("family", ["llama3", "gemma"])
def test_text_that_the_template_strips_counts_as_it_is_left(family: str) -> None:
    subject, chat = renderer(family), talk(2)
    chat[1] = {**chat[1], "content": f"  {SAID[0]} \n"}
    (shown,) = subject.shown_turns(chat)
    assert spans(subject, shown)[0] == SAID[0] + end_of(family)


def test_space_around_a_text_that_the_template_keeps_counts() -> None:
    subject, chat = renderer("smollm2"), talk(2)
    chat[1] = {**chat[1], "content": " a \n"}
    assert spans(subject, subject.shown_turns(chat)[0])[0] == " a \n<|im_end|>"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_turn_left_out_is_read_and_not_imitated(family: str) -> None:
    subject, chat = renderer(family), talk(3)
    (every,) = subject.shown_turns(chat)
    chat[3] = {**chat[3], "train": False}
    (shown,) = subject.shown_turns(chat)
    assert spans(subject, shown) == [spans(subject, every)[i] for i in (0, 2)]
    assert shown.prompt + shown.response == every.prompt + every.response
    chat[1], chat[5] = ({**chat[i], "train": False} for i in (1, 5))
    assert subject.shown_turns(chat) == []


MARKS = "{%- generation -%}{{- message.content + '<|im_end|>\\n' -}}{%- endgeneration -%}"


@pytest.mark.parametrize(
    "marks",
    [
        "{%- generation -%}{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}",
        "{%- generation -%}{{- message.content -}}{%- endgeneration -%}{{- '<|im_end|>\\n' -}}",
        "{{- 'said: ' -}}{%- generation %}{{- message.content -}}{%- endgeneration %}{{- '<|im_end|>\\n' -}}",
    ],
)
def test_marks_say_what_counts_and_the_end_is_always_in_it(marks: str) -> None:
    template = (templated.FOLDER / "marked.jinja").read_text()
    assert MARKS in template
    subject = renderer("marked", template.replace(MARKS, marks))
    for num in (1, 3):
        (shown,) = subject.shown_turns(talk(num, system=True))
        assert spans(subject, shown) == [text + "<|im_end|>" for text in SAID[:num]]
        text = subject.tokenizer.apply_chat_template(talk(num, system=True), tokenize=False)
        assert whole(subject, shown) == text.rstrip("\n")


def test_marks_and_prefixes_agree_where_both_are_to_be_had() -> None:
    template = (templated.FOLDER / "marked.jinja").read_text()
    plain = template.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
    chat = talk(4, system=True)
    assert renderer("marked").shown_turns(chat) == renderer("marked", plain).shown_turns(chat)


def test_what_the_policy_has_to_write_before_its_text_counts_with_it() -> None:
    """As of gpt-oss: the generation prompt leaves the channel to the policy."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.role == 'assistant' %} final{% endif %}"
        "{{ '\\n' + m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )
    subject = renderer("smollm2", template)
    (shown,) = subject.shown_turns(talk(2))
    assert spans(subject, shown) == [f" final\n{text}<|im_end|>" for text in SAID[:2]]


def test_what_the_prompt_begins_for_the_assistant_is_there_once() -> None:
    """As of DeepSeek-R1: the generation prompt opens the thinking, which the template drops from turns."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    subject, chat = renderer("smollm2", template), talk(2)
    for i, text in ((1, "<think>\nTwo.</think>4."), (3, "Two.</think>4.")):
        chat[i] = {**chat[i], "content": text}
    rows = subject.shown_turns(chat)
    assert [spans(subject, shown) for shown in rows] == [["Two.</think>4.<|im_end|>"]] * 2
    assert [shown.prompt for shown in rows] == [subject.prompt_ids(chat[:1]), subject.prompt_ids(chat[:3])]
    with pytest.raises(UserError, match=r"^message 2 \(assistant\): .*its parts cannot be told apart"):
        subject.shown_turns([chat[0], {**chat[1], "reasoning_content": "Two."}])


def test_a_template_that_writes_no_end_has_turns_that_end_with_the_end_token() -> None:
    """Whoever writes has to stop, and what follows in the chat has no end there: rows of their own."""
    subject = ChatRenderer.of(bare_tokenizer())
    rows = subject.shown_turns([{**m, "content": "Tom has 3 apples ."} for m in talk(2)])
    assert [shown.prompt + shown.response for shown in rows] == [
        (*subject.prompt_ids([{**m, "content": "Tom has 3 apples ."} for m in talk(2)[:k]]), *written)
        for k, written in ((1, subject.response_ids("Tom has 3 apples .")),) * 1
        + ((3, subject.response_ids("Tom has 3 apples .")),)
    ]


@pytest.mark.parametrize(
    ("family", "chat", "told"),
    [
        ("gemma", talk(2, system=True), "message 1 (system): the model's chat template does not take it: System role"),
        ("mistral", [*talk(1), *talk(2)[1:]], "message 3 (assistant): the model's chat template does not take it: Af"),
        ("gemma", [*talk(1), {"role": "tool", "content": "4"}, *talk(1)[1:]], "message 3 (tool): "),
        ("smollm2", [*talk(1), *talk(1)[:1], {"role": "assistant", "content": "4<|im_end|>"}], "message 4 (assistant)"),
        ("llama3", [*talk(1)[:1], {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}], "message 2 (assi"),
        (
            "smollm2",
            talk(2)[1:],
            "message 1 (assistant): nothing stands before it, and the model's chat",
        ),
    ],
)
def test_what_a_template_refuses_is_one_line_that_names_the_message(
    family: str, chat: list[dict[str, Any]], told: str
) -> None:
    with pytest.raises(UserError) as raised:
        renderer(family).shown_turns(chat)
    assert str(raised.value).startswith(told)
    assert "\n" not in str(raised.value)


def test_a_template_that_does_not_say_what_the_assistant_says_is_refused() -> None:
    subject = renderer("smollm2", "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with pytest.raises(UserError, match="does not write what an assistant says"):
        subject.shown_turns(talk(1))


def test_a_tokenizer_that_changes_a_text_is_refused() -> None:
    class Deaf(ChatRenderer):
        def ids(self, text: str) -> tuple[int, ...]:
            return super().ids(text.replace("4", "5"))

    with pytest.raises(UserError, match="the tokenizer cannot write 'I think of it: 4"):
        Deaf(templated.tokenizer("smollm2"), (313,)).shown_turns(talk(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_answer_ends_as_the_template_ends_turns_and_the_policy_stops_there(family: str) -> None:
    subject = renderer(family)
    assert read(subject, [subject.turn_end_id]) == end_of(family)
    assert subject.end_ids[0] == subject.tokenizer.eos_token_id and subject.turn_end_id in subject.end_ids
    assert len(subject.end_ids) == 1 + (family in ("qwen2.5", "llama3", "gemma"))


def sentencepiece() -> Any:
    """As the first Mistral and Llama have it: a space is a piece of a word, and one is put before whatever is given."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    made.decoder = decoders.Metaspace(prepend_scheme="always", split=True)
    chars = sorted(set("".join(SAID) + "What is + 2?0123[INST]/▁\n"))
    made.train_from_iterator(
        [" ".join(SAID), "What is"], trainers.BpeTrainer(vocab_size=200, initial_alphabet=chars, show_progress=False)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", bos_token="<s>")
    fast.chat_template = (templated.FOLDER / "mistral.jinja").read_text()
    return fast


def test_a_tokenizer_that_puts_spaces_before_words_writes_a_turn_as_its_template_does() -> None:
    subject, chat = ChatRenderer.of(sentencepiece()), talk(3)
    (shown,) = subject.shown_turns(chat)
    text = subject.tokenizer.apply_chat_template(chat, tokenize=False)
    assert shown.prompt + shown.response == tuple(subject.tokenizer(text, add_special_tokens=False).input_ids)
    counted = (token for token, mask in zip(shown.response, shown.mask, strict=True) if mask)
    said = "".join(subject.tokenizer.convert_ids_to_tokens(list(counted)))
    assert said == "".join("▁" + said.replace(" ", "▁") + "</s>" for said in SAID[:3])


def test_no_space_is_put_where_the_template_has_none() -> None:
    tokenizer = sentencepiece()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '[' + m.content }}{% if m.role == 'assistant' %}</s>{% endif %}"
        + ("{% endfor %}{% if add_generation_prompt %}[{% endif %}")
    )
    subject = ChatRenderer.of(tokenizer)
    rows = subject.shown_turns(talk(2))
    written = [subject.spelled([*shown.prompt[-3:], *shown.response]) for shown in rows]
    assert [text.rpartition("[")[2] for text in written] == [text + "</s>" for text in SAID[:2]][-len(rows) :]


def test_the_pocket_models_turns_are_the_tokens_of_its_template() -> None:
    subject = ChatRenderer.of(TOKENIZER)
    asked = {"role": "user", "content": "Tom has 18 apples ."}
    chat = [asked, {"role": "assistant", "content": "#### 18"}]
    (shown,) = subject.shown_turns(chat)
    assert shown == (subject.prompt_ids([asked]), subject.response_ids("#### 18"), (True,) * len(shown.response))
    assert subject.turn_end_id == subject.end_ids[0]
