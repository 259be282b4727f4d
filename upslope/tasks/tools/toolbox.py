"""Tools, and what comes of a call: its result as text, or an error that whoever called is told."""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import json
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, get_args

from upslope.errors import Unavailable, UserError
from upslope.plugins import unless_interrupted
from upslope.tasks.tools.call import Call

MOST_SAID = 10_000
"""Characters of a result that are kept."""


@dataclass(frozen=True)
class Tool:
    """A function that a policy may call, by its name.

    >>> Tool("add", max)
    Tool('add')
    """

    name: str
    function: Callable[..., Any]
    schema: Mapping[str, Any] | None = field(default=None, compare=False)
    """As JSON, where it is known; None: read from the function's hints and docstring."""

    def __repr__(self) -> str:
        return f"Tool({self.name!r})"


def called_elsewhere(**arguments: Any) -> None:
    """Stands for a tool that whoever lends it calls."""
    raise NotImplementedError


def named(functions: Sequence[Callable[..., Any]]) -> tuple[Tool, ...]:
    """Tools by their functions' own names. Raises UserError for two of one name."""
    tools = tuple(Tool(str(getattr(f, "__name__", type(f).__name__)), f) for f in functions)
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two tools are called {twice!r}; rename one")
    return tools


@dataclass(frozen=True)
class Answered:
    """What a call gave.

    >>> Answered("4", failed=False).text
    '4'
    """

    text: str
    failed: bool


class Toolbox:
    """The tools of an attempt."""

    def __init__(self, tools: Sequence[Tool], seconds: float = 0.0) -> None:
        """``seconds``: what a call may take; 0: any time. A call that takes longer is answered with that, and left
        alone: nothing can stop a function of Python from outside."""
        self._tools, self._seconds = {tool.name: tool.function for tool in tools}, seconds

    def answer(self, call: Call) -> Answered:
        """The result of a call, or what was wrong with it. Whatever a tool raises is for whoever called it; but
        Unavailable, which the sandbox of programs raises, goes on: that is the machine's fault, and no call's."""
        fault = fault_of(call, self._tools)
        if fault:
            return told_error(fault)
        function = self._tools[call.name]
        given = _read(function, call.arguments) if call.spelled else call.arguments
        fault = _misfit(call.name, function, call.positional, given)
        if fault:
            return told_error(fault)
        work = functools.partial(function, *call.positional, **given)
        return _within(lambda: _run(work), self._seconds) if self._seconds else _run(work)


def _misfit(name: str, function: Callable[..., Any], positional: Sequence[Any], given: Mapping[str, Any]) -> str:
    """Why a function does not take these arguments; empty if it does."""
    try:
        parameters = inspect.signature(function).parameters
        inspect.signature(function).bind(*positional, **given)
    except TypeError as error:
        return f"{name}: {error}"
    except ValueError:  # written in C, without a signature: the call will show
        return ""
    return _mistyped(function, {**dict(zip(parameters, positional, strict=False)), **given})


KINDS: Mapping[type, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    bool: (bool,),
    list: (list,),
    dict: (dict,),
}
"""What JSON gives for a parameter of a plain type."""


def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return inspect.get_annotations(inspect.unwrap(function), eval_str=True)
    except Exception:  # a hint may name anything
        return {}


def _read(function: Callable[..., Any], spelled: Mapping[str, str]) -> dict[str, Any]:
    """Arguments from texts: a parameter of texts is given its own as it is, any other the value that it spells."""
    hints = _hints(function)
    texts = {name for name, hint in hints.items() if hint is str or str in get_args(hint)}
    return {name: text if name in texts else value_spelled(text) for name, text in spelled.items()}


def value_spelled(text: str) -> Any:
    """As JSON, or as Python; text that is neither is itself."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def arguments_given(call: Call, tool: Tool | None) -> dict[str, Any]:
    """What a call gives a tool that is called elsewhere, by name, as the tool's schema has it."""
    properties = (tool.schema or {}).get("function", {}).get("parameters", {}).get("properties", {}) if tool else {}
    given: dict[str, Any] = {**dict(zip(properties, call.positional, strict=False)), **call.arguments}
    if not call.spelled:
        return given
    kinds = {name: each.get("type") for name, each in properties.items() if isinstance(each, Mapping)}
    return {name: text if kinds.get(name) == "string" else value_spelled(text) for name, text in given.items()}


def _mistyped(function: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
    """The first argument that is not of its parameter's plain type; other hints are the tool's own affair."""
    hints = _hints(function)
    for name, value in arguments.items():
        kinds = KINDS.get(hints.get(name, object))
        if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            return f"{getattr(function, '__name__', 'tool')}: {name} must be {hints[name].__name__}, not {value!r:.40}"
    return ""


def _run(work: Callable[[], Any]) -> Answered:
    try:
        found = work()
        if inspect.iscoroutine(found):
            found = asyncio.run(found)
        return Answered(str(found)[:MOST_SAID], failed=False)  # as TRL shows it
    except Unavailable:
        raise
    except BaseException as error:
        unless_interrupted(error)
        return told_error(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _within(work: Callable[[], Answered], seconds: float) -> Answered:
    found: Future[Answered] = Future()

    def call() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # for whoever waits
            found.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return found.result() if wait([found], seconds).done else told_error(f"it took longer than {seconds:g} s")


def fault_of(call: Call, tools: Collection[str]) -> str:
    """Why a call cannot be handed to any of these tools; empty if it can."""
    if call.fault or call.name in tools:
        return call.fault
    return f"there is no tool {call.name!r}; there are {', '.join(tools)}"


def told_error(what: str) -> Answered:
    """An error as whoever called is told it."""
    return Answered(json.dumps({"error": what[:MOST_SAID]}), failed=True)
