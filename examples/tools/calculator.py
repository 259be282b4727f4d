"""A tool and a reward, written as TRL wants them: the same file works there (``tools=[calculate]``)."""

import ast
import operator
from typing import Any

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def calculate(expression: str) -> str:
    """
    Work out a sum.

    Args:
        expression: Whole numbers with +, -, * or / between them.

    Returns:
        The result.
    """
    return f"{value_of(ast.parse(expression, mode='eval').body):g}"


def value_of(node: ast.expr) -> float:
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return float(OPERATORS[type(node.op)](value_of(node.left), value_of(node.right)))
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    raise ValueError("only whole numbers with +, -, * or / between them")


def right(completions: list[list[dict[str, Any]]], answer: list[str], **kwargs: Any) -> list[float]:
    """1 where the last turn is the answer; completions are whole conversations."""
    return [float(chat[-1]["content"].strip() == str(a)) for chat, a in zip(completions, answer, strict=True)]
