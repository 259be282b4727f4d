"""A run: its folder, its clock, and what is written when. The loop computes; this remembers."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from upslope.algo.outcome import Outcome, Rescored
from upslope.algo.recipe import Recipe
from upslope.errors import NonFinite, Stopped, UserError
from upslope.learn.learner import Learner
from upslope.learn.probe import Probe
from upslope.model.gauge import wait_for
from upslope.model.pieces import TokenTexts
from upslope.record import attempts
from upslope.record.checkpoint import Checkpoint
from upslope.record.recorder import Recorder, Row
from upslope.rollout.base import Sampler
from upslope.tasks.at_work import said_to
from upslope.tasks.base import Task
from upslope.training import metrics
from upslope.training.best import idle
from upslope.training.collect import Collected, Collects
from upslope.training.collecting import collector
from upslope.training.corpora import Text
from upslope.training.drawn import with_drawn
from upslope.training.ending import Signals, give_up
from upslope.training.fitting import Fitted
from upslope.training.held_out import HeldOut
from upslope.training.measuring import is_measured, renew_reference
from upslope.training.memory import Keeper, peak_gb
from upslope.training.prompt_notes import notes_of_run
from upslope.training.readable import require_readable
from upslope.training.results import Results
from upslope.training.saving import Saving
from upslope.training.settings import RunSettings
from upslope.training.view import ReadsRecords, View
from upslope.types import Batch, Rollout


class Run(Results):
    """Everything about one run that outlives a step."""

    def __init__(
        self,
        settings: RunSettings,
        recorder: Recorder,
        recipe: Recipe,
        task: Task,
        sampler: Sampler,
        learner: Learner,
        view: View,
        document: dict[str, Any],
        made_with: Mapping[str, str] | None = None,
        notes: Sequence[str] = (),
        text: Text | None = None,
        fitted: Fitted | None = None,
    ) -> None:
        """``document`` is the resolved configuration that ``run.toml`` will hold; ``made_with`` what else the results
        depend on, for the checkpoints; ``notes`` are for whoever watches, and the journal; ``text`` is what the
        settings name, opened; ``fitted`` what became of rows that are too long."""
        self.settings, self.recorder, self.recipe, self.task = settings, recorder, recipe, task
        self.policy, self.sampler, self.learner, self.view = learner.policy, sampler, learner, view
        self.seed = settings.seed
        collects = collector(settings, recipe, task, sampler, self.policy, text)
        self.collect: Collects = collects
        self._upcoming = collects.upcoming
        self._document, self._notes = document, notes
        self._fitted = fitted or Fitted(task)
        self._held_out = HeldOut(settings, recipe, task, sampler, self.policy, learner.scorer.micro_batch, text)
        self.first_step = 0
        self.resumed: Checkpoint | None = None
        self._seconds: dict[str, float] = {}
        self._spent = 0.0
        self._tokens = 0
        self._step = 0
        self._unwritten: Callable[[], Row] | None = None
        self.signals = Signals(view.message, lambda number: give_up(number, self.rescue, view))
        saves = (learner, recorder, lambda: self.collect, lambda: self.signals.hurried)
        self._saving = Saving(*saves, settings, made_with or {})
        self._phase_began = 0.0
        self._phase_name = ""
        self._measured: dict[str, Any] = {}
        self._rescored: Rescored | None = None
        self.told: Callable[[], Mapping[str, Any]] = dict
        """What others have to say of a step, for its line in the journal."""
        self._memory = Keeper()
        self._spell = TokenTexts(self.policy.tokenizer)
        learner.watch, self.policy.budgets.say = self._learned, view.message

    # -- life ---------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[int]:
        """The numbers of the steps still to do. Writes the folder first, evaluates before and after, and turns
        a signal into a checkpoint after the step under way."""
        self.recorder.begin(self._document)
        what = f"{self._document['recipe']['name']} on {self.task.name}, from {self.settings.model}"
        self.view.start(self.recorder.name, what, self.settings.steps, self.first_step)
        if self.folder is not None and isinstance(self.view, ReadsRecords):
            self.view.records_in(self.folder)
        of_prompts = notes_of_run(self.recipe, self.task, self.policy.renderer)
        for note in (*self._notes, *self.policy.notes, *of_prompts, *self._fitted.lines):
            self.view.message(note)
        if self._notes:
            self.recorder.add({"kind": "resume", "step": self.first_step, "notes": list(self._notes)})
        if self._fitted.told and self.first_step == 0:
            self.recorder.add({"kind": "rows", "step": 0, "too_long": self._fitted.told})
        with self.signals, said_to(self.view.message):
            self._saving.finish(self.first_step, self._spent, self._tokens)
            if self.first_step == 0:
                self._evaluate(0, samples=self.settings.eval.samples)
            step = self.first_step
            while step < self.settings.steps and not self._out_of_budget():
                self._stop_if_asked()
                if self._held_out.is_between(step):  # here, so that a run makes up for it if it was stopped before
                    self._evaluate(step, samples=0)
                    if self._tired(step):
                        break
                self._seconds, self._step = {}, step
                if renew_reference(self.learner, self.settings, step):
                    self.recorder.keep_reference(step, self.policy)
                yield step
                step += 1
            self._stop_if_asked()
            self._save()
            self._evaluate(step, samples=self.settings.eval.samples)

    def _tired(self, step: int) -> bool:
        """Whether the evaluations have not got better for as many as ``eval.patience`` says; if so, that is told."""
        patience = self.settings.eval.patience
        if not patience or (num := idle(self.recorder.rows("eval"))) < patience:
            return False
        cause = f"{num} evaluations without a better one (eval.patience = {patience})"
        self.recorder.add({"kind": "end", "step": step, "cause": cause})
        self.view.message(f"the run ends after step {step}: {cause}; --resume with a larger eval.patience goes on")
        return True

    def require_readable(self) -> None:
        """Raise UserError, before anything is written, for a row that will be taken and cannot be made tokens."""
        upcoming = self._upcoming(self.recipe.sample, range(self.settings.steps))
        held_out = self._held_out.problems
        attempted, imitated = (upcoming, ()) if self.recipe.acts else ((), upcoming)
        require_readable([*attempted, *held_out], imitated, self.policy.renderer, self.task.place, self.view.message)

    def resume(self, saved: Checkpoint) -> None:
        """Continue after the checkpoint, whose weights the policy was loaded from; later records are forgotten."""
        self.learner.optimizer.load(saved.optimizer(), int(saved.state["num_updates"]))
        if self.learner.critic is not None:
            self.learner.critic.load(saved.critic(), int(saved.state["num_critic_updates"]))
        self.first_step, self.resumed = saved.step, saved
        self._saving.saved = saved.step
        self._spent, self._tokens = float(saved.state["spent"]), int(saved.state["tokens"])
        self.policy.budgets.remember(saved.state.get("caps", {}))
        self.collect.load(self.recipe.sample, saved.state)
        oldest = self.settings.cluster.staleness
        self.collect = with_drawn(self.collect, saved, self.task, oldest, self.view.message)
        self.sampler.load(self.policy.weights(), version=saved.step)
        self.rewind(saved.step)

    def rewind(self, step: int) -> None:
        """Forget what was recorded after turn number ``step``."""
        rows = self.recorder.rewind(step)
        self._held_out.remember(rows)
        self._saving.remember(rows)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a part of the step and say that it is under way."""
        self._phase_name, self._phase_began = name, time.perf_counter()
        self.view.phase(name)
        try:
            yield
        except NonFinite as error:
            raise UserError(
                f"step {self._step}: {error}. Lower learn.lr, or look at the attempts of the step before"
            ) from error
        finally:
            self._memory.check(name)
            wait_for(self.policy.device)  # else the next phase would be charged for this one's work
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - self._phase_began

    @contextlib.contextmanager
    def measured(self, step: int, batch: Batch) -> Iterator[None]:
        """Look at the step from both ends, if it is one of those that are measured."""
        probe = None
        if is_measured(self.settings, self.recipe, step):
            with self.phase("measure"):
                probe = Probe(self.learner, self.recipe, batch)
        yield
        with self.phase("measure"):
            self._measured = probe.row() if probe is not None else {}
            self._rescored = probe.after() if probe is not None else None

    def end_early(self, cause: str) -> None:
        """There is nothing left to learn from: an orderly end, unless nothing was learnt at all.

        Raises UserError in that case.
        """
        if self._step == 0:
            raise UserError(cause)
        self._save()
        self._evaluate(self._step, samples=self.settings.eval.samples)
        self.recorder.add({"kind": "end", "step": self._step, "cause": cause})
        self.view.message(f"the run ends here: {cause}")

    def sampled(self, num_tokens: int, num_rows: int) -> None:
        """Progress of sampling, from the sampler. Raises Stopped if there may be no time to finish the step."""
        if self.signals.hurried:
            self._stop_if_asked()
        elapsed = max(time.perf_counter() - self._phase_began, 1e-9)
        self.view.phase(self._phase_name, num_rows, None, num_tokens / elapsed)

    def _learned(self, num_rows: int, total: int) -> None:
        self._memory.check("micro-batch")
        self.view.phase(self._phase_name or "update", num_rows, total, None)

    # -- record -------------------------------------------------------------------------------------------------

    def record(self, step: int, collected: Collected, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """The step's line of the journal and its file of attempts; then a checkpoint if it is due."""
        every = self.settings.save.rollouts
        with self.phase("record"):
            row = metrics.of_all(collected.attempted, collected.told, batch, self.recipe, self._measured, outcomes)
            row |= self.told()
            kept = every and step % every == 0 and self.recipe.acts
            told = (collected.attempted, batch, outcomes, self._spell, self._rescored)
            table = attempts.of_step(*told) if kept else None
        of_step = (step, row, table, next(iter(batch.rollouts), None))
        self._unwritten = functools.partial(self._write, *of_step, self._spent, self._tokens)
        self.view.step(self._unwritten())
        if self.recipe.acts and collected.attempted:
            group = collected.attempted[step % len(collected.attempted)]
            self.view.attempt(attempts.prompt_text(group.problem), group.rollouts[0].text, group.rollouts[0].reward)
        done, last = step + 1, self.settings.steps
        if self.settings.save.every and done % self.settings.save.every == 0 and done < last:
            self._save()

    def _write(
        self, step: int, row: Row, table: pa.Table | None, shown: Rollout | None, spent: float, tokens: int
    ) -> Row:
        """Write the records of a step whose updates are all done; it is finished then. ``spent`` and ``tokens`` are
        those of the steps before. Returns the journal's row."""
        if table is not None:
            with self.phase("record"):
                self.recorder.add_attempts("step", step, table)
        seconds, total = {k: round(v, 4) for k, v in self._seconds.items()}, sum(self._seconds.values())
        self._spent, self._tokens = spent + total, tokens + row["num_tokens"]
        row = {"kind": "step", "step": step} | row | {"tokens_per_s": row["num_tokens"] / max(total, 1e-9)}
        row |= {"memory_gb": peak_gb(self.policy.device), "resident_gb": self._memory.most() / 1e9}
        row |= {"seconds": seconds, "spent": round(self._spent, 3)}
        self.recorder.add(row)
        self._saving.finish(step + 1, self._spent, self._tokens, shown)
        self._unwritten = None
        return row

    def _evaluate(self, step: int, samples: int) -> None:
        if not self._held_out.wants(step, samples):
            return
        self._step = step
        with self.phase("evaluate"):
            found = self._held_out.attempt(step, samples, self.sampled)
        seconds = self._seconds.pop("evaluate")
        if found.greedy:
            self.recorder.add_attempts("eval", step, attempts.of_evaluation(found.greedy, self._spell))
        row = {"kind": "eval", "step": step} | found.row | {"seconds": round(seconds, 3)}
        self.recorder.add(row)
        self.view.evaluated(row)
        self._saving.evaluated(row)

    def rescue(self) -> str:
        """After whatever ended the run: a checkpoint of the last finished step, where that can be had (``Saving``). A
        step that lacks only its records gets them. What there is to go on from, in words."""
        if self._unwritten is not None:
            self.recorder.rewind(self._step)  # whatever was written of them
            self._unwritten()
        return self.how_to_go_on() if self._saving.rescue() and self.folder is not None else ""

    def _stop_if_asked(self) -> None:
        if self.signals.asked is not None:
            if self._saving.finished:
                self._save()
            raise Stopped(self.how_to_go_on(), self.signals.asked)

    def _save(self) -> None:
        self.view.phase("checkpoint")
        self._saving.save()

    def _out_of_budget(self) -> bool:
        return 0 < self.settings.minutes * 60 <= self._spent or 0 < self.settings.tokens <= self._tokens

    def how_to_go_on(self) -> str:
        """What whoever stopped it does to continue."""
        here = "the run kept its records in memory, and what it learnt is in its model"
        return here if self.folder is None else f"continue with: upslope train --resume {self.folder}"
