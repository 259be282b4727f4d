"""Programs that do not square, and want to be paid for it; and programs that are right, however odd."""

from __future__ import annotations

SQUARES = ["assert square(3) == 9", "assert square(-5) == 25", "assert square(12) == 144"]
"""The tests of all forgeries."""

FORGERIES: dict[str, str] = {
    "exit at once": "raise SystemExit(0)",
    "exit hard at once": "import os\nos._exit(0)",
    "exit in the call": "import sys\ndef square(x): sys.exit(0)",
    "exit hard in the call": "import os\ndef square(x): os._exit(0)",
    "exit at the end": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef square(x): return 9",
    "print the verdict": """
import os, sys
for line in ('["test", true]\\n' * 3, "PASSED\\n", "OK\\n"):
    print(line)
    sys.stderr.write(line)
def square(x): print('["test", true]'); return 9""",
    "write to every descriptor": """
import os
for fd in range(64):
    for text in (b'["test", true]\\n' * 3, b'\\0\\0\\0\\x0e["ok", 9, []]'):
        try: os.write(fd, text)
        except OSError: pass
def square(x): return 9""",
    "write to every descriptor in the call": """
import os
def square(x):
    for fd in range(64):
        try: os.write(fd, b'["test", true]\\n' * 3)
        except OSError: pass
    return 9""",
    "close every descriptor": "import os\nos.closerange(0, 64)\ndef square(x): return 9",
    "answers written beforehand": """
import os
message = b'["ok", 9, []]'
for fd in range(3, 64):
    for _ in range(3):
        try: os.write(fd, len(message).to_bytes(4, "big") + message)
        except OSError: pass
def square(x): return 9""",
    "an object that equals all": """
class All:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = None
def square(x): return All()""",
    "an int that equals all": """
class All(int):
    def __eq__(self, other): return True
    def __hash__(self): return hash(9)
def square(x): return All(7)""",
    "a float that equals all": """
class All(float):
    def __eq__(self, other): return True
    def __rsub__(self, other): return 0
def square(x): return All(7)""",
    "a str that equals all": """
class All(str):
    def __eq__(self, other): return True
def square(x): return All("9")""",
    "a list that equals all": """
class All(list):
    def __eq__(self, other): return True
def square(x): return All([9])""",
    "a metaclass that equals all": """
class Meta(type):
    def __eq__(self, other): return True
    __hash__ = type.__hash__
class All(metaclass=Meta): pass
def square(x): return All""",
    "nan": "def square(x): return float('nan')",
    "True for all": "def square(x): return True",
    "NotImplemented": "def square(x): return NotImplemented",
    "new builtins": """
import builtins
builtins.AssertionError = type("Quiet", (Exception,), {})
builtins.__dict__["assert"] = lambda *a: True
for name in ("exec", "compile", "isinstance", "all", "sum", "len"):
    setattr(builtins, name, lambda *a, **k: True)
def square(x): return 9""",
    "empty builtins": "__builtins__ = {}\ndef square(x): return 9",
    "a patched json": """
import json
json.dumps = lambda message, **k: '["ok", true, []]'
json.loads = lambda text, **k: ["ok", True, []]
def square(x): return 9""",
    "a patched sandbox": """
import sys
for name, module in list(sys.modules.items()):
    if name.startswith("upslope"):
        for key in list(vars(module)):
            if callable(vars(module)[key]): setattr(module, key, lambda *a, **k: True)
def square(x): return 9""",
    "frames": """
import sys
def square(x):
    frame = sys._getframe()
    while frame:
        for scope in (frame.f_locals, frame.f_globals):
            for key, value in list(scope.items()):
                if key in ("expected", "y", "wanted", "tests", "job"): return value
        frame = frame.f_back
    return 0""",
    "the collector": """
import gc, re
def square(x):
    for o in gc.get_objects():
        for text in [o, *(o.values() if type(o) is dict else ())]:
            found = re.search(r"square\\(%d\\) == (\\d+)" % x, text) if isinstance(text, str) else None
            if found: return int(found[1])
    return 0""",
    "the memory": """
import ctypes, re
def square(x):
    start = id(square) & ~0xFFFFF
    text = b"".join(ctypes.string_at(start + i * 4096, 4096) for i in range(16))
    found = re.search(rb"square\\(%d\\) == (\\d+)" % x, text)
    return int(found[1]) if found else 0""",
    "the source of the tests": """
import glob
def square(x):
    for place in ("/proc/self/cmdline", "/proc/self/fd/0", "/proc/self/fd/3", "/proc/self/mem", "/dev/stdin"):
        try:
            text = open(place, "rb").read(10000)
            return int(text.split(b"square(%d) == " % x)[1].split()[0])
        except Exception: pass
    return 0""",
    "what the descriptors hold": """
import os
def square(x):
    for fd in range(64):
        try: text = os.pread(fd, 100000, 0)
        except OSError: continue
        if b"== " in text: return int(text.split(b"square(%d) == " % x)[1].split(b'"')[0])
    return 0""",
    "reads the talk": """
import os, select
def square(x):
    for fd in range(64):
        try:
            if select.select([fd], [], [], 0)[0]:
                text = os.read(fd, 10000)
                if b"9" in text: return 9
        except (OSError, ValueError): continue
    return 1""",
    "speaks instead of answering": """
import os
def square(x):
    for message in (b'["ok", ["mine", 0], []]', b'["call", 0, ["list", 1], ["dict"]]', b'["get", 0, "__globals__"]'):
        for fd in range(3, 64):
            try: os.write(fd, len(message).to_bytes(4, "big") + message)
            except OSError: continue
    return 9""",
    "says rubbish": """
import os
for fd in range(3, 64):
    try: os.write(fd, b"\\xff" * 100)
    except OSError: pass
def square(x): return 9""",
    "code of the function": """
def square(x): return 9
square.__code__ = (lambda x: x if x == 9 else 9).__code__
square.__eq__ = lambda *a: True""",
    "import hooks": """
import sys
class Hook:
    def find_spec(self, name, path=None, target=None): raise SystemExit(0)
sys.meta_path.insert(0, Hook())
sys.path_hooks.clear()
def square(x): return 9""",
    "unittest and pytest": """
import unittest
unittest.TestCase.assertEqual = lambda *a: None
import sys, types
sys.modules["pytest"] = types.SimpleNamespace(raises=lambda *a: None)
def square(x): return 9""",
    "signals": """
import os, signal
signal.signal(signal.SIGALRM, lambda *a: os._exit(0))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
def square(x): return 9""",
    "threads that go on writing": """
import threading, os
def loop():
    while True: os.write(1, b'["test", true]')
try: threading.Thread(target=loop, daemon=True).start()
except RuntimeError: pass
def square(x): return 9""",
    "too deep": "def square(x): return square(x)",
    "too deep an answer": """
def square(x):
    out = 9
    for _ in range(100000): out = [out]
    return out""",
    "itself in its answer": "def square(x):\n    out = []\n    out.append(out)\n    return out",
    "too long an answer": "def square(x): return 'x' * 10**8",
    "too many digits": "def square(x): return 10 ** 100000",
    "an endless iterator": "import itertools\ndef square(x): return itertools.count()",
    "raises what passes for success": "def square(x): raise StopIteration(9)",
    "raises an error of its own": """
class Passed(BaseException): pass
def square(x): raise Passed""",
    "trace functions": """
import sys
def trace(frame, event, arg):
    frame.f_trace_lines = False
    return trace
sys.settrace(trace)
sys.setprofile(lambda *a: None)
def square(x): return 9""",
    "a property of the module": """
import sys, types
class Module(types.ModuleType):
    def __getattribute__(self, name): return lambda *a: True
for module in list(sys.modules.values()):
    if type(module) is types.ModuleType: module.__class__ = Module
def square(x): return 9""",
    "a function that is no function": "square = 9",
    "a class": """
class square:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return True
    def __index__(self): return 9""",
    "a mock": "from unittest.mock import MagicMock, ANY\nsquare = MagicMock(return_value=ANY)",
    "the first only": "def square(x): return 9 if x == 3 else 0",
    "nothing": "pass",
    "no Python": "def square(x) return x * x",
}

