"""What a reward's code does to its process and to its arguments stays its own affair."""

from __future__ import annotations

import asyncio
import decimal
import os
import random
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from upslope.errors import UserError
from upslope.plugins.switches import SWITCHES
from upslope.tasks.awaited import all_of
from upslope.tasks.registry import load_rewards, open_task
from upslope.types import Problem

ASKED = [
    Problem(f"toy/{i}", ({"role": "user", "content": "?"},), plain=True, columns={"cell": {"n": [i]}}) for i in range(2)
]


def file(folder: Path, text: str, name: str = "reward") -> str:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return f"{folder / name}.py:r"


def parts(*specs: Any, responses: Any = ("a", "b")) -> Any:
    scores = load_rewards(specs).score(ASKED, responses)
    return [dict(s.parts) if len(specs) > 1 else s.reward for s in scores]


# One loop


def test_what_a_module_makes_for_the_loop_lasts_over_calls() -> None:
    lock, loops = asyncio.Lock(), set()

    async def r(completions: Any) -> list[float]:
        async def one() -> float:
            async with lock:  # two wait for it, so that it is bound to the loop
                await asyncio.sleep(0)
                return 1.0

        loops.add(asyncio.get_running_loop())
        return list(await asyncio.gather(*(one() for _ in completions)))

    rewards = load_rewards([r])
    assert [[s.reward for s in rewards.score(ASKED, ("a", "b"))] for _ in range(2)] == [[1.0, 1.0]] * 2
    assert len(loops) == 1


def test_coroutines_of_several_functions_run_side_by_side() -> None:
    events: dict[str, asyncio.Event] = {}

    async def meets(own: str, other: str) -> list[float]:
        events.setdefault(own, asyncio.Event()).set()
        await asyncio.wait_for(events.setdefault(other, asyncio.Event()).wait(), 20)
        return [1.0, 1.0]

    async def one(completions: Any) -> list[float]:
        return await meets("one", "two")

    async def two(completions: Any) -> list[float]:
        return await meets("two", "one")

    assert parts(one, two) == [{"one": 1.0, "two": 1.0}] * 2


def test_a_coroutine_that_ends_the_process_ends_neither_the_loop_nor_the_run() -> None:
    async def leaves(completions: Any) -> list[float]:
        sys.exit(3)

    async def stays() -> int:
        return 4

    with pytest.raises(UserError, match=r"'leaves' crashed .*SystemExit: 3"):
        parts(leaves)
    assert all_of([stays()]) == [4]


# The process


FLIPS = """
    import decimal, gc, locale, os, random, signal, socket, sys, tempfile, warnings
    import numpy as np
    import torch

    def r(completions, **kwargs):
        os.chdir(tempfile.mkdtemp())
        os.environ["UPSLOPE_TEST"] = "1"
        sys.stdout = open(os.devnull, "w")
        sys.argv = ["x"]
        sys.path.insert(0, "/nowhere")
        sys.setrecursionlimit(5432)
        sys.set_int_max_str_digits(0)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.alarm(100)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        warnings.simplefilter("ignore")
        gc.disable()
        socket.setdefaulttimeout(1.5)
        decimal.getcontext().prec = 3
        random.seed(0)
        np.random.seed(0)
        np.seterr(all="raise")
        torch.manual_seed(0)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_float32_matmul_precision("medium")
        torch.autograd.set_detect_anomaly(True, check_nan=False)
        torch.backends.cudnn.benchmark = True
        {end}
        return [0.0] * len(completions)
"""


@pytest.mark.parametrize("end", ["", "raise ValueError('no')"])
def test_what_a_reward_sets_of_its_process_is_put_back(tmp_path: Path, end: str) -> None:
    rewards = load_rewards([file(tmp_path, FLIPS.replace("{end}", end))])
    before = {switch.name: switch.read() for switch in SWITCHES}
    if end:
        with pytest.raises(UserError, match="ValueError: no"):
            rewards.score(ASKED, ("a", "b"))
    else:
        rewards.score(ASKED, ("a", "b"))
    for switch in SWITCHES:
        assert switch.same(switch.read(), before[switch.name]), switch.name
    assert sys.path[0] != "/nowhere"
    assert torch.empty(1).device.type == "cpu"


def test_what_a_file_sets_while_it_is_loaded_holds_for_its_own_calls(tmp_path: Path) -> None:
    text = """
        import decimal, os, sys
        os.chdir(os.path.dirname(__file__))
        os.environ["UPSLOPE_TEST"] = "7"
        decimal.getcontext().prec = 4
        sys.setrecursionlimit(4321)

        def r(completions):
            with open("right.txt") as file:
                assert file.read() == "yes"
            assert decimal.getcontext().prec == 4 and sys.getrecursionlimit() == 4321
            return [float(os.environ["UPSLOPE_TEST"])] * len(completions)
    """
    (tmp_path / "right.txt").write_text("yes")
    here, limit = Path.cwd(), sys.getrecursionlimit()
    spec = file(tmp_path, text)
    rewards = load_rewards([spec])
    for _ in range(2):
        assert (Path.cwd(), sys.getrecursionlimit(), decimal.getcontext().prec) == (here, limit, 28)
        assert "UPSLOPE_TEST" not in os.environ
        assert [s.reward for s in rewards.score(ASKED, ("a", "b"))] == [7.0, 7.0]


