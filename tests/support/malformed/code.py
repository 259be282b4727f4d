"""Code of a user's: reward functions and tasks that are none, break off, or return what nobody can use."""

from __future__ import annotations

from collections.abc import Iterator

from malformed.case import ROWS, TRAIN, Case, lines, unique

OSC = "\\x1b]52;c;aGk=\\x07\\u202e"
FILES: dict[str, tuple[str, str]] = {
    "a syntax error": ("def f(:\n", "SyntaxError"),
    "an unknown module": ("import no_such_module_at_all\n", "no_such_module_at_all"),
    "sys.exit": ("import sys; sys.exit(0)\n", "SystemExit"),
    "an error": ("1 / 0\n", "ZeroDivisionError"),
    "an error of control characters": (f"raise ValueError('{OSC}')\n", "ValueError"),
    "an error of many lines": ("raise ValueError('a\\n' * 9999)\n", "ValueError"),
    "an error of its own": ("class E(BaseException):\n    def __str__(self): return 1 / 0\nraise E\n", "E: "),
    "a recursion": ("def g(): g()\ng()\n", "RecursionError"),
    "no name": ("x = 1\n", "'f'"),
    "nothing": ("", "'f'"),
    "another name": ("def ff(**_): pass\n", "did you mean 'ff'"),
    "bytes": ("\ufeff\x00", "code.py"),
    "no function": ("f = 3\n", "int"),
    "a lone surrogate": ("f = '\ud800'\n", "code.py"),
}
"""Files, and what is said of them."""
RETURNS: dict[str, str] = {
    "too few": "[1.0][:len(completions) - 1]",
    "too many": "[1.0] * (len(completions) + 1)",
    "nothing": "None",
    "None everywhere": "[None] * len(completions)",
    "NaN": "[float('nan')] * len(completions)",
    "infinity": "[float('inf')] * len(completions)",
    "huge numbers": "[10 ** 400] * len(completions)",
    "strings": "['1.0'] * len(completions)",
    "a string": "'1' * len(completions)",
    "lists": "[[1.0]] * len(completions)",
    "complex numbers": "[1j] * len(completions)",
    "a number": "1.0",
    "a generator": "(1.0 for _ in completions)",
    "a dict": "{i: 1.0 for i, _ in enumerate(completions)}",
    "a set": "{1.0}",
    "a map": "map(float, range(len(completions)))",
    "an array": "__import__('numpy').ones(len(completions))",
    "objects that cannot be printed": "[type('O', (), {'__repr__': lambda s: 1 / 0})()] * len(completions)",
    "numbers that are none": "[type('O', (), {'__float__': lambda s: 1 / 0})()] * len(completions)",
    "control characters": f"['{OSC}'] * len(completions)",
    "a coroutine that fails": "wait()",
}
CRASHES: dict[str, str] = {
    "an error": "1 / 0",
    "sys.exit": "import sys; sys.exit(0)",
    "an exit of 70": "raise SystemExit(70)",
    "a generator's exit": "raise GeneratorExit",
    "an error of control characters": f"raise ValueError('{OSC}')",
    "an error that cannot be printed": "raise type('E', (Exception,), {'__str__': lambda s: 1 / 0})",
    "an error whose text exits": "raise type('E', (Exception,), {'__str__': lambda s: exit(0)})",
    "an error of a megabyte": "raise ValueError('x' * 10**6)",
    "an error of surrogates": "raise ValueError('\\ud800')",
    "a group of errors": "raise BaseExceptionGroup('several', [KeyError('a')])",
    "a recursion": "f(completions)",
    "an assertion": "assert False",
    "a missing key": "{}['\\x1b[2J']",
    "a stop of iterations": "next(iter([]))",
    "a lack of memory": "raise MemoryError",
    "a file that is not there": "open('/none/at/all')",
    "a broken pipe": "raise BrokenPipeError",
    "an error of unicode": "b'\\xff'.decode()",
    "a strange cause": "raise ValueError('a') from OSError(28, 'full')",
}
TASK = """
from upslope.types import Problem, Score
def ask(i): return Problem(f"{i}", ({"role": "user", "content": f"Tom has {i} books."},), demonstration="3")
class f:
    def problems(self, split): return [ask(f"{split}/{i}") for i in range(9)]
    def score(self, problems, responses): return [Score(1.0) for _ in responses]
"""
TASKS: dict[str, tuple[str, str]] = {
    "no methods": ("class f: pass", "problems"),
    "no score": ("class f:\n    def problems(self, split): return []", "score"),
    "a number": ("f = 3", "problems"),
    "a module": ("import os as f", "problems"),
    "a function of nothing": ("def f(): return None", "returned nothing"),
    "a function of a number": ("def f(): return 3", "problems"),
    "a function that crashes": ("def f(): 1 / 0", "ZeroDivisionError"),
    "a function that exits": ("def f(): exit(0)", "SystemExit"),
    "a function that needs": ("def f(level): return None", "level"),
    "a class that crashes": (TASK + f"    def __init__(self): raise ValueError('{OSC}')", "ValueError"),
    "an odd name": (TASK + f"    name = '{OSC}'", "name"),
    "a name of a number": (TASK + "    name = 3", "name"),
    "a name that leads away": (TASK + "    name = '../..'", "name"),
    "max_tokens of text": (TASK + "    max_tokens = 'many'", "max_tokens"),
    "max_tokens of -1": (TASK + "    max_tokens = -1", "max_tokens"),
}
HEADS = {
    "problems": "problems(self, split)",
    "score": "score(self, problems, responses)",
    "check_rewards": "check_rewards(self)",
    "episode": "episode(self, problem)",
}
METHODS: dict[str, tuple[str, str]] = {
    "problems: none": ("[]", "problems"),
    "problems: nothing": ("None", "problems"),
    "problems: text": ("'abc'", "problems"),
    "problems: numbers": ("[1, 2]", "problems"),
    "problems: a generator": ("(ask(i) for i in range(9))", "problems"),
    "problems: a crash": ("1 / 0", "ZeroDivisionError"),
    "problems: one id": ("[ask(1)] * 9", "id"),
    "problems: ids of numbers": ("[Problem(3, ask(1).messages)]", "id"),
    "problems: no messages": ("[Problem('a', ())]", "messages"),
    "problems: messages of text": ("[Problem('a', 'abc')]", "messages"),
    "problems: messages of numbers": (
        "[Problem('a', ({'role': 1, 'content': 2},))]",
        "messages",
    ),
    "problems: half a character": (
        "[Problem('a', ({'role': 'user', 'content': '\\ud800'},))]",
        "half a character",
    ),
    "problems: a truth of a number": ("[Problem('a', ask(1).messages, truth=3)]", "truth"),
    "problems: an id of half a character": ("[Problem('\\ud800', ask(1).messages)]", "half a"),
    "score: none": ("[]", "score"),
    "score: nothing": ("None", "score"),
    "score: numbers": ("[1.0 for _ in responses]", "score"),
    "score: NaN": ("[Score(float('nan')) for _ in responses]", "nan"),
    "score: text": ("[Score('1') for _ in responses]", "reward"),
    "score: a crash": ("1 / 0", "ZeroDivisionError"),
    "score: odd steps": ("[Score(1.0, steps=3) for _ in responses]", "step"),
    "score: steps of text": (
        "[Score(1.0, steps=(('a', 'b'),)) for _ in responses]",
        "step",
    ),
    "score: an answer of a number": (
        "[Score(1.0, extracted=3) for _ in responses]",
        "extracted",
    ),
    "score: half a character": (
        "[Score(1.0, extracted='\\ud800') for _ in responses]",
        "extracted",
    ),
    "score: lenient of text": (
        "[Score(1.0, lenient='1') for _ in responses]",
        "lenient",
    ),
    "score: a step of NaN": (
        "[Score(1.0, steps=((1, float('nan')),)) for _ in responses]",
        "step",
    ),
    "check_rewards: a crash": ("exit(0)", "SystemExit"),
    "episode: a number": ("3", "episode"),
    "episode: a crash": ("1 / 0", "episode"),
    "episode: no stops": ("type('E', (), {'stops': (), 'reply': print})()", "stops"),
    "episode: stops of numbers": (
        "type('E', (), {'stops': (1,), 'reply': print})()",
        "stops",
    ),
}


