"""Which part of a response is the program, and what a model is told about how to answer.

1.  **Block.** The last block fenced by three or more backticks or tildes that is marked ``python`` (``py``, ``py3``,
    ``python3.11``, ``python:main.py``) is the program; if none is, the last without a mark. Is it not closed, since the
    attempt was cut off, it goes to the end. Blocks of another language do not count. A block in an item of a list
    loses the indent of its fence.
2.  **No block.** Then the whole response is the program, as it stands.
3.  **Completion.** Where the problem is the beginning of a function, a program that has a line ``def NAME`` of that
    function's name, at the margin, is whole: the beginning's imports and helpers go before it. Any other continues the
    beginning, on a line of its own; if its first line is not indented, all of it is indented by four spaces, or the
    first line alone if only that makes Python.
4.  A response without a program (it is blank) has no answer, and is not run.
"""

from __future__ import annotations

import ast
import re
import textwrap

FUNCTION = "Answer with Python code in one ```python block."
"""What every prompt ends with, unless the option ``instruction`` says otherwise."""
SCRIPT = "Answer with a Python program that reads standard input and writes standard output, in one ```python block."
COMPLETE = "Complete this function. Answer with all of it in one ```python block."

_FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<mark>[^\s`~]*)[^\n`]*\n"
    r"(?P<code>.*?)(?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)",
    re.DOTALL | re.MULTILINE,
)
_MARK = re.compile(r"\{?\.?(python|py)[\d.]*([:,=}].*)?", re.IGNORECASE)


def program_in(response: str) -> str | None:
    """The program that a response holds, or None (rules 1, 2 and 4).

    >>> program_in("Like this:\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1\\n'
    >>> program_in("x = 1"), program_in(" \\n")
    ('x = 1', None)
    """
    response = response.removeprefix("\ufeff").replace("\r\n", "\n")
    blocks = list(_FENCE.finditer(response))
    marked = [block for block in blocks if _MARK.fullmatch(block["mark"])]
    found = marked or [block for block in blocks if not block["mark"]]
    program = _without_indent(found[-1]["code"], found[-1]["indent"]) if found else response
    return program if program.strip() else None


def _without_indent(code: str, indent: str) -> str:
    """Code without the indent of its fence, if all of it has that."""
    lines = code.split("\n")
    if not all(line.startswith(indent) for line in lines if line.strip()):
        return code
    return "\n".join(line.removeprefix(indent) for line in lines)


def completed(beginning: str, name: str, program: str) -> str:
    """The program that a completion makes of the beginning of a function (rule 3).

    >>> completed("def one():\\n", "one", "return 1")
    'def one():\\n    return 1'
    >>> completed("import math\\ndef one():\\n    'One.'\\n", "one", "def one(): return 1")
    "import math\\ndef one():\\n    'One.'\\n    pass\\n\\ndef one(): return 1"
    """
    if re.search(rf"^(?:async )?def {re.escape(name)}\b", program, re.MULTILINE):
        return f"{with_body(beginning)}\n{program}"
    beginning = beginning if beginning.endswith("\n") else f"{beginning}\n"
    first = next(line for line in program.split("\n") if line.strip())
    if first[0].isspace():
        return beginning + program
    wholes = [beginning + textwrap.indent(program, "    "), f"{beginning}    {program.lstrip()}"]
    return next((whole for whole in wholes if _is_python(whole)), wholes[0])


def _is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def with_body(beginning: str) -> str:
    """The beginning of a function as code that does nothing, with the depth of its last line.

    >>> with_body("def one():")
    'def one():\\n    pass\\n'
    """
    last = beginning.rstrip().rpartition("\n")[2]
    depth = last[: len(last) - len(last.lstrip())] or "    "
    return f"{beginning.rstrip()}\n{depth}pass\n"


def fenced(code: str) -> str:
    """Code as a response that shows nothing else."""
    return f"```python\n{code.strip(chr(10))}\n```"
