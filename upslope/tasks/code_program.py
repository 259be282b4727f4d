"""Which part of a response is the program, and what a model is told about how to answer.

1.  **Block.** The last block fenced by three backticks that is marked ``python`` (``py``, ``python3``) or not at all is
    the program. Is it not closed, since the attempt was cut off, it goes to the end. Blocks of another language do not
    count.
2.  **No block.** Then the whole response is the program, as it stands.
3.  **Completion.** Where the problem is the beginning of a function, a program that has a line ``def NAME`` of that
    function's name, at the margin, is whole: the beginning's imports and helpers go before it. Any other continues the
    beginning; if its first line is not indented, all of it is indented by four spaces.
4.  A response without a program (it is blank) has no answer, and is not run.
"""

from __future__ import annotations

import re
import textwrap

FUNCTION = "Answer with Python code in one ```python block."
"""What every prompt ends with, unless the option ``instruction`` says otherwise."""
SCRIPT = "Answer with a Python program that reads standard input and writes standard output, in one ```python block."
COMPLETE = "Complete this function. Answer with all of it in one ```python block."

_FENCE = re.compile(
    r"^ {0,3}```[ \t]*(?P<mark>[^\s`]*)[^\n`]*\n(?P<code>.*?)(?:^ {0,3}```[ \t]*$|\Z)", re.DOTALL | re.M
)
_MARKS = ("python", "py", "python3", "")


def program_in(response: str) -> str | None:
    """The program that a response holds, or None (rules 1, 2 and 4).

    >>> program_in("Like this:\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1\\n'
    >>> program_in("x = 1"), program_in(" \\n")
    ('x = 1', None)
    """
    found = [match["code"] for match in _FENCE.finditer(response) if match["mark"].lower() in _MARKS]
    program = found[-1] if found else response
    return program if program.strip() else None


def completed(beginning: str, name: str, program: str) -> str:
    """The program that a completion makes of the beginning of a function (rule 3).

    >>> completed("def one():\\n", "one", "return 1")
    'def one():\\n    return 1'
    >>> completed("import math\\ndef one():\\n    'One.'\\n", "one", "def one(): return 1")
    "import math\\ndef one():\\n    'One.'\\n    pass\\n\\ndef one(): return 1"
    """
    if re.search(rf"^(?:async )?def {re.escape(name)}\b", program, re.MULTILINE):
        return f"{with_body(beginning)}\n{program}"
    first = next(line for line in program.split("\n") if line.strip())
    indented = program if first[0].isspace() else textwrap.indent(program, "    ")
    return beginning + indented


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
