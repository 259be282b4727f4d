"""What it costs to check an attempt of task code: the latency of one check, and checks a second with all workers.

    python benchmarks/sandbox.py [CHECKS]

A check is a small function with three asserts, or a script with one pair of input and output. Latency is of one check
at a time (median and the middle eighty of a hundred). Checks a second are of batches spread over one worker a core, as
a step spreads its attempts, without and with the start of the sandbox, which a batch pays once.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from upslope.tasks.code_task import CodeTask
from upslope.tasks.sandbox.pool import Limits, Sandbox, Zygote, workers_for

FUNCTION = "def square(x):\n    return x * x\n"
ROW = {
    "prompt": "Square.",
    "id": "x",
    "tests": ["assert square(2) == 4", "assert square(3) == 9", "assert square(0) == 0"],
}
SCRIPT = "print(int(input()) ** 2)\n"


def latency(check: Callable[[], object], checks: int) -> str:
    """Milliseconds of one check at a time."""
    check()
    seconds = []
    for _ in range(checks):
        begin = time.perf_counter()
        check()
        seconds.append(time.perf_counter() - begin)
    tenths = statistics.quantiles(seconds, n=10)
    return f"{1e3 * statistics.median(seconds):.1f} ms ({1e3 * tenths[0]:.1f} to {1e3 * tenths[-1]:.1f})"


def main() -> None:
    checks = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    task, limits = CodeTask((), {}, Limits()), Limits()
    problem = task.build(ROW, "x")
    job = {"before": [], "names": ["square"], "after": [], "tests": ROW["tests"], "all": False}
    zygote = Zygote(limits)
    print(f"one function: {latency(lambda: zygote.judge(FUNCTION, job), checks)}")
    print(f"one script:   {latency(lambda: zygote.run(SCRIPT, '3'), checks)}")
    zygote.close()
    workers = workers_for(checks)
    with Sandbox(limits, workers) as sandbox:
        begin = time.perf_counter()
        sandbox.map(lambda each, _: each.judge(FUNCTION, job), range(checks))
        print(f"{workers} workers:    {checks / (time.perf_counter() - begin):.0f} functions a second")
    begin = time.perf_counter()
    scores = task.score([problem] * checks, [FUNCTION] * checks)
    assert all(score.reward == 1 for score in scores)
    print(f"a batch:      {checks / (time.perf_counter() - begin):.0f} a second, {checks} attempts and the start")


if __name__ == "__main__":
    main()