def cases() -> list[Case]:
    return unique([*files(), *rewards(), *tasks()])


def trained(file: str) -> tuple[str, ...]:
    return (*TRAIN, "--data", "data.jsonl", "--reward", f"{file}:f")


def scored(file: str) -> tuple[str, ...]:
    return ("score", "--reward", f"{file}:f", "responses.jsonl")


RESPONSES = {"responses.jsonl": lines([ROWS[0] | {"response": "3"}, ROWS[1] | {"response": "4"}])}


def files() -> Iterator[Case]:
    for name, (content, says) in FILES.items():
        yield Case(f"reward file: {name}", trained("code.py"), says, {"code.py": content})
        task = (*TRAIN, "--task", "code.py:f")
        yield Case(f"task file: {name}", task, says, {"code.py": content})
        slot = (*TRAIN, "recipe.advantage=code.py:f")
        yield Case(f"slot file: {name}", slot, says if name != "no function" else "advantage", {"code.py": content})
    for spec in (
        "mine",
        "mine.py",
        "mine.py:",
        ":f",
        "mine.py:fine:fine",
        "none.py:f",
        ".:f",
        "mine.py:__name__",
        "",
        "\x1b[2J.py:f",
    ):
        yield Case(f"reward: {spec!a}", (*TRAIN, "--data", "data.jsonl", "--reward", spec), "reward")
    twice = (*TRAIN, "--data", "data.jsonl", "--reward", "mine.py:fine", "--reward", "mine.py:fine")
    yield Case("rewards: one twice", twice, "fine")
    for weight in ("nan", "inf", "-inf"):
        yield Case(
            f"reward weight: {weight}", (*trained("mine.py")[:-1], "mine.py:fine", "--reward-weight", weight), "weights"
        )
    yield Case(
        "reward weights: too many", (*trained("mine.py")[:-1], "mine.py:fine", *["--reward-weight", "1"] * 2), "weights"
    )


