"""The calls of tools in what a policy wrote, in the formats that models use:

- Qwen, Hermes: ``<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>``, any number of them in any text, or a
  list of such in one (SmolLM2);
- Qwen3-Coder, Qwen3.5: ``<tool_call><function=add><parameter=a>1</parameter></function></tool_call>``;
- Mistral: ``[TOOL_CALLS]`` before a list, or ``[TOOL_CALLS]add[ARGS]{"a": 1}``;
- Llama 3: the whole turn, or what follows ``<|python_tag|>``, is ``{"name": "add", "parameters": {"a": 1}}``, several
  of such after a semicolon, or a list; the arguments may be called either;
- Llama 3.2 and 4, Gemma 3: the whole turn is a list in Python, ``[add(a=1)]``;
- Gemma: lines of Python between ``tool_code`` fences (``upslope.tasks.tools.pythonic``);
- plain, for models that know none of these: a line ``call: add {"a": 1}``.

What begins like a call and is none is a call too: it is answered with what is wrong with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from upslope.tasks.tools.call import Call
from upslope.tasks.tools.pythonic import CODE_FENCE, calls_after_tag, calls_in_fences, listed_calls

PLAIN_CALL = "call:"
"""How the line of a plain call begins."""
OPEN, CLOSE = "<tool_call>", "</tool_call>"
LISTED, ARGS = "[TOOL_CALLS]", "[ARGS]"
TAG = "<|python_tag|>"
_MARKED = re.compile(f"{OPEN}(.*?)(?:{CLOSE}|(?={OPEN})|$)", re.DOTALL)
_FUNCTION = re.compile(r"<function=([^>\s]+)\s*>(.*?)(?:</function>|(?=<function=)|$)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)\s*>(.*?)(?:</parameter>|(?=<parameter=)|$)", re.DOTALL)
_PLAIN = re.compile(rf"^[ \t]*{PLAIN_CALL}(.*)$", re.MULTILINE)
_PLAIN_CALL = re.compile(r"\s*([^\s{]+)\s*(\{.*\})?\s*$", re.DOTALL)
_BETWEEN = re.compile(r"[\s;,]*")
_ARGUMENTS = ("arguments", "parameters")


def calls_in(text: str) -> list[Call]:
    """Every call in a turn, in order.

    >>> [call.name for call in calls_in('<tool_call>{"name": "add", "arguments": {}}</tool_call>')]
    ['add']
    >>> calls_in('{"name": "add", "parameters": {"a": 1}}')[0].arguments, calls_in("It is 4.")
    ({'a': 1}, [])
    """
    _, marked, thought = text.rpartition("</think>")
    said = thought if marked else text
    if OPEN in said:
        return [call for match in _MARKED.finditer(said) for call in _between_tags(match[1])]
    if "<function=" in said:  # Qwen3-Coder forgets the tag around it now and then
        return _functions(said)
    if LISTED in said:
        return [call for part in said.split(LISTED)[1:] for call in _after_listed(part)]
    if TAG in said:
        code = said.partition(TAG)[2].strip()
        return _bare(code) or calls_after_tag(code)
    if CODE_FENCE in said:
        return calls_in_fences(said)
    bare = said.strip()
    if bare.startswith(("{", "[")):
        return _bare(bare) or listed_calls(bare)
    return [_plain(match[1]) for match in _PLAIN.finditer(said)]


def before_calls(text: str) -> str:
    """What a turn says before the first of its calls.

    >>> before_calls('I add. <tool_call>{"name": "add", "arguments": {}}</tool_call>')
    'I add.'
    """
    places = [text.find(mark) for mark in (OPEN, "<function=", LISTED, TAG, CODE_FENCE) if mark in text]
    plain = _PLAIN.search(text)
    places += [plain.start()] if plain else []
    return text[: min(places, default=0)].rstrip()


def _between_tags(text: str) -> list[Call]:
    if "<function=" in text:
        return _functions(text)
    try:
        found = json.loads(text)
    except ValueError:
        return [Call("", fault=f"this is no JSON: {text.strip():.80}")]
    return [_of(each) for each in (found if isinstance(found, list) and found else [found])]


def _functions(text: str) -> list[Call]:
    return [
        Call(name, {key: _unwrapped(value) for key, value in _PARAMETER.findall(body)}, spelled=True)
        for name, body in _FUNCTION.findall(text)
    ] or [Call("", fault=f"a call is <function=NAME> with <parameter=NAME>, not {text.strip():.80}")]


def _unwrapped(value: str) -> str:
    """A parameter's text without the new lines that the format puts around it."""
    return value.removeprefix("\n").removesuffix("\n")


def _after_listed(text: str) -> list[Call]:
    name, marked, arguments = text.partition(ARGS)
    if not marked:
        return _bare(text.strip()) or [Call("", fault=f"this is no list of calls: {text.strip():.80}")]
    name = name.partition("[CALL_ID]")[0].strip()
    try:
        return [_of({"name": name, "arguments": json.loads(arguments)})]
    except ValueError:
        return [Call(name, fault=f"the arguments are no JSON: {arguments.strip():.80}")]


def _bare(text: str) -> list[Call]:
    """A whole turn that is JSON, one value or several; nothing if it is not of calls."""
    try:
        found = _values(text)
    except ValueError:
        return [Call("", fault=f"this is no JSON: {text:.80}")] if re.match(r"[\[{\s]*\"name\"", text) else []
    listed = [each for value in found for each in (value if isinstance(value, list) else [value])]
    return [_of(each) for each in listed] if listed and all(map(_names, listed)) else []


def _values(text: str) -> Sequence[Any]:
    """JSON values one after the other. Raises ValueError where something else stands there."""
    found, place, decoder = [], 0, json.JSONDecoder()
    while place < len(text):
        value, place = decoder.raw_decode(text, place)
        found.append(value)
        separator = _BETWEEN.match(text, place)
        place = separator.end() if separator else place
    return found


def _names(found: Any) -> bool:
    return isinstance(found, dict) and ("name" in found or isinstance(found.get("function"), dict))


def _of(found: Any) -> Call:
    if isinstance(found, dict) and isinstance(found.get("function"), dict):  # as OpenAI writes it
        found = found["function"]
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return Call("", fault='a call is an object with "name" and "arguments"')
    arguments: Any = next((found[key] for key in _ARGUMENTS if key in found), {})
    if isinstance(arguments, str):  # OpenAI's are the JSON of an object
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return Call(found["name"], fault="the arguments are no JSON object")
    if not isinstance(arguments, dict):
        return Call(found["name"], fault="the arguments are no JSON object")
    return Call(found["name"], arguments)


def _plain(text: str) -> Call:
    match = _PLAIN_CALL.match(text)
    if match is None:
        return Call("", fault=f'a call is {PLAIN_CALL} NAME {{"PARAMETER": VALUE}}, not {text.strip():.80}')
    try:
        return Call(match[1], json.loads(match[2]) if match[2] else {})
    except ValueError:
        return Call(match[1], fault=f"the arguments are no JSON: {match[2]:.80}")
