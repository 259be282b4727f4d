"""What came of a run: its model, and what was recorded of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from upslope.errors import UserError, nearest
from upslope.model.policy import Policy
from upslope.record.recorder import KINDS, Recorder
from upslope.training.saving import Saving


class Results:
    """What a run has to show, while it goes on and afterwards."""

    recorder: Recorder
    policy: Policy
    _saving: Saving

    @property
    def folder(self) -> Path | None:
        """Where the run lies; None: in memory."""
        return self.recorder.folder

    @property
    def model(self) -> Any:
        """The transformers model as it is now, in the precision it computes in."""
        return self.policy.model

    @property
    def tokenizer(self) -> Any:
        return self.policy.tokenizer

    def rows(self, kind: str = "step") -> list[dict[str, Any]]:
        """The journal's rows of a kind: ``step``, ``eval``, or ``end`` where it ended early. docs/library.md says what
        their keys mean. Raises UserError for another kind."""
        if kind not in KINDS:
            raise UserError(f"the journal has no rows of kind {kind!r}{nearest(kind, KINDS)}")
        return self.recorder.rows(kind)

    def rollouts(self, step: int) -> list[dict[str, Any]]:
        """Every attempt of a step, with what the update did to it. Raises UserError if none were kept."""
        try:
            return self.recorder.attempts("step", step)
        except KeyError:
            raise UserError(f"no attempts of step {step} were kept; see save.rollouts, and len(run.rows())") from None

    def save(self, folder: str | Path) -> None:
        """Write model (in full precision) and tokenizer as an ordinary Hugging Face directory."""
        self.policy.save(Path(folder), self._saving.full_precision())