def rewards() -> Iterator[Case]:
    for name, value in RETURNS.items():
        code = "async def wait(): raise ValueError\ndef f(completions, **_):\n    return " + value + "\n"
        yield Case(f"a reward of {name}", trained("code.py"), "reward", {"code.py": code})
        yield Case(f"scored, a reward of {name}", scored("code.py"), "reward", {"code.py": code} | RESPONSES)
    codes = {"a lack of memory": 3, "a broken pipe": 3}  # the machine's
    for name, body in CRASHES.items():
        code = f"def f(completions, **_):\n    {body}\n    return [1.0] * len(completions)\n"
        yield Case(
            f"a reward that crashes: {name}",
            trained("code.py"),
            "'f' crashed on",
            {"code.py": code},
            code=codes.get(name, 2),
        )
        yield Case(
            f"scored, a crash: {name}",
            scored("code.py"),
            "'f' crashed on",
            {"code.py": code} | RESPONSES,
            code=codes.get(name, 2),
        )
    for name, head in {
        "an unknown column": "completions, level",
        "the trainer's": "completions, trainer_state",
    }.items():
        code = f"def f({head}):\n    return [1.0] * len(completions)\n"
        yield Case(f"a reward that needs {name}", trained("code.py"), head.split()[-1], {"code.py": code})
    sound = "def f(completions):\n    completions.clear()\n    return [True, False]\n"
    yield Case("a reward that empties its arguments", trained("code.py"), files={"code.py": sound}, accepted=True)


def tasks() -> Iterator[Case]:
    words = (*TRAIN, "--task", "code.py:f")
    for name, (content, says) in TASKS.items():
        yield Case(f"task: {name}", words, says, {"code.py": content})
    for name, (value, says) in METHODS.items():
        content = f"{TASK}    def {HEADS[name.partition(':')[0]]}: return {value}\n"
        yield Case(f"task: {name}", words, says, {"code.py": content})
        if name.startswith("score: "):
            row = {"responses.jsonl": lines([{"id": "train/1", "response": "a"}])}
            yield Case(
                f"task, scored: {name}",
                ("score", "--task", "code.py:f", "responses.jsonl"),
                says,
                {"code.py": content} | row,
            )
    shown = (*words, "recipe=sft")
    for name, value in {
        "none": "[]",
        "numbers": "[3]",
        "no text": "[Problem('a', ask(1).messages)]",
        "a crash": "1 / 0",
    }.items():
        content = f"{TASK}    def demonstrations(self): return {value}\n"
        imitated = tuple(word for word in shown if not word.startswith("recipe.sample."))
        yield Case(f"task: demonstrations of {name}", imitated, "demonstrations", {"code.py": content})
    yield Case("task: an option that is none", (*words, "task.options.level=3"), "level", {"code.py": TASK})
    yield Case("task: in order", words, files={"code.py": TASK}, accepted=True)
