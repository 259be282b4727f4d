"""A run that samples ahead is stopped: what was sampled is in the checkpoint, and the resumed run learns from it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from several import NextBegun, fill, note_given, same, settings, trained, weights

from upslope.errors import Stopped
from upslope.record.checkpoint import newest

pytest.importorskip("ray")

STEPS = 6
AHEAD = {"staleness": 1, "rewards": 1}
NAMES = ("problem", "sample", "response", "mask", "version", "sampler_logp", "reward", "kept")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("ahead"))


def wanted(place, name, **cluster):
    return settings(place, name, steps=STEPS, rollouts=1, **{"samplers": 2} | AHEAD | cluster)


def attempts(run):
    return [[{n: row[n] for n in NAMES} for row in run.rollouts(step)] for step in range(STEPS)]


def ages(run):
    return [(row["age_mean"], row["age_max"]) for row in run.rows()]


@pytest.fixture(scope="module", autouse=True)
def noted():
    with pytest.MonkeyPatch.context() as patch:
        note_given(patch.setattr)
        yield


@pytest.fixture(scope="module")
def undisturbed(place):
    """Step t > 0 is written by version t - 1."""
    run = trained(wanted(place, "undisturbed"), NextBegun(STEPS))
    assert ages(run) == [(0.0, 0.0)] + [(1.0, 1.0)] * (STEPS - 1)
    return run


def stopped(want, at):
    """Ask the run to end once step ``at`` is done; returns the checkpoint it leaves."""
    with pytest.raises(Stopped, match="continue with"):
        trained(want, NextBegun(STEPS, at=at, do=lambda: os.kill(os.getpid(), signal.SIGINT)))
    return newest(Path(want.out) / want.name / "checkpoints")


def test_a_run_that_is_stopped_and_resumed_is_the_undisturbed_one(place, undisturbed):
    """Step 3 was sampled before the stop, by version 2: the checkpoint after three steps holds it, and the resumed run,
    with one sampler fewer, learns from it, as old as it is, and not from what version 3 would write."""
    want = wanted(place, "stopped")
    saved = stopped(want, at=2)
    assert saved.step == 3
    assert [path.name for path in (saved.folder / "ahead").iterdir()] == ["step-000003.parquet"]
    assert {row["version"] for row in attempts(undisturbed)[3]} == {2}
    run = trained(wanted(place, "stopped", samplers=1), NextBegun(STEPS), resume=True)
    assert attempts(run) == attempts(undisturbed)
    assert ages(run) == ages(undisturbed)
    assert same(weights(run), weights(undisturbed))


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from several import NextBegun, note_given, settings, trained
if __name__ == "__main__":
    want = settings(Path(sys.argv[2]), "killed", steps=6, rollouts=1, samplers=2, rewards=1, staleness=1)
    note_given(setattr)
    trained(want, NextBegun(6, at=4, do=lambda: os.kill(os.getpid(), signal.SIGKILL)))
"""


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_run_that_is_killed_goes_on_with_what_its_checkpoint_holds(place, undisturbed):
    """The kill comes after step 4, and the newest checkpoint is that of four steps, with step 4's attempts."""
    code = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1] / "support"), str(place)]
    assert subprocess.run(code, capture_output=True, timeout=300).returncode == -signal.SIGKILL
    saved = newest(place / "runs" / "killed" / "checkpoints")
    assert saved.step == 4 and (saved.folder / "ahead" / "step-000004.parquet").is_file()
    run = trained(wanted(place, "killed"), NextBegun(STEPS), resume=True)
    assert attempts(run) == attempts(undisturbed)
    assert ages(run) == ages(undisturbed)
    assert same(weights(run), weights(undisturbed))


def test_nothing_is_kept_where_nothing_is_ahead(place):
    run = trained(settings(place, "in-turn", steps=2))
    assert not list((run.folder / "checkpoints").rglob("ahead"))
