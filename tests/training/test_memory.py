"""Memory that was freed is kept while it is used again, and given back once it only gathers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from upslope.config import load_settings
from upslope.native.onednn import lays_out
from upslope.training import run
from upslope.training.memory import KERNEL_CACHES, SHAPES_KEPT, SLACK, Keeper, bound_kernel_caches
from upslope.training.start import launch
from upslope.training.view import NullView

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and glibc's malloc")
GB = 2**30


def watched(held: list[int], kinds: list[str]) -> list[bool]:
    """At which of the checks a keeper gave memory back, where so much was held."""
    given: list[bool] = []
    ahead = iter(held)
    keeper = Keeper(resident=lambda: next(ahead), give_back=lambda: given.__setitem__(-1, True))
    for kind in kinds:
        given.append(False)
        keeper.check(kind)
    return given


def test_memory_that_is_used_again_is_kept() -> None:
    assert not any(watched([3 * GB, 4 * GB, 3 * GB, 4 * GB], ["sample", "micro-batch"] * 2))


def test_what_has_gathered_is_given_back_again_and_again() -> None:
    held = [4 * GB, int(4.3 * GB), int(4.5 * GB), 3 * GB, int(3.2 * GB), 4 * GB]
    assert watched(held, ["micro-batch"] * 6) == [False, False, True, False, False, True]


def test_a_little_is_never_given_back() -> None:
    assert not any(watched([GB // 10, GB // 10 + SLACK], ["sample"] * 2))


def test_a_light_piece_of_work_after_giving_back_does_not_set_the_measure() -> None:
    kinds = ["micro-batch", "micro-batch", "record", "sample", "micro-batch", "record", "sample", "micro-batch"]
    held = [4 * GB, 5 * GB, 3 * GB, 3 * GB, 4 * GB, 4 * GB, 4 * GB, 4 * GB]
    assert watched(held, kinds) == [False, True, *[False] * 6]


def test_the_most_is_of_the_time_since_it_was_asked() -> None:
    ahead = iter([3, 5, 4, 2])
    keeper = Keeper(resident=lambda: next(ahead), give_back=lambda: None)
    for kind in "abc":
        keeper.check(kind)
    assert keeper.most() == 5
    keeper.check("d")
    assert (keeper.most(), keeper.most()) == (2, 0)


def test_what_the_environment_says_of_the_caches_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNEL_CACHES[0], "7")
    monkeypatch.delenv(KERNEL_CACHES[1], raising=False)
    bound_kernel_caches()
    assert [os.environ[name] for name in KERNEL_CACHES] == ["7", SHAPES_KEPT]
    monkeypatch.delenv(KERNEL_CACHES[1])


def test_a_run_looks_after_every_piece_of_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KERNEL_CACHES:
        monkeypatch.setenv(name, "")  # so that what the run sets is taken back
        monkeypatch.delenv(name)
    seen: Counter[str] = Counter()

    class Watched(Keeper):
        def check(self, kind: str) -> None:
            seen[kind] += 1
            super().check(kind)

    monkeypatch.setattr(run, "Keeper", lambda: Watched(resident=lambda: 3 * 10**9))
    wanted = ["model=pocket:blank", "steps=2", "problems=2", "recipe.sample.group_size=2", "learn.micro_batch=1"]
    wanted += ["recipe=grpo", "sample.max_tokens=3", "eval.problems=2", "save.every=0"]  # its penalty reaches every row
    folder = launch(load_settings(None, wanted, {"out": str(tmp_path)}), NullView)
    assert (seen["evaluate"], seen["micro-batch"]) == (2, 8)
    assert seen["sample"] == seen["prepare"] == seen["update"] == 2
    rows = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert [row["resident_gb"] for row in rows if row["kind"] == "step"] == [3.0, 3.0]
    assert [os.environ[name] for name in KERNEL_CACHES] == [SHAPES_KEPT] * 2


def in_a_process(code: str) -> Any:
    """What a process with one thread prints, as JSON."""
    env = {k: v for k, v in os.environ.items() if k not in KERNEL_CACHES} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


MAPPED = """
    import json, mmap
    from upslope.training.memory import resident
    tries = []
    for _ in range(5):
        held = [resident()]
        with mmap.mmap(-1, 2**26) as block:
            held.append(resident())
            block.write(b"x" * 2**26)
            held.append(resident())
        tries.append([now - held[0] for now in (*held[1:], resident())])
    print(json.dumps(tries))
"""


@LINUX
def test_resident_memory_is_that_of_this_process() -> None:
    """New pages, which nobody has held before, as long as they are written to. In a process that does nothing else; and
    what others need can take pages of its libraries away meanwhile, but not every time."""
    tries = in_a_process(MAPPED)
    assert any(
        abs(mapped) < 2**20 and abs(written - 2**26) < 2**20 and abs(after) < 2**20 for mapped, written, after in tries
    ), tries


FRAGMENTS = """
    import ctypes, json
    from upslope.training.memory import Keeper, keep_freed_memory, resident
    assert keep_freed_memory()
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.realloc.restype = ctypes.c_void_p
    held, keeper = [], Keeper()
    for turn in range(24):
        size = 2**22 + turn * 2**16  # a little more than any hole that the turns before have left
        blocks = [libc.malloc(ctypes.c_size_t(size)) for _ in range(16)]
        for block in blocks:
            ctypes.memset(block, 1, size)
        for block in blocks:  # all is freed but something small at the beginning of each
            libc.realloc(ctypes.c_void_p(block), ctypes.c_size_t(2**10))
        if {cure}:
            keeper.check("turn")
        held.append(resident())
    print(json.dumps(held))
"""
TURN = 16 * (2**22 + 24 * 2**16)
"""Bytes of the largest turn."""


@LINUX
def test_a_heap_that_fragments_stays_small_only_with_a_keeper() -> None:
    with_cure, without = (in_a_process(FRAGMENTS.format(cure=cure)) for cure in (True, False))
    assert without[-1] - without[0] > 20 * 16 * 2**22, "the heap was meant to fragment"
    assert max(with_cure) - with_cure[0] < SLACK + 2 * TURN


SHAPES = """
    import json, torch
    from upslope.training.memory import bound_kernel_caches, resident
    if {cure}:
        bound_kernel_caches()
    weight, rows = torch.ones(64, 64, dtype=torch.bfloat16), torch.ones(900, 64, dtype=torch.bfloat16)
    held = []
    for num in range(1, 901):
        torch.nn.functional.linear(rows[:num], weight)
        if num % 300 == 0:
            held.append(resident())
    print(json.dumps(held))
"""


@LINUX
@pytest.mark.skipif(not lays_out(), reason="oneDNN has no bfloat16 here")
def test_products_of_ever_other_shapes_take_no_more_memory_only_if_few_are_kept() -> None:
    with_cure, without = (in_a_process(SHAPES.format(cure=cure)) for cure in (True, False))
    assert without[-1] - without[0] > 2 * max(with_cure[-1] - with_cure[0], 2**22), (with_cure, without)