def test_a_handler_that_a_file_sets_is_its_own_and_ctrl_c_stays_the_runs(tmp_path: Path) -> None:
    text = """
        import os, signal
        os.environ["UPSLOPE_TEST"] = "7"
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, print)
        def r(completions):
            assert signal.getsignal(signal.SIGALRM) is print
            assert os.environ["UPSLOPE_LATER"] == "8"
            return [float(signal.getsignal(signal.SIGINT) is not signal.SIG_IGN)] * len(completions)
    """
    rewards = load_rewards([file(tmp_path, text)])
    os.environ["UPSLOPE_LATER"] = "8"  # set since the file was loaded
    try:
        assert [s.reward for s in rewards.score(ASKED, ("a", "b"))] == [1.0, 1.0]
    finally:
        del os.environ["UPSLOPE_LATER"]
    assert "UPSLOPE_TEST" not in os.environ


def test_a_rewards_own_random_numbers_go_on_from_call_to_call() -> None:
    def r(completions: Any) -> list[float]:
        return [random.random() for _ in completions]

    state = random.getstate()
    rewards = load_rewards([r])
    drawn = [[s.reward for s in rewards.score(ASKED, ("a", "b"))] for _ in range(2)]
    assert len({number for pair in drawn for number in pair}) == 4
    assert random.getstate() == state


def test_data_and_rewards_are_found_from_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    file(tmp_path, "import os, tempfile\nos.chdir(tempfile.mkdtemp())\ndef r(completions): return [1.0]\n")
    task = open_task("user", data="rows.jsonl", rewards=["reward.py:r"])
    (problem,) = task.problems("train")[:1]
    assert task.score([problem], ["x"])[0].reward == 1.0


# Files beside each other


def test_two_files_with_helpers_of_one_name_have_each_its_own(tmp_path: Path) -> None:
    text = """
        import helper
        def r(completions):
            import later
            return [float(helper.VALUE + later.VALUE)] * len(completions)
    """
    specs = []
    for value, folder in enumerate(("one", "two"), start=1):
        specs.append(file(tmp_path / folder, text))
        (tmp_path / folder / "helper.py").write_text(f"VALUE = {value}\n")
        (tmp_path / folder / "later.py").write_text(f"VALUE = {10 * value}\n")
    rewards = load_rewards(specs)
    for _ in range(2):
        assert [list(s.parts.values()) for s in rewards.score(ASKED, ("a", "b"))] == [[11.0, 22.0]] * 2


def test_a_file_that_was_edited_is_read_anew(tmp_path: Path) -> None:
    spec = file(tmp_path, "def r(completions): return [1.0] * len(completions)\n")
    assert parts(spec) == [1.0, 1.0]
    file(tmp_path, "def r(completions): return [22.0] * len(completions)\n")
    assert parts(spec) == [22.0, 22.0]


def test_a_file_of_a_package_may_import_from_it(tmp_path: Path) -> None:
    folder = tmp_path / "judging_package"
    spec = file(folder, "from .helper import VALUE\ndef r(completions): return [VALUE] * len(completions)\n")
    (folder / "__init__.py").touch()
    (folder / "helper.py").write_text("VALUE = 3.0\n")
    assert parts(spec) == [3.0, 3.0]


def test_a_command_line_at_import_is_the_files_own(tmp_path: Path) -> None:
    text = """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--scale", type=float, default=2.0)
        ARGS = parser.parse_args()
        def r(completions): return [ARGS.scale] * len(completions)
    """
    assert parts(file(tmp_path, text)) == [2.0, 2.0]
    spec = file(tmp_path, text.replace('"--scale"', '"scale"'), "asks")
    with pytest.raises(UserError, match=r"asks\.py failed: it reads a command line \(argparse\) at .*asks\.py:5, and"):
        load_rewards([spec])


def test_what_has_no_name_of_its_own_has_the_one_it_was_given_by(tmp_path: Path) -> None:
    file(tmp_path, "one = lambda completions: [1.0, 1.0]\ntwo = lambda completions: [2.0, 2.0]\n")
    scores = load_rewards([f"{tmp_path}/reward.py:{name}" for name in ("one", "two")]).score(ASKED, ("a", "b"))
    assert dict(scores[0].parts) == {"one": 1.0, "two": 2.0}


def test_two_partials_of_one_function_are_told_apart(tmp_path: Path) -> None:
    text = """
        import functools
        def count(completions, tag): return [float(c.count(tag)) for c in completions]
        a = functools.partial(count, tag="a")
        b = functools.partial(count, tag="b")
    """
    file(tmp_path, text)
    scores = load_rewards([f"{tmp_path}/reward.py:a", f"{tmp_path}/reward.py:b"]).score(ASKED, ("aab", "b"))
    assert [dict(s.parts) for s in scores] == [{"a": 2.0, "b": 1.0}, {"a": 0.0, "b": 1.0}]


def test_a_class_is_no_reward_until_there_is_an_object_of_it() -> None:
    class Length:
        def __call__(self, completions: Any) -> list[float]:
            return [float(len(text)) for text in completions]

    assert parts(Length(), responses=("ab", "")) == [2.0, 0.0]
    with pytest.raises(UserError, match=r"is a class; give an object of it: my_reward = Length\(\)"):
        load_rewards([Length])


def test_nothing_is_changed_from_another_thread(tmp_path: Path) -> None:
    """It would be changed under the main thread's hands."""
    text = """
        import os
        os.environ["UPSLOPE_TEST"] = "7"
        def r(completions): return [float("UPSLOPE_TEST" in os.environ)] * 2
    """
    rewards = load_rewards([file(tmp_path, text)])
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.extend(s.reward for s in rewards.score(ASKED, ("a", "b"))))
    thread.start()
    thread.join()
    assert found == [0.0, 0.0]
