"""One end of the talk between the tests and the program: values go over as plain data, other objects as handles.

Both ends ask and answer. The tests' end calls the program's functions; while one runs, the program's end may call back
a function, or take the next item of an iterator, that a test handed to it, and nothing else of the tests' process.
"""

from __future__ import annotations

import builtins
from collections import deque
from collections.abc import Callable
from typing import Any

from upslope.tasks.sandbox.remote import Remote, abilities_of, remote_kind
from upslope.tasks.sandbox.wire import Unplain, decode, encode, read_message, write_message

_CHANGEABLE = (list, dict, set, bytearray, deque)


class Gone(BaseException):
    """The other end is not there any more, or does not speak the language: nothing that it said counts."""


class Untestable(BaseException):
    """A test hands over an object that cannot travel: a fault of the data, not of the program."""


_ANSWERS: dict[str, Callable[..., Any]] = {
    "call": lambda target, arguments, named: target(*arguments, **named),
    "value": lambda target: target,
    "get": getattr,
    "set": setattr,
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "item": lambda target, key: target[key],
    "set item": lambda target, key, value: target.__setitem__(key, value),
    "str": str,
    "repr": repr,
}
_OF_TESTS = ("call", "next", "iter")
"""What the program may ask of an object that a test handed to it."""


class Peer:
    """``names`` are what the other end may speak of by name: the program's globals, or nothing."""

    def __init__(self, reads: int, writes: int, names: dict[str, Any] | None) -> None:
        self._reads, self._writes, self._names = reads, writes, names
        self._objects: list[Any] = []
        self._places: dict[int, int] = {}
        self._remotes: dict[int, Remote] = {}
        self.opened = names is not None
        self.broken = False

    def ask(self, target: Remote, what: str, *arguments: Any) -> Any:
        """The answer of the other end, or the exception that came instead. What it changed in the lists, dicts and so
        on that were handed to it is changed here too. Raises Gone, and always again, once it cannot be believed."""
        told = [self._encode(argument) for argument in arguments]
        try:
            self._write([what, target._reference, *told])
            while True:
                message = self._read()
                if message[0] in ("ok", "raised"):
                    break
                self._answer(message)
            outcome, value, changed = message
            for place, new in changed:
                _graft(arguments[place], self._decode(new))
            found = self._exception(what, *value) if outcome == "raised" else self._decode(value)
        except (Unplain, OSError, LookupError, TypeError, ValueError, RecursionError) as error:
            self.broken = True
            raise Gone(str(error)) from None
        if outcome == "raised":
            raise found
        return found

    def named(self, name: str) -> Any:
        """What the other end calls so: plain data as it is now, or a Remote. Raises NameError if there is none. One
        with a capital, a class, opens all objects of the other end."""
        found = self.ask(Remote(self, name), "value")
        self.opened = self.opened or (name[:1].isupper() and isinstance(found, Remote))
        return found

    def serve(self) -> None:
        """Answer until the other end is gone."""
        try:
            while True:
                self._answer(self._read())
        except (Unplain, OSError):
            return

    def _read(self) -> Any:
        if self.broken:
            raise Unplain("broken before")
        message = read_message(self._reads)
        if not isinstance(message, list) or not message:
            raise Unplain("not a list")
        return message

    def _write(self, message: list[Any]) -> None:
        if self.broken:
            raise Unplain("broken before")
        write_message(self._writes, message)

    def _answer(self, message: list[Any]) -> None:
        what, reference, *told = message
        arguments = [self._decode(item) for item in told]
        try:
            if self._names is None and what not in _OF_TESTS:
                raise TypeError(f"{what!r} is not for the program to ask")
            target = self._referred(reference)
            answer = ["ok", self._encode(_ANSWERS[what](target, *arguments))]
        except Gone:
            raise
        except Untestable:
            if not isinstance(target, type):  # of a class, an object is made whenever the program likes
                raise
            answer = ["raised", ["RuntimeError", self._encode(["it cannot travel"])]]
        except BaseException as error:
            answer = ["raised", self._described(error)]
        self._write([*answer, self._changed(arguments, told)])

    def _changed(self, arguments: list[Any], told: list[Any]) -> list[Any]:
        """The arguments that are not any more what they were, each with its place."""
        try:
            now = [self._encode(argument) for argument in arguments]
        except (RecursionError, Untestable):  # one holds itself by now, or what cannot travel
            return []
        return [[place, new] for place, (new, old) in enumerate(zip(now, told, strict=True)) if new != old]

    def _referred(self, reference: Any) -> Any:
        if isinstance(reference, int):
            return self._objects[reference]
        if self._names is None or reference not in self._names:
            raise NameError(f"name {reference!r} is not defined")
        return self._names[reference]

    def _encode(self, value: Any) -> Any:
        return encode(value, self._handle)

    def _decode(self, data: Any) -> Any:
        def handled(tag: str, reference: Any) -> Any:
            if tag == "theirs":
                return self._referred(reference)
            match tag, reference:
                case "mine", [int(place), str(abilities)]:
                    if place not in self._remotes:  # one object is one here, so that it is itself
                        self._remotes[place] = remote_kind(abilities)(self, place)
                    return self._remotes[place]
            raise Unplain(f"the tag {tag!r:.40}")

        return decode(data, handled)

    def _handle(self, value: Any) -> list[Any]:
        if isinstance(value, Remote) and value._peer is self:
            return ["theirs", value._reference]
        if self._names is None and not callable(value) and not hasattr(value, "__next__"):
            raise Untestable(f"a test hands over a {type(value).__name__}, which cannot travel")
        place = self._places.setdefault(id(value), len(self._objects))
        if place == len(self._objects):
            self._objects.append(value)
        return ["mine", [place, abilities_of(value)]]

    def _described(self, error: BaseException) -> list[Any]:
        """An exception by the nearest class that every Python has, and what it says."""
        named = [kind.__name__ for kind in type(error).__mro__ if getattr(builtins, kind.__name__, None) is kind]
        said = [item if isinstance(item, str | bytes | int | float | None) else str(item) for item in error.args]
        return [named[0], self._encode(said)]

    def _exception(self, what: str, name: str, said: Any) -> BaseException:
        """An exception of the other end, or the nearest that can be made. One that ends an iteration does so only where
        an iterator was asked for its next item: elsewhere it would end a loop of the tests."""
        kind = getattr(builtins, name, None)
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise Unplain(f"the exception {name!r:.40}")
        if issubclass(kind, StopAsyncIteration | GeneratorExit) or (kind is StopIteration and what != "next"):
            return RuntimeError(name)
        arguments = [*self._decode(said)]
        for base in kind.__mro__:
            try:
                made: BaseException = base(*arguments)
                return made
            except (TypeError, ValueError):  # some want more than what they said
                continue
        raise Unplain(f"the exception {name!r:.40}")


def _graft(old: Any, new: Any) -> None:
    """Make what can be changed in place of an argument as it is on the other side."""
    if type(old) is not type(new):
        return
    if isinstance(old, list | tuple) and len(old) == len(new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            if isinstance(before, _CHANGEABLE) and type(before) is type(after):
                _graft(before, after)
            elif isinstance(old, list):
                old[place] = after
    elif isinstance(old, list | bytearray):
        old[:] = new
    elif isinstance(old, dict):
        for key in [*old]:
            if key not in new:
                del old[key]
        for key, after in new.items():
            if isinstance(old.get(key), _CHANGEABLE) and type(old[key]) is type(after):
                _graft(old[key], after)
            else:
                old[key] = after
    elif isinstance(old, set | deque):
        old.clear()
        (old.update if isinstance(old, set) else old.extend)(new)
