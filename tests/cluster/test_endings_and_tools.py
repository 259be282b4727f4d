"""What ends an attempt, which problem is next, what is right, and who replies: the same whoever writes the attempts."""

from dataclasses import replace
from pathlib import Path

import pytest
from several import LONG, fill, same, settings, trained, weights

from upslope.tasks.tools.calls import Call

pytest.importorskip("ray")

STEPS = 2
COUNT = '''

def letters(text: str) -> str:
    """
    Count letters.

    Args:
        text: Of which.
    """
    return f"It has {len(text)} letters."


def long(completions, **kwargs):
    return [min(1.0, len(str(c)) / 200) for c in completions]
'''
NAMES = ("problem", "sample", "response", "mask", "ended", "sampler_logp", "reward", "right", "calls", "turns", "forks")


def wanted(place: Path, name: str, tools: bool, **cluster):
    plain = settings(place, name, steps=STEPS, rollouts=1, longest=64 if tools else 24, **cluster)
    task = replace(
        plain.task,
        rewards=(f"{place}/mine.py:long",),
        right=0.45,
        tools=(f"{place}/mine.py:letters",) if tools else (),
        max_turns=3 if tools else 0,
    )
    return replace(plain, task=task, sample=replace(plain.sample, stop=(".", " he"), order="file"))


@pytest.mark.parametrize("tools", [pytest.param(False, marks=LONG), True], ids=["alone", "tools"])
def test_two_samplers_write_what_one_process_writes(tools, tmp_path, monkeypatch):
    """A random model calls nothing, so whatever it writes is read as a call; the world stays in this process."""
    monkeypatch.setattr("upslope.tasks.tools.worlds.calls_in", lambda text: [Call("letters", {"text": text})])
    place = fill(tmp_path)
    (place / "mine.py").write_text((place / "mine.py").read_text() + COUNT)
    others = {"samplers": 2, "rewards": 0 if tools else 1}
    runs = [trained(wanted(place, "alone", tools)), trained(wanted(place, "shared", tools, **others))]
    told = [[{n: row[n] for n in NAMES} for step in range(STEPS) for row in run.rollouts(step)] for run in runs]
    assert told[1] == told[0] and same(*map(weights, runs))
    ends, problems = {row["ended"] for row in told[0]}, [row["problem"].rpartition("/")[2] for row in told[0]]
    assert list(dict.fromkeys(problems)) == [str(i) for i in range(4 * STEPS)]  # as they stand in the file
    assert {row["right"] for row in told[0]} == {False, True}
    assert any(r["calls"] for r in told[0]) if tools else "stop_string" in ends
    assert tools == any(row["turns"] for row in told[0])  # this template forks at each, so no mask has a hole
