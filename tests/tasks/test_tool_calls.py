"""Calls of tools in what a policy wrote: every format, and what is wrong with those that are none."""

from __future__ import annotations

import json

import pytest

from upslope.tasks.tools.call import Call
from upslope.tasks.tools.calls import calls_in
from upslope.tasks.tools.toolbox import Toolbox, named

QWEN = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
LLAMA = '{"name": "add", "parameters": {"a": 1, "b": 2}}'
PLAIN = 'I add.\ncall: add {"a": 1, "b": 2}'


@pytest.mark.parametrize(
    "text",
    [
        *(QWEN, LLAMA, PLAIN, f"<think>call: no</think>{QWEN}", f"[{LLAMA}]", QWEN.removesuffix("</tool_call>")),
        *(f"<tool_call>[{LLAMA}]</tool_call>", f'{{"type": "function", "function": {LLAMA}}}'),
        *(f"<|python_tag|>{LLAMA}", "<|python_tag|>add.call(a=1, b=2)", "<|python_tag|>add(a=1, b=2)"),
        *(f"[TOOL_CALLS] [{LLAMA}]", f"I add.[TOOL_CALLS][{LLAMA}]", '[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}'),
        *('[TOOL_CALLS]add[CALL_ID]123456789[ARGS]{"a": 1, "b": 2}', "[add(a=1, b=2)]", "[ add(a = 1,\n b = +2) ]"),
        *(
            "```tool_code\nprint(add(a=1, b=2))\n```",
            "I add.\n```tool_code\nadd(a=1, b=2)",
            "```tool_code\n[add(a=1, b=2)]\n```",
        ),
        "```tool_code\nfound = add(a=1, b=2)\n```",
    ],
)
def test_calls_are_read_in_every_format(text: str) -> None:
    assert calls_in(text) == [Call("add", {"a": 1, "b": 2})]


XML = (
    "<tool_call>\n<function=note>\n<parameter=text>\n12\n\n</parameter>\n<parameter=n>\n12\n</parameter>"
    "\n</function>\n</tool_call>"
)


@pytest.mark.parametrize(
    "text", [XML, XML.removeprefix("<tool_call>\n"), XML.removesuffix("\n</function>\n</tool_call>")]
)
def test_arguments_that_are_spelled_are_read_as_their_parameters_say(text: str) -> None:
    def note(text: str, n: int, also: list[int] | None = None) -> str:
        return f"{text!r} {n!r} {also!r}"

    (call,) = calls_in(text)
    assert call.spelled and dict(call.arguments) == {"text": "12\n", "n": "12"}
    box = Toolbox(named([note]))
    assert box.answer(call).text == "'12\\n' 12 None"
    more = text.replace("<parameter=n>", "<parameter=also>[1]</parameter><parameter=n>")
    assert box.answer(calls_in(more)[0]).text == "'12\\n' 12 [1]"
    wrong = box.answer(calls_in(text.replace("12\n</parameter>", "x\n</parameter>"))[0])
    assert wrong.failed and "n must be int, not 'x'" in wrong.text


def test_arguments_without_names_are_taken_in_order_and_checked() -> None:
    def add(a: int, b: int = 1) -> int:
        return a + b

    box = Toolbox(named([add]))
    assert [box.answer(call).text for call in calls_in("[add(1, 2), add(3), add(1, b=4)]")] == ["3", "4", "5"]
    for text, why in (("[add('1')]", "a must be int"), ("[add(1, 2, 3)]", "too many"), ("[add(1, a=2)]", "multiple")):
        (call,) = calls_in(text)
        assert box.answer(call).failed and why in box.answer(call).text


def test_what_is_no_call_after_a_tag_for_python_is_a_program() -> None:
    program = "x = 3\nprint(x ** 2)"
    assert calls_in(f"<|python_tag|>{program}") == [Call("python", {"code": program})]
    assert calls_in("<|python_tag|>print(6 * 7)") == [Call("python", {"code": "print(6 * 7)"})]


def test_several_of_llama_come_after_semicolons_or_lines() -> None:
    add, sub = Call("add", {"a": 1, "b": 2}), Call("sub", {"a": 1})
    for between in ("; ", "\n", ";\n", " "):
        assert calls_in(f'{LLAMA}{between}{{"name": "sub", "arguments": {{"a": 1}}}}') == [add, sub]
    listed = '[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}[TOOL_CALLS]sub[ARGS]{"a": 1}'
    assert calls_in(listed) == calls_in("```tool_code\nadd(a=1, b=2)\nsub(a=1)\n```") == [add, sub]


def test_several_calls_come_in_order_and_text_without_one_has_none() -> None:
    assert calls_in(f"First {QWEN} then {QWEN}") == calls_in(QWEN) * 2
    assert calls_in(PLAIN + '\ncall: sub {"a": 1}') == [*calls_in(PLAIN), Call("sub", {"a": 1})]
    for text in (
        "It is 4.",
        "{1, 2}",
        '{"a": 1}',
        "[3]",
        "I call: that good",
        "",
        "[f(x) + 1]",
        "f(2)",
        "[f(x), 2]",
        "[f(x]",
    ):
        assert calls_in(text) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<tool_call>add(1, 2)</tool_call>", "no JSON"),
        ('<tool_call>{"arguments": {}}</tool_call>', '"name"'),
        ('<tool_call>{"name": "add", "arguments": 3}</tool_call>', "no JSON object"),
        ('<tool_call>{"name": "sub", "arguments": {}}</tool_call>', "there is no tool 'sub'; there are add"),
        ('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', "missing a required argument: 'b'"),
        ('<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2, "c": 3}}</tool_call>', "unexpected keyword"),
        ('<tool_call>{"name": "add", "arguments": {"a": "1", "b": 2}}</tool_call>', "a must be int, not '1'"),
        ('<tool_call>{"name": "add", "arguments": {"a": true, "b": 2}}</tool_call>', "a must be int, not True"),
        ("call: add {1}", "no JSON"),
        ("<tool_call>[]</tool_call>", '"name"'),
        ("<tool_call><function=></tool_call>", "<function=NAME>"),
        ("[TOOL_CALLS] add(1, 2)", "no list of calls"),
        ("[TOOL_CALLS]add[ARGS]{1}", "no JSON"),
        ("[TOOL_CALLS]add[ARGS][1]", "no JSON object"),
        ("[add(a=x, b=2)]", "must be values"),
        ("[add(a=1, **more)]", "must be values"),
        ("```tool_code\nfor i in x: add(i)\n```", "one call of a tool"),
        ("```tool_code\nadd(1\n```", "one call of a tool"),
        ("<|python_tag|>1 + 1", "there is no tool 'python'"),
        ('{"name": "add", "parameters": {"a": 1', "no JSON"),
    ],
)
def test_a_wrong_call_is_answered_with_what_is_wrong(text: str, why: str) -> None:
    def add(a: int, b: int) -> int:
        raise AssertionError("it is not to be called")

    (call,) = calls_in(text)
    answer = Toolbox(named([add])).answer(call)
    assert answer.failed and why in json.loads(answer.text)["error"]
