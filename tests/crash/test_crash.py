"""Whatever ends a run, nothing is lost but what README.md says, and the run that goes on is the same bit for bit.

The fast tests are samples, and the slow ones are the whole. docs/nothing-lost.md has what ``table.py`` counted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
from crash.campaign import SIGNALS, Campaign
from crash.cases import RECIPES, RUN, Bench, digest, furnished, without_older_checkpoints
from crash.forks import FULL, in_memory, serving
from crash.trials import Found

from upslope.record.checkpoint import OPTIMIZER


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with in_memory() as place, serving(place) as server:
        yield furnished(server, place)


@pytest.fixture(scope="module")
def campaign(bench: Bench) -> object:
    return cache(lambda recipe: Campaign(bench, recipe))


@pytest.fixture
def tapped(bench: Bench) -> None:
    if bench.server.tap is None:
        pytest.skip("nothing can stand between a process and the system here: no Linux, or no compiler")


def sound(found: Iterable[Found]) -> list[Found]:
    """All of it, if none of it has a fault."""
    all_of_it = list(found)
    assert [(one.label, one.faults) for one in all_of_it if one.faults] == []
    return all_of_it


def test_runs_are_forked_from_one_thread(bench: Bench) -> None:
    assert bench.server.threads == 1


def test_killed_at_random_moments(campaign):
    assert sum(found.stops for found in sound(campaign("dapo").kills(5))) == 5


def test_killed_at_changes(tapped, campaign):
    assert len(sound(campaign("grpo").kills_at_changes(71))) >= 2


def test_every_file_is_flushed_before_it_counts(tapped, campaign):
    """A power cut takes what was written and not flushed. What a file is called then is another matter."""
    calls = [call.split(" ", 1) for call in campaign("grpo").changes(FULL)]
    flushed = {name for call, name in calls if call == "flush"}
    for name in campaign("grpo").whole:
        file = name.rpartition("/")[2]
        if name in ("folders", ".owner"):
            continue
        above = [f".{part}.part/{rest}" for part, rest in parted(name)]  # written aside, whole folders too
        aside = [n for n in flushed if any(map(n.endswith, above)) or f"/.{file}." in n]
        assert aside or f"/{name}" in flushed, name


def parted(name: str) -> list[tuple[str, str]]:
    """A folder on the way to a file, and what is below it: of a/b/c (a, b/c) and (b, c)."""
    parts = name.split("/")
    return [(part, "/".join(parts[i + 1 :])) for i, part in enumerate(parts[:-1])]


def test_of_older_checkpoints_nothing_is_compared_wherever_a_run_was_asked_to_stop() -> None:
    last, stopped = ("checkpoints/step-000006", "checkpoints/step-000005")
    folders = ["checkpoints", stopped, f"{stopped}/resume", last, f"{last}/resume"]
    found = {"journal.jsonl": 1, f"{stopped}/{OPTIMIZER}": 2, f"{stopped}/config.json": 3, f"{last}/{OPTIMIZER}": 4}
    assert without_older_checkpoints(found | {"folders": folders}) == {
        "journal.jsonl": 1,
        f"{last}/{OPTIMIZER}": 4,
        "folders": ["checkpoints", last, f"{last}/resume"],
    }


@pytest.mark.parametrize("number", SIGNALS)
def test_asked_to_stop_at_random_moments(campaign, number):
    sound(campaign("grpo").signals(number, 1))


def test_nobody_listens(campaign):
    sound(campaign("grpo").unheard(2))


def test_the_disk_is_full(tapped, campaign):
    sound(campaign("grpo").full_disks(1))


def test_the_disk_is_small(campaign):
    try:
        sound(campaign("grpo").small_disks(1))
    except PermissionError as error:
        pytest.skip(str(error))


def test_two_processes_want_one_folder(campaign):
    sound(campaign("grpo").disputed())


def swapped(run: Path) -> None:
    file = run / "checkpoints" / "step-000006" / OPTIMIZER
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    manifest = file.parents[1] / "manifest.json"
    hashes = json.loads(manifest.read_text()) | {OPTIMIZER: digest(file)}
    manifest.write_text(json.dumps(hashes))


def twice(run: Path) -> None:
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    (run / "journal.jsonl").write_text("".join([*lines, lines[-2]]))


DAMAGE = {
    "optimizer.state is another one": swapped,
    "journal.jsonl is another one": twice,
    "rollouts/step-000003.parquet is not there": lambda run: (run / "rollouts" / "step-000003.parquet").unlink(),
    "folders is another one": lambda run: (run / "checkpoints" / ".step-000004.part").mkdir(),
    ".owner is left over": lambda run: (run / ".owner").write_text("{}"),
    ".run.toml.1.part is left over from before the last kill": lambda run: (run / ".run.toml.1.part").write_text(""),
}


@pytest.mark.parametrize("said", DAMAGE)
def test_a_run_that_is_not_the_same_is_seen(campaign, said):
    """One bit of an optimizer's state, a step that stands twice, a file too few, and what was not cleared away."""
    trial = campaign("grpo").trial(f"damaged {said}", campaign("grpo").place)
    DAMAGE[said](trial.folder / RUN)
    found = trial.finish()
    assert len(found.faults) == 1 and found.faults[0].endswith(said)


def test_steps_that_are_lost_are_seen(campaign):
    trial = campaign("grpo").trial("lost", campaign("grpo").place)
    shutil.rmtree(trial.folder / RUN / "checkpoints" / "step-000006")
    trial.stopped()
    assert (trial.found.lost, trial.found.faults) == (2, [])
    trial.stopped(allowed=1)
    assert trial.found.faults == ["6 steps were done, and the newest checkpoint is of 4"]


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_at_many_random_moments(campaign, recipe):
    assert sum(found.stops for found in sound(campaign(recipe).kills(40))) == 40


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("resumed", [False, True], ids=["the run", "the resumed run"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_at_every_change(tapped, campaign, recipe, resumed):
    assert len(sound(campaign(recipe).kills_at_changes(1, resumed=resumed))) > 100


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("recipe", RECIPES)
def test_ended_otherwise_at_many_moments(campaign, recipe):
    for number in SIGNALS:
        sound(campaign(recipe).signals(number, 12))
    sound(campaign(recipe).unheard(12))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_disk_is_full_at_many_moments(tapped, campaign, recipe):
    sound(campaign(recipe).full_disks(12))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("recipe", RECIPES)
def test_disks_of_many_sizes(campaign, recipe):
    try:
        sound(campaign(recipe).small_disks(12))
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_processes_that_are_not_forked(campaign):
    for recipe in ("grpo", "ppo", "dapo"):
        sound(islice(campaign(recipe).kills_afresh(2), 2))
