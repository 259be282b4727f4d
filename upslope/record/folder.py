"""A run as a folder: run.toml, journal.jsonl, rollouts/, checkpoints/, reference/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from upslope.errors import UserError
from upslope.files import write_whole
from upslope.model.policy import Policy
from upslope.record import attempts, best, checkpoint, journal
from upslope.record.manifest import is_ours, remove, whole_folder, why_not_whole
from upslope.record.names import REFERENCE, ROLLOUTS
from upslope.record.recorder import Row, Snapshot
from upslope.record.trackers.mark import set_marks_back
from upslope.record.trust import seal


class FolderRecorder:
    """Satisfies ``upslope.record.recorder.Recorder``; a kill at any moment leaves a folder that can be resumed."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """``keep`` newest checkpoints stay."""
        self.name, self.folder, self._keep = folder.name, folder, keep

    @property
    def _journal(self) -> Path:
        return self.folder / journal.JOURNAL

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def begin(self, document: Mapping[str, Any]) -> None:
        for name in ("rollouts", "checkpoints"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        content = tomli_w.dumps(document).encode()
        seal(self.folder, content)
        write_whole(self.folder / "run.toml", content)

    def add(self, row: Row) -> None:
        journal.append(self._journal, row)

    def add_attempts(self, kind: str, step: int, table: pa.Table) -> None:
        attempts.write(self._file(kind, step), table)

    def save(self, snapshot: Snapshot) -> None:
        s = snapshot
        checkpoint.save(self._checkpoints, s.step, s.policy, s.weights, s.optimizer, s.state, s.critic, s.drawn)
        checkpoint.prune(self._checkpoints, self._keep, best.best_step(self.folder))
        self._prune_references()

    def keep_best(self, step: int | None) -> None:
        if step == best.best_step(self.folder):
            return
        best.mark(self.folder, step)
        checkpoint.prune_before(self._checkpoints, max(self.kept(), default=0), self._keep, step)
        self._prune_references()

    def kept(self) -> list[int]:
        return checkpoint.steps(self._checkpoints)

    def newest(self) -> checkpoint.Checkpoint | None:
        return checkpoint.newest(self._checkpoints)

    def rewind(self, step: int) -> list[Row]:
        kept = [dict(row) for row in journal.rewind(self._journal, step)]
        set_marks_back(self.folder, step, list(kept))
        for file in (self.folder / "rollouts").glob("*.parquet"):
            named = ROLLOUTS.fullmatch(file.name)
            if named and (int(named[2]) > step or (named[1] == "step" and int(named[2]) == step)):
                file.unlink()
        checkpoint.prune_before(self._checkpoints, step, self._keep, best.best_step(self.folder))
        self._prune_references()
        return kept

    def keep_reference(self, step: int, policy: Policy) -> None:
        place = self.folder / (f"reference-{step:06d}" if step else "reference")
        with whole_folder(place) as aside:
            policy.save(aside)

    def reference(self, step: int) -> Path | None:
        found = [place for since, place in self._references() if since <= step]
        if not found:
            return None
        wrong = why_not_whole(found[-1])
        if wrong:
            raise UserError(f"{found[-1]}, the run's reference: {wrong}; a run cannot go on with another one")
        return found[-1]

    def _references(self) -> list[tuple[int, Path]]:
        named = [(REFERENCE.fullmatch(p.name), p) for p in self.folder.glob("reference*") if is_ours(p)]
        return sorted((int(name[1] or 0), place) for name, place in named if name)

    def _prune_references(self) -> None:
        """Drop the references that held before the oldest checkpoint."""
        steps = checkpoint.steps(self._checkpoints)
        held = [place for since, place in self._references() if steps and since <= steps[0]]
        for place in held[:-1]:
            remove(place)

    def rows(self, kind: str) -> list[Row]:
        found = journal.read_journal(self.folder)
        kept: dict[str, Sequence[Mapping[str, Any]]] = {"step": found.steps, "eval": found.evals}
        kept["end"] = (found.end,) if found.end is not None else ()
        return [dict(row) for row in kept.get(kind, ())]

    def attempts(self, kind: str, step: int) -> list[Row]:
        file = self._file(kind, step)
        if not file.exists():
            raise KeyError(f"no attempts of {kind} {step} were kept in {self.folder}")
        rows: list[Row] = pq.read_table(file).to_pylist()
        return rows

    def _file(self, kind: str, step: int) -> Path:
        return self.folder / "rollouts" / f"{kind}-{step:06d}.parquet"
