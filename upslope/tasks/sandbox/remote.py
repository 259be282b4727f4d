"""An object of the other process, as it is seen in this one: it can do here what it can do there, and no more."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol


class Asked(Protocol):
    """Who asks the other process (``upslope.tasks.sandbox.peer``)."""

    opened: bool

    def ask(self, target: Any, what: str, *arguments: Any) -> Any: ...


class Remote:
    """An object of the other process. What it can do there is in its class here: ``remote_kind``.

    It equals nothing but itself, and has no operators and no order: asked, the program could say that it equals
    anything. Attributes and ``str`` it has only if the peer is ``opened``: if the tests name a class of the program.
    """

    __slots__ = ("_peer", "_reference")

    def __init__(self, peer: Asked, reference: int | str) -> None:
        for name, value in (("_peer", peer), ("_reference", reference)):
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        self._require_opened(name)
        return self._peer.ask(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._require_opened(name)
        self._peer.ask(self, "set", name, value)

    def __bool__(self) -> bool:
        return self._peer.ask(self, "bool") is True

    def __str__(self) -> str:
        return str(self._peer.ask(self, "str")) if self._peer.opened else object.__repr__(self)

    def __repr__(self) -> str:
        return str(self._peer.ask(self, "repr")) if self._peer.opened else object.__repr__(self)

    def _require_opened(self, name: str) -> None:
        if not self._peer.opened or name.startswith("__"):
            raise AttributeError(f"an object of the program has no {name!r} here: compare values, or name its class")


class _Callable(Remote):
    __slots__ = ()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._peer.ask(self, "call", list(arguments), named)


class _Iterable(Remote):
    __slots__ = ()

    def __iter__(self) -> Any:
        return self._peer.ask(self, "iter")


class _Iterator(Remote):
    __slots__ = ()

    def __next__(self) -> Any:
        return self._peer.ask(self, "next")


class _Sized(Remote):
    __slots__ = ()

    def __len__(self) -> int:
        return int(self._peer.ask(self, "len"))


class _Items(Remote):
    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        return self._peer.ask(self, "item", key)


class _ItemsThatAreSet(Remote):
    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        self._peer.ask(self, "set item", key, value)


_ABILITIES: dict[str, tuple[str, type[Remote]]] = {
    "c": ("__call__", _Callable),
    "i": ("__iter__", _Iterable),
    "n": ("__next__", _Iterator),
    "l": ("__len__", _Sized),
    "g": ("__getitem__", _Items),
    "s": ("__setitem__", _ItemsThatAreSet),
}


def abilities_of(value: Any) -> str:
    """What an object can do, a letter each.

    >>> abilities_of(iter([])), abilities_of(print), abilities_of(object())
    ('in', 'c', '')
    """
    found: dict[str, Any] = {}
    for kind in reversed(type(value).__mro__):  # not getattr: a class can be called, its objects perhaps not
        found |= vars(kind)
    return "".join(letter for letter, (method, _) in _ABILITIES.items() if found.get(method) is not None)


@cache
def remote_kind(abilities: str) -> type[Remote]:
    """The class of remote objects that can do so much."""
    kinds = [kind for letter, (_, kind) in _ABILITIES.items() if letter in abilities]
    return type("Remote", (*kinds, Remote), {"__slots__": ()})
