"""What runs in the process of the tests. The program is not in it: what it defines are proxies that ask the other
process, and what they get is plain data, so no object of the program ever takes part in a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any

from upslope.tasks.sandbox.peer import Gone, Peer, Untestable

Report = Callable[[list[Any]], None]


def run_tests(job: Mapping[str, Any], reads: int, writes: int, report: Report) -> None:
    """Report ``["test", passed]`` for every test in order, and ``["fault", why]`` for one that nothing could pass.

    ``job``: ``before`` and ``after`` are code that the tests rely on, run before and after the ``names`` of the program
    are there; ``tests`` are run one after the other among the same names, and ``all`` of them even if one fails.
    """
    peer = Peer(reads, writes, None)
    space: dict[str, Any] = {"__name__": "__main__"}
    alone = not any(_mentions(compile(code, "<test>", "exec"), job["names"]) for code in job["after"])
    sound = all(_passes(code, space, report, must=True) for code in job["before"])
    sound = sound and _brings(peer, job["names"], space)
    sound = sound and all(_passes(code, space, report, must=alone) for code in job["after"])
    for test in job["tests"]:
        passed = sound and _brings(peer, job["names"], space) and _passes(test, space, report) and not peer.broken
        report(["test", passed])
        if not (passed or job["all"]):
            return


def _brings(peer: Peer, names: Sequence[str], space: dict[str, Any]) -> bool:
    """Put what the program's names are now among those of the tests, and say whether there is anybody to ask."""
    for name in names:
        space.pop(name, None)
        try:
            space[name] = peer.named(name)
        except Exception:  # the program has no such name: a test that uses it will say so
            continue
        except Gone:
            return False
    return True


def _mentions(code: CodeType, names: Sequence[str]) -> bool:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return not {*names}.isdisjoint(code.co_names) or any(_mentions(part, names) for part in inner)


def _passes(code: str, space: dict[str, Any], report: Report, must: bool = False) -> bool:
    """Whether code raises nothing; what ``must`` not, since no program has a part in it, is at fault if it does."""
    try:
        exec(compile(code, "<test>", "exec", dont_inherit=True), space)
    except Untestable as error:
        report(["fault", str(error)])
        return False
    except BaseException as error:  # whatever comes, the test did not pass
        if must:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            report(["fault", f"what the tests rely on fails before any program has a part in it ({said:.120})"])
        return False
    return True
