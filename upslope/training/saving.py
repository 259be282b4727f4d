"""What the last finished step left, and the checkpoint that is made of it, whatever ends the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from upslope.errors import UserError
from upslope.learn.learner import Learner
from upslope.model.load import load
from upslope.record.recorder import Recorder, Snapshot
from upslope.training.best import Best
from upslope.training.collect import Collects
from upslope.training.settings import RunSettings
from upslope.types import Rollout


class Saving:
    """Between ``finish`` and the next update the weights are those of a whole number of steps, and can be saved."""

    def __init__(
        self,
        learner: Learner,
        recorder: Recorder,
        collects: Callable[[], Collects],
        hurried: Callable[[], bool],
        settings: RunSettings,
        made_with: Mapping[str, str],
    ) -> None:
        """``collects``: who knows of the problems, and what was sampled ahead; ``hurried``: whether nothing may be
        waited for; ``made_with``: what the results depend on beside the settings (``resuming.made_with``)."""
        self._learner, self._recorder, self._collects, self._hurried = learner, recorder, collects, hurried
        self._sampling, self._wants_best = settings.sample.sampling(), settings.save.best
        self._fixed: dict[str, Any] = {"seed": settings.seed, "made_with": dict(made_with)}
        self._best = Best()
        self._state: dict[str, Any] = {}
        self._shown: Rollout | None = None
        self.finished = 0
        """Steps done."""
        self.saved = -1
        """Those of the newest checkpoint, also of the one that a run goes on from; -1: there is none."""

    def finish(self, step: int, spent: float, tokens: int, shown: Rollout | None = None) -> None:
        """So many steps are done, in ``spent`` seconds and ``tokens`` tokens; ``shown``: an attempt of the last one."""
        self.finished, self._shown = step, shown or self._shown
        self._state = {"spent": spent, "tokens": tokens} | dict(self._collects().state())
        if self._learner.policy.budgets.caps:
            self._state["caps"] = dict(self._learner.policy.budgets.caps)
        for optimizer in self._learner.optimizers:
            optimizer.moved = False

    def save(self, *, waits: bool = True) -> None:
        """Keep what the last finished step left, unless that was done. A step that is being sampled ahead is waited for
        if ``waits``, unless it hurries. Raises UserError, before anything is written, if the weights compute nothing
        finite."""
        if self.finished == self.saved:
            return
        if not self._is_finite():
            raise UserError(
                f"after step {self.finished} the weights give log-probabilities that are not finite, so they are not "
                "saved. Lower learn.lr, and go on from an earlier checkpoint (learn.lr=... along with --resume)"
            )
        learner = self._learner
        optimizer, critic = learner.optimizer, learner.critic
        state = self._fixed | self._state | {"num_updates": optimizer.num_done}
        if critic is not None:
            state |= {"num_critic_updates": critic.optimizer.num_done}
        drawn = self._collects().drawn(self.finished, lambda: waits and not self._hurried())
        weights, moments, critics = learner.kept()
        self._recorder.save(Snapshot(self.finished, learner.policy, weights, moments, critics, state, drawn))
        self.saved = self.finished

    def full_precision(self) -> Mapping[str, Tensor]:
        """The policy's weights in full precision: the learner's, or where its parts are gone with other processes those
        of the checkpoint that the run ended with. Raises UserError if there is none."""
        found = self._learner.full_precision()
        if found is not None:
            return found
        newest = self._recorder.newest()
        if newest is None or newest.step != self.finished:
            raise UserError(
                "the weights in full precision were in shards on processes that have ended, and the run has no "
                "checkpoint of its last step; give the run a folder"
            )
        return dict(load(str(newest.folder), torch.float32)[0].named_parameters())

    def evaluated(self, row: Mapping[str, Any]) -> None:
        """The last finished step was evaluated: its weights are kept if they are the best so far, and that is wanted.
        Raises UserError as ``save`` does."""
        if self._wants_best and self._best.beaten_by(row):
            self.save()
            self._recorder.keep_best(self._best.step)

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Go on from a run whose journal has these rows: the best is the best of the checkpoints that are still there,
        also where a kill came before it was marked."""
        if self._wants_best:
            kept = self._recorder.kept()
            self._best = Best.of(row for row in rows if row["kind"] == "eval" and row["step"] in kept)
            self._recorder.keep_best(self._best.step)

    def rescue(self) -> bool:
        """After whatever ended the run: save the last finished step, if the weights are still what it left (a step that
        broke off after the first of several updates is lost). Whether there is anything to go on from."""
        sound = not any(optimizer.moved for optimizer in self._learner.optimizers)
        if self.finished and sound and self._is_finite():
            self.save(waits=False)
        return self.saved >= 0

    def _is_finite(self) -> bool:
        """Whether the weights compute something: they may be finite, and what they give be none."""
        if self._shown is None:
            return True
        with torch.no_grad():
            logp_NT, _ = self._learner.policy.score([self._shown], self._sampling, len(self._shown.response))
        return bool(torch.isfinite(logp_NT).all())
