"""The calls of tools in what a policy wrote, in the formats that models use:

- Qwen, Hermes: ``<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>``, any number of them in any text;
- Llama 3, Mistral: the whole turn is ``{"name": "add", "parameters": {"a": 1}}``, or a list of such; the arguments may
  be called either;
- plain, for models that know none of these: a line ``call: add {"a": 1}``.

What begins like a call and is none is a call too: it is answered with what is wrong with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PLAIN_CALL = "call:"
"""How the line of a plain call begins."""
OPEN, CLOSE = "<tool_call>", "</tool_call>"
_MARKED = re.compile(f"{OPEN}(.*?)(?:{CLOSE}|(?={OPEN})|$)", re.DOTALL)
_PLAIN = re.compile(rf"^[ \t]*{PLAIN_CALL}(.*)$", re.MULTILINE)
_PLAIN_CALL = re.compile(r"\s*([^\s{]+)\s*(\{.*\})?\s*$", re.DOTALL)
_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True)
class Call:
    """A call of a tool, or of what was meant as one.

    >>> Call("add", {"a": 1}).fault
    ''
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""
    """Why it is none; empty if it is one."""


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
        return [_from_json(match[1]) for match in _MARKED.finditer(said)]
    bare = said.strip()
    if bare.startswith(("{", "[")):
        return _bare(bare)
    return [_plain(match[1]) for match in _PLAIN.finditer(said)]


def _bare(text: str) -> list[Call]:
    """A whole turn that is JSON; nothing if it is not of calls."""
    try:
        found = json.loads(text)
    except ValueError:
        return [Call("", fault=f"this is no JSON: {text:.80}")] if re.match(r"[\[{\s]*\"name\"", text) else []
    listed = found if isinstance(found, list) else [found]
    return [_of(each) for each in listed] if all(isinstance(e, dict) and "name" in e for e in listed) else []


def _from_json(text: str) -> Call:
    try:
        return _of(json.loads(text))
    except ValueError:
        return Call("", fault=f"this is no JSON: {text.strip():.80}")


def _of(found: Any) -> Call:
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
