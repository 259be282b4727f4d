"""``task.where``: only the training problems whose columns fulfil a condition, such as ``0 < pass_rate < 0.8``.

The language is a small part of Python's: names of columns (and ``id``), numbers, texts, ``true``, ``false`` and
``null``, comparisons (also chained, and ``in`` a list), ``and``, ``or``, ``not`` and brackets. It is read, never run as
code. Text and a number are never compared, not even by ``==``: that is an error. A cell that is missing or null fulfils
no comparison but ``!=`` and ``not in``; ``== null`` and ``!= null`` ask for just that. A column whose name is no name
in Python cannot be asked for.
"""

from __future__ import annotations

import ast
import hashlib
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from upslope.errors import UserError, nearest
from upslope.tasks.around import OtherRows
from upslope.tasks.base import Split, Task
from upslope.types import Problem

LONGEST = 2000
"""Characters of a condition."""

Condition = Callable[[Mapping[str, Any]], bool]

_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
NULL = object()
"""What ``null`` means where it is written; a cell that is null is None."""
_WORDS = {"true": True, "false": False, "null": NULL}


class Where(OtherRows):
    """A task with only those training problems, and demonstrations, that fulfil a condition; all else is the task's."""

    def __init__(self, task: Task, where: str) -> None:
        """Raises UserError for a condition that cannot be read."""
        super().__init__(task)
        self._where = where
        self._holds, self._names = condition(where)

    def problems(self, split: Split) -> Sequence[Problem]:
        return super().problems(split) if split == "train" else self._inner.problems(split)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{super().fingerprint()}\n{self._where}".encode()).hexdigest()

    def made(self, problems: Sequence[Problem], split: Split | None) -> list[Problem]:
        """Raises UserError if none fulfils it, or a column is in none of them."""
        known = dict.fromkeys(["id", *(name for p in problems for name in p.columns)])
        for name in self._names:
            if name not in known:
                raise UserError(
                    f"task.where = {self._where!r}: no problem has a column {name!r}{nearest(name, known)}; "
                    f"they have {', '.join(known)}"
                )
        kept = [p for p in problems if self._holds({**p.columns, "id": p.id})]
        if not kept:
            what = "training problems" if split else "demonstrations"
            raise UserError(f"task.where = {self._where!r}: none of the {len(problems)} {what} fulfils it")
        return kept


def condition(where: str) -> tuple[Condition, tuple[str, ...]]:
    """A condition on a row, and the columns that it reads. Raises UserError if it is none.

    >>> holds, names = condition("0 < pass_rate < 0.8 and level in ['easy', 'hard']")
    >>> holds({"pass_rate": 0.5, "level": "hard"}), holds({"pass_rate": 0.9, "level": "hard"}), names
    (True, False, ('pass_rate', 'level'))
    """
    if len(where) > LONGEST:
        raise UserError(
            f"task.where = {where[:40]!r}... is longer than {LONGEST} characters; select the rows beforehand"
        )
    names: dict[str, None] = {}
    try:
        with warnings.catch_warnings(action="ignore"):  # Python frowns upon a text such as '\d'
            parsed = ast.parse(where.strip(), mode="eval").body
        holds = _truth(parsed, names, where)
        holds({})  # how deep it goes is known now, not at the first row
    except (SyntaxError, ValueError) as error:
        raise UserError(f"task.where = {where!r} cannot be read: {getattr(error, 'msg', error)}") from None
    except (RecursionError, MemoryError):
        raise UserError(f"task.where = {where[:40]!r}... is nested too deeply") from None
    return holds, tuple(names)


def _truth(node: ast.expr, names: dict[str, None], where: str) -> Condition:
    """What a node says of a row, as true or false."""
    if isinstance(node, ast.BoolOp):
        parts = [_truth(part, names, where) for part in node.values]
        every = isinstance(node.op, ast.And)
        return lambda row: (all if every else any)(part(row) for part in parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inside = _truth(node.operand, names, where)
        return lambda row: not inside(row)
    if isinstance(node, ast.Compare):
        return _comparison(node, names, where)
    value = _value(node, names, where)

    def is_true(row: Mapping[str, Any]) -> bool:
        found = value(row)
        if found is None or isinstance(found, bool):
            return bool(found)
        raise UserError(f"task.where = {where!r}: {_text(node)} is {found!r:.60}, not true or false; compare it")

    return is_true


def _comparison(node: ast.Compare, names: dict[str, None], where: str) -> Condition:
    sides = [_value(side, names, where) for side in (node.left, *node.comparators)]
    for op in node.ops:
        if type(op) not in _COMPARE:
            raise UserError(f"task.where = {where!r}: {_text(node)} compares in a way that is not known here")

    def holds(row: Mapping[str, Any]) -> bool:
        values = [side(row) for side in sides]
        return all(
            _compared(op, a, b, f"task.where = {where!r}")
            for op, a, b in zip(node.ops, values, values[1:], strict=False)
        )

    return holds


def _compared(op: ast.cmpop, a: Any, b: Any, where: str) -> bool:
    denied = isinstance(op, ast.NotEq | ast.NotIn)
    if a is NULL or b is NULL:
        if not isinstance(op, ast.Eq | ast.NotEq):
            raise UserError(f"{where}: null can be compared by == and != alone")
        return ((b if a is NULL else a) in (None, NULL)) != denied
    if a is None and isinstance(op, ast.In | ast.NotIn) and isinstance(b, list) and NULL in b:
        return not denied
    if a is None or b is None:
        return denied
    others = b if isinstance(op, ast.In | ast.NotIn) and isinstance(b, list) else [b]
    try:
        if others and all(_unlike(a, other) for other in others):  # Python calls them unequal, of every row
            raise TypeError
        return bool(_COMPARE[type(op)](a, b))
    except TypeError:
        text = isinstance(a, str) != isinstance(b, str)
        hint = "; every cell of a CSV is text, so give numbers as JSONL or Parquet" if text else ""
        raise UserError(f"{where}: {a!r:.60} and {b!r:.60} cannot be compared so{hint}") from None


def _unlike(a: Any, b: Any) -> bool:
    """Whether one is text and the other a number."""
    number = (int, float)
    return (isinstance(a, str) and isinstance(b, number)) or (isinstance(a, number) and isinstance(b, str))


def _value(node: ast.expr, names: dict[str, None], where: str) -> Callable[[Mapping[str, Any]], Any]:
    """A column's cell, a number, a text, or a list of those."""
    if isinstance(node, ast.Name):
        name = node.id
        if name in _WORDS:
            return lambda row: _WORDS[name]
        names[name] = None
        return lambda row: row.get(name)
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        constant = node.value
        return lambda row: constant
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inside = _value(node.operand, names, where)

        def negative(row: Mapping[str, Any]) -> Any:
            found = inside(row)
            if found is None:
                return None
            if isinstance(found, bool) or not isinstance(found, int | float):
                raise UserError(f"task.where = {where!r}: {_text(node)} is minus {found!r:.60}, which is no number")
            return -found

        return negative
    if isinstance(node, ast.List | ast.Tuple):
        items = [_value(item, names, where) for item in node.elts]
        return lambda row: [item(row) for item in items]
    raise UserError(f"task.where = {where!r}: {_text(node)} is no column, number, text or list of these")


def _text(node: ast.expr) -> str:
    return repr(ast.unparse(node))
