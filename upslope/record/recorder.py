"""What is kept of a run, and where: in a folder, or in this process's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from torch import Tensor

from upslope.model.policy import Policy
from upslope.record.checkpoint import Checkpoint
from upslope.record.drawn import DrawnStep
from upslope.record.journal import plain

Row = dict[str, Any]
KINDS = ("step", "eval", "end")
"""Of the journal's rows."""


@dataclass(frozen=True)
class Snapshot:
    """Everything that a run goes on from."""

    step: int
    """Turns of the loop done."""
    policy: Policy
    weights: Mapping[str, Tensor]
    """In full precision; they stand in for the policy's own."""
    optimizer: dict[str, Tensor]
    critic: dict[str, Tensor] | None
    state: Row
    """Counts and sums, as JSON can say them."""
    drawn: Sequence[DrawnStep] = ()
    """Steps whose attempts are there, and that nobody has learnt from."""


class Recorder(Protocol):
    """One run's records. Calls come in the order of the run; ``rewind`` first where it is resumed."""

    @property
    def name(self) -> str:
        """What the run is called."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where the records lie; None: in memory."""
        ...

    def begin(self, document: Mapping[str, Any]) -> None:
        """Keep the resolved configuration."""
        ...

    def add(self, row: Row) -> None:
        """Keep a line of the journal; it has a ``kind`` and a ``step``."""
        ...

    def add_attempts(self, kind: str, step: int, table: pa.Table) -> None:
        """Keep the attempts of a step, or (``kind="eval"``) of an evaluation: ``upslope.record.attempts``."""
        ...

    def save(self, snapshot: Snapshot) -> None:
        """Keep what the run can go on from."""
        ...

    def keep_best(self, step: int | None) -> None:
        """The snapshot after ``step`` steps is the best so far, and stays; None: there is no best one any more."""
        ...

    def kept(self) -> list[int]:
        """The steps of all snapshots that are kept."""
        ...

    def newest(self) -> Checkpoint | None:
        """The newest complete snapshot; None if nothing can be resumed."""
        ...

    def rewind(self, step: int) -> list[Row]:
        """Forget all that came after turn number ``step``; returns the rows that stay."""
        ...

    def keep_reference(self, step: int, policy: Policy) -> None:
        """Keep the reference that holds from ``step`` on."""
        ...

    def reference(self, step: int) -> Path | None:
        """A directory of the reference that held at ``step``; None if none was kept."""
        ...

    def rows(self, kind: str) -> list[Row]:
        """The journal's lines of a kind (``step``, ``eval``, ``end``), in order."""
        ...

    def attempts(self, kind: str, step: int) -> list[Row]:
        """A step's attempts, a row each. Raises KeyError if none were kept."""
        ...


class MemoryRecorder:
    """Keeps journal and attempts in this process and no snapshots: the model itself is there, and nothing else is
    needed in a notebook.

    >>> recorder = MemoryRecorder("toy")
    >>> recorder.add({"kind": "step", "step": 0, "reward": 0.5, "loss": float("nan")})
    >>> recorder.rows("step")
    [{'kind': 'step', 'step': 0, 'reward': 0.5, 'loss': None}]
    """

    def __init__(self, name: str = "run") -> None:
        self.name, self.folder = name, None
        self.document: Mapping[str, Any] = {}
        self._rows: list[Row] = []
        self._attempts: dict[tuple[str, int], pa.Table] = {}

    def begin(self, document: Mapping[str, Any]) -> None:
        self.document = document

    def add(self, row: Row) -> None:
        self._rows.append(plain(row))

    def add_attempts(self, kind: str, step: int, table: pa.Table) -> None:
        self._attempts[kind, step] = table

    def save(self, snapshot: Snapshot) -> None:
        pass

    def keep_best(self, step: int | None) -> None:
        pass

    def kept(self) -> list[int]:
        return []

    def newest(self) -> Checkpoint | None:
        return None

    def rewind(self, step: int) -> list[Row]:
        self._rows = [row for row in self._rows if row["step"] < step + (row["kind"] == "eval")]
        return list(self._rows)

    def keep_reference(self, step: int, policy: Policy) -> None:
        pass

    def reference(self, step: int) -> Path | None:
        return None

    def rows(self, kind: str) -> list[Row]:
        return [row for row in self._rows if row["kind"] == kind]

    def attempts(self, kind: str, step: int) -> list[Row]:
        rows: list[Row] = self._attempts[kind, step].to_pylist()
        return rows

    def all_rows(self) -> list[Row]:
        """The journal, lines of every kind in order."""
        return list(self._rows)

    def tables(self) -> dict[tuple[str, int], pa.Table]:
        """All attempts, by kind and step."""
        return dict(self._attempts)
