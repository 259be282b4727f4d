"""What runs in the process of the tests. The program is not in it: what it defines are proxies that ask the other
process, and what they get is plain data, so no object of the program ever takes part in a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from upslope.tasks.sandbox.peer import Peer, Remote, Untestable

Report = Callable[[list[Any]], None]


def run_tests(job: Mapping[str, Any], reads: int, writes: int, report: Report) -> None:
    """Report ``["test", passed]`` for every test in order, and ``["fault", why]`` for one that nothing could pass.

    ``job``: ``before`` and ``after`` are code that the tests rely on, run before and after the ``names`` of the program
    are there; ``tests`` are run one after the other among the same names, and ``all`` of them even if one fails.
    """
    peer = Peer(reads, writes, None)
    names: dict[str, Any] = {"__name__": "tests"}
    sound = all(_passes(code, names, report) for code in job["before"])
    names |= {name: Remote(peer, name, opened=name[:1].isupper()) for name in job["names"]}
    sound = sound and all(_passes(code, names, report) for code in job["after"])
    for test in job["tests"]:
        passed = sound and _passes(test, names, report) and not peer.broken
        report(["test", passed])
        if not (passed or job["all"]):
            return


def _passes(code: str, names: dict[str, Any], report: Report) -> bool:
    try:
        exec(compile(code, "<test>", "exec", dont_inherit=True), names)
    except Untestable as error:
        report(["fault", str(error)])
        return False
    except BaseException:  # whatever comes, the test did not pass
        return False
    return True