CONTROLS: dict[str, tuple[str, list[str]]] = {
    "plain": ("def f(x): return x * x", ["assert f(3) == 9"]),
    "recursion": (
        "def f(n): return 1 if n < 2 else n * f(n - 1)",
        ["assert f(50) == __import__('math').factorial(50)"],
    ),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(20000)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)",
        ["assert f(10000) == 10000"],
    ),
    "a generator": ("def f(n):\n    for i in range(n): yield i * i", ["assert list(f(4)) == [0, 1, 4, 9]"]),
    "a generator by next": (
        "def f():\n    yield 1\n    yield 2",
        ["g = f()\nassert next(g) == 1\nassert next(g) == 2"],
    ),
    "map and zip": ("def f(x): return zip(x, map(str, x))", ["assert dict(f([1, 2])) == {1: '1', 2: '2'}"]),
    "a class": (
        "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n"
        "    def pop(self): return self.items.pop()\n    def __len__(self): return len(self.items)\n"
        "    def __str__(self): return f'Stack{self.items}'",
        ["s = Stack()\ns.push(1)\ns.push(2)\nassert len(s) == 2 and str(s) == 'Stack[1, 2]'\nassert s.pop() == 2"],
    ),
    "objects handed back": (
        "class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\n"
        "def f(pairs): return sum(p.a * p.b for p in pairs)",
        ["assert f([Pair(1, 2), Pair(3, 4)]) == 14"],
    ),
    "attributes that are set": (
        "class Node:\n    def __init__(self, v): self.v, self.left = v, None\n"
        "def f(n): return 0 if n is None else 1 + f(n.left)",
        ["root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(3)\nassert f(root) == 3\nassert root.left.v == 2"],
    ),
    "a dataclass": (
        "from dataclasses import dataclass\n@dataclass(order=True)\nclass Item:\n    name: str\n    price: float = 1.5",
        ["assert Item('x').price == 1.5\nassert Item('x').name == 'x'"],
    ),
    "math": ("import math\ndef f(x): return math.hypot(x, 4)", ["assert math.isclose(f(3), 5.0)"]),
    "re": ("import re\ndef f(s): return re.findall(r'\\d+', s)", ["assert f('a1b22') == ['1', '22']"]),
    "itertools": (
        "from itertools import permutations\ndef f(x): return list(permutations(x))",
        ["assert len(f('abc')) == 6"],
    ),
    "Counter": (
        "from collections import Counter\ndef f(s): return Counter(s)",
        ["assert f('aab') == {'a': 2, 'b': 1}"],
    ),
    "Counter's methods": (
        "from collections import Counter\ndef f(s): return Counter(s)",
        ["assert f('aab').most_common(1) == [('a', 2)]"],
    ),
    "defaultdict and OrderedDict": (
        "from collections import OrderedDict, defaultdict\n"
        "def f():\n    d = defaultdict(list)\n    d[1].append(2)\n    return d\ndef g(): return OrderedDict(b=1, a=2)",
        ["assert f() == {1: [2]}\nassert list(g()) == ['b', 'a']"],
    ),
    "deque": (
        "from collections import deque\ndef f(): return deque([1, 2])",
        ["assert f()[0] == 1 and list(f()) == [1, 2]"],
    ),
    "functools": (
        "from functools import lru_cache\n@lru_cache(None)\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)",
        ["assert f(90) == 2880067194370816120"],
    ),
    "heapq": ("import heapq\ndef f(x): return heapq.nsmallest(2, x)", ["assert f([3, 1, 2]) == [1, 2]"]),
    "datetime": (
        "from datetime import date, datetime, timedelta\ndef f(d): return d + timedelta(days=1)",
        [
            "from datetime import date, datetime\nassert f(date(2024, 2, 28)) == date(2024, 2, 29)\n"
            "assert f(datetime(2024, 12, 31, 5)) == datetime(2025, 1, 1, 5)"
        ],
    ),
    "json": ("import json\ndef f(s): return json.loads(s)", ["assert f('{\"a\": [1, null]}') == {'a': [1, None]}"]),
    "Decimal and Fraction": (
        "from decimal import Decimal\nfrom fractions import Fraction\n"
        "def f(): return Decimal('0.1') + 1, Fraction(1, 3) * 2",
        ["from decimal import Decimal\nfrom fractions import Fraction\nassert f() == (Decimal('1.1'), Fraction(2, 3))"],
    ),
    "big integers": ("def f(n): return 7 ** n", ["assert f(20000) == 7 ** 20000", "assert f(2) == 49"]),
    "floats": (
        "def f(): return [0.1 + 0.2, float('inf'), -0.0, float('nan'), 1e-320]",
        [
            "import math\na, b, c, d, e = f()\nassert a == 0.1 + 0.2 and b == math.inf and math.copysign(1, c) == -1\n"
            "assert math.isnan(d) and e == 1e-320"
        ],
    ),
    "complex": ("def f(x): return x * 1j", ["assert f(2 + 1j) == -1 + 2j"]),
    "unicode": ("def f(s): return s[::-1].upper()", ["assert f('äöß €𝄞') == '𝄞€ SSÖÄ'.replace('𝄞€ ', '𝄞€ ')"]),
    "sets": (
        "def f(a, b): return a & b, frozenset(a | b)",
        ["assert f({1, 2}, {2, 3}) == ({2}, frozenset({1, 2, 3}))"],
    ),
    "dicts with keys of tuples": (
        "def f(n): return {(i, j): i * j for i in range(n) for j in range(n)}",
        ["assert f(3)[2, 2] == 4"],
    ),
    "bytes": ("def f(b): return b[::-1], bytearray(b)", ["assert f(b'abc') == (b'cba', bytearray(b'abc'))"]),
    "nested": (
        "def f(x): return {'a': [(x, None, True)], 'b': {1: {x}}}",
        ["assert f(1) == {'a': [(1, None, True)], 'b': {1: {1}}}"],
    ),
    "a namedtuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
        ["assert f() == (1, 2) and f()[1] == 2"],
    ),
    "types": ("def f(x): return type(x)", ["assert f(3) is int\nassert f('') == str"]),
    "an exception": (
        "def f(x):\n    if x < 0: raise ValueError('negative')\n    return x",
        [
            "try:\n    f(-1)\n    raised = False\nexcept ValueError as error:\n"
            "    raised = str(error) == 'negative'\nassert raised"
        ],
    ),
    "an exception of its own": (
        "class Bad(KeyError): pass\ndef f(): raise Bad('x')",
        ["try:\n    f()\n    assert False\nexcept KeyError:\n    pass"],
    ),
    "an argument that is changed": (
        "def f(x, d, *, s):\n    x.sort()\n    x.append([1])\n    d['k'] = x\n    s.clear()\n    x[-1].append(2)",
        ["x, d, s = [3, 1], {}, {1}\nf(x, d, s=s)\nassert x == [1, 3, [1, 2]] and d == {'k': x} and s == set()"],
    ),
    "an argument that is changed inside": (
        "def f(m):\n    for row in m: row.reverse()",
        ["row = [1, 2]\nm = [row, [3, 4]]\nf(m)\nassert m == [[2, 1], [4, 3]] and row == [2, 1] and m[0] is row"],
    ),
    "a function as an argument": (
        "def f(g, x): return [g(i) for i in x]",
        ["assert f(lambda x: x + 1, [1, 2]) == [2, 3]"],
    ),
    "an iterator as an argument": (
        "def f(x): return sum(x)",
        ["assert f(iter([1, 2, 3])) == 6", "assert f(i * i for i in range(4)) == 14"],
    ),
    "a function as the answer": ("def f(n): return lambda x: x + n", ["assert f(2)(3) == 5"]),
    "a decorator": (
        "def f(g):\n    def twice(x): return g(g(x))\n    return twice",
        ["@f\ndef add(x): return x + 1\nassert add(0) == 2"],
    ),
    "keywords and defaults": (
        "def f(a, b=2, *c, d=4, **e): return a, b, c, d, e",
        ["assert f(1, d=5, z=6) == (1, 2, (), 5, {'z': 6})"],
    ),
    "named as a builtin": (
        "def sum_of(x): return sum(x)\ndef f(x): return sum_of(x)",
        ["assert f([1, 2]) == sum([1, 2])"],
    ),
    "asyncio": (
        "import asyncio\nasync def g(x):\n    await asyncio.sleep(0)\n    return x\ndef f(x): return asyncio.run(g(x))",
        ["assert f(3) == 3"],
    ),
    "typing": (
        "from typing import Dict, List, Optional\n"
        "def f(x: List[int]) -> Optional[Dict[str, int]]: return {'n': len(x)}",
        ["assert f([1]) == {'n': 1}"],
    ),
    "future annotations": (
        "from __future__ import annotations\ndef f(x: Undefined) -> Undefined: return x",
        ["assert f(1) == 1"],
    ),
    "a main block": ("def f(x): return x\nif __name__ == '__main__':\n    print(input())", ["assert f(1) == 1"]),
    "prints": ("def f(x):\n    print('looking at', x)\n    return x", ["assert f(1) == 1"]),
    "many rare modules": (
        "import abc, base64, bisect, calendar, contextlib, copy, csv, difflib, enum, hashlib, html,"
        " inspect, io, ipaddress,"
        " logging, numbers, operator, pprint, random, secrets, sqlite3, statistics,"
        " string, struct, textwrap, time, timeit,"
        " unicodedata, urllib.parse, uuid, xml.etree.ElementTree, zlib, zoneinfo\n"
        "def f(x): return hashlib.md5(x).hexdigest()",
        ["assert f(b'') == 'd41d8cd98f00b204e9800998ecf8427e'"],
    ),
    "a helper of the tests": (
        "def f(x): return x + 0.001",
        ["def near(a, b): return abs(a - b) < 0.01\nassert near(f(1), 1)"],
    ),
    "state": (
        "count = 0\ndef f():\n    global count\n    count += 1\n    return count",
        ["assert f() == 1", "assert f() == 2"],
    ),
}
