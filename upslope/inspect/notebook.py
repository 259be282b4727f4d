"""A run in a notebook: why it does not learn, its curves, and one line of what it is."""

from __future__ import annotations

import html
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from upslope.inspect.picture import draw_journal
from upslope.inspect.why.command import found_in
from upslope.inspect.why.finding import Diagnoses
from upslope.inspect.words import percent
from upslope.record.attempts import write
from upslope.record.journal import JOURNAL, Journal, attempted, number
from upslope.record.recorder import MemoryRecorder
from upslope.record.trackers.recorder import TrackedRecorder
from upslope.training.run import Run


class Drawn:
    """A run's curves: ``figure`` is matplotlib's; a notebook shows it, ``save`` writes it."""

    def __init__(self, figure: Any) -> None:
        self.figure = figure

    def save(self, path: str | Path) -> None:
        """Write the picture; the name's ending says in what format."""
        self.figure.savefig(path)

    def _repr_png_(self) -> bytes:
        told = io.BytesIO()
        self.figure.savefig(told, format="png")
        return told.getvalue()


class ShownRun(Run):
    """What ``upslope.train`` returns: the run, and what there is to see of it."""

    def why(self) -> Diagnoses:
        """What looks wrong with the run, by the rules of ``upslope why``. Raises UserError before five steps are
        done."""
        with _folder_of(self) as folder:
            return found_in(folder)

    def plot(self) -> Drawn:
        """Reward and held-out accuracy, length, gradient norm and entropy by step, as ``upslope report`` draws them."""
        journal = Journal(tuple(self.rows("step")), tuple(self.rows("eval")))
        return Drawn(draw_journal(journal, self.recorder.name))

    def __repr__(self) -> str:
        return f"<Run {self._told()}>"

    def _repr_html_(self) -> str:
        return f"<p>Run {html.escape(self._told())}</p>"

    def _told(self) -> str:
        steps = self.rows("step")
        tried = [row for row in self.rows("eval") if attempted(row)]
        parts = [self.recorder.name, f"{len(steps)} of {self.settings.steps} steps"]
        if steps:
            parts.append(f"reward {number(steps[-1], 'reward'):.3g}")
        if tried:
            ends = [percent(number(row, "greedy", "value")) for row in tried[:1] + tried[1:][-1:]]
            parts.append(f"held out {' -> '.join(ends)}")
        parts.append(f"in {self.folder}" if self.folder else "in memory")
        return ", ".join(parts)


@contextmanager
def _folder_of(run: Run) -> Iterator[Path]:
    """The run's folder; of one in memory, its records in a folder that is gone afterwards."""
    recorder = run.recorder.inner if isinstance(run.recorder, TrackedRecorder) else run.recorder
    if run.folder is not None or not isinstance(recorder, MemoryRecorder):
        yield run.folder or Path()
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        (folder / "rollouts").mkdir(parents=True)
        (folder / "run.toml").write_bytes(tomli_w.dumps(recorder.document).encode())
        (folder / JOURNAL).write_text("".join(json.dumps(row) + "\n" for row in recorder.all_rows()))
        for (kind, step), table in recorder.tables().items():
            write(folder / "rollouts" / f"{kind}-{step:06d}.parquet", table)
        yield folder
