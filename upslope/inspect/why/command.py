"""A run's diagnosis by its folder."""

from __future__ import annotations

from pathlib import Path

from upslope.errors import UserError
from upslope.inspect.reading.opened import OpenRun
from upslope.inspect.reading.places import RunPlace
from upslope.inspect.why.diagnosis import diagnose
from upslope.inspect.why.facts import LEAST_STEPS
from upslope.inspect.why.finding import Diagnoses
from upslope.record.journal import JOURNAL


def judged_run(folder: Path) -> OpenRun:
    """The run there, read. Raises UserError where there is no run, or too few steps are done to judge it."""
    if not (folder / JOURNAL).is_file():
        raise UserError(f"{folder}: there is no journal of a run; give the folder that holds {JOURNAL}")
    run = OpenRun.at(RunPlace(folder.name, folder))
    run.tail.refresh()
    if len(run.tail.steps) < LEAST_STEPS:
        raise UserError(f"{folder} has {len(run.tail.steps)} steps; {LEAST_STEPS} are needed to say how it goes")
    return run


def found_in(folder: Path) -> Diagnoses:
    """What is wrong with the run there, the likeliest cause first. Raises as ``judged_run`` does."""
    return Diagnoses(diagnose(judged_run(folder)))
