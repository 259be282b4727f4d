"""TensorBoard: event files in the run's folder, by torch's own writer."""

from __future__ import annotations

from typing import Any

import tomli_w

from upslope.record.columns import COLUMNS, GROUPS
from upslope.record.trackers.base import Opened, ShownAttempt, TrackedLine, TrackedRun

PLACE = "tensorboard"
"""The folder of the event files in a run's."""
BANDS = {"accuracy": "eval/greedy", "lenient accuracy": "eval/lenient"}
"""Estimates that are drawn with their interval."""


class TensorBoardTracker:
    """A ``Tracker``. Event files only grow, and their readers differ in what they make of a step that comes again. So
    after a run was set back the files are written anew; the first line of the new one has a TensorBoard that is running
    forget what it read."""

    def __init__(self) -> None:
        self._writer: Any = None

    def open(self, run: TrackedRun, id: str, since: int | None) -> Opened:
        from torch.utils.tensorboard import SummaryWriter

        assert run.folder is not None, "require_trackers has looked"
        place = run.folder / PLACE
        goes_on = bool(id) and since is None and place.is_dir()
        if not goes_on:
            for file in place.glob("events.out.tfevents.*"):
                file.unlink()
        self._writer = SummaryWriter(str(place), purge_step=None if goes_on else 0)
        if not goes_on:
            self._writer.add_text("run/run.toml", _as_it_is(tomli_w.dumps(dict(run.document))), 0)
            self._writer.add_text("run/columns", columns_table(), 0)
            bands = {title: ["Margin", [tag, f"{tag}/low", f"{tag}/high"]] for title, tag in BANDS.items()}
            self._writer.add_custom_scalars({"held-out, with its 95 % interval": bands})
        self._writer.flush()
        return Opened(PLACE, None if goes_on else 0, f"tensorboard --logdir {place}")

    def send(self, line: TrackedLine) -> None:
        for name, value in line.numbers.items():
            self._writer.add_scalar(name, value, line.step)
        for place, attempt in enumerate(line.shown):
            self._writer.add_text(f"attempts/{line.kind}/{place}", _page(attempt), line.step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def columns_table() -> str:
    """What the columns mean, as a table of markdown."""
    rows = [f"| {column.group}/{key} | {column.words} |" for key, column in COLUMNS.items()]
    groups = [f"- **{group}**: {words}" for group, words in GROUPS.items()]
    return "\n".join(["| column | meaning |", "|---|---|", *rows, "", *groups])


def _page(attempt: ShownAttempt) -> str:
    reward = "" if attempt.reward is None else f"reward {attempt.reward:.4g}\n\n"
    return f"{reward}{_as_it_is(attempt.prompt)}\n\n---\n\n{_as_it_is(attempt.text)}"


def _as_it_is(text: str) -> str:
    """A block of code of markdown: nothing in it is markup."""
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])
