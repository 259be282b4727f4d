"""A run's evaluations: which are due, and that each is made once, also over a stop in between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from upslope.algo.recipe import Recipe
from upslope.algo.sample import Demonstrations, Documents
from upslope.errors import UserError
from upslope.model.policy import Policy
from upslope.record.journal import num_samples
from upslope.rollout.base import Progress, Sampler
from upslope.tasks.base import Task
from upslope.tasks.text_alone import TextAlone
from upslope.training.chosen import chosen_problems
from upslope.training.corpora import Text, block_length
from upslope.training.evaluate import Evaluation, evaluate
from upslope.training.held_out_loss import HeldOutText, plain_scorer, predicted
from upslope.training.scored import standing_at
from upslope.training.settings import RunSettings
from upslope.training.shown import held_out_groups
from upslope.types import Group, Problem


def held_out_problems(settings: RunSettings, task: Task) -> list[Problem]:
    """The held-out problems that evaluations look at. Raises UserError where some are wanted and the task, which is not
    text alone, has none."""
    num = 0 if isinstance(task, TextAlone) else settings.eval.problems
    return chosen_problems(task, num) if num else []


class HeldOut:
    """The held-out problems, demonstrations and text that a run is evaluated on, and how far that is done."""

    def __init__(
        self,
        settings: RunSettings,
        recipe: Recipe,
        task: Task,
        sampler: Sampler,
        policy: Policy,
        micro_batch: int,
        text: Text | None = None,
    ) -> None:
        """Raises UserError for a held-out demonstration that the model is too short for."""
        self._setting, self._seed = settings.eval, settings.seed
        self._steps, self._per_step = settings.steps, settings.problems
        self._scorer = plain_scorer(policy, micro_batch)
        self._task, self._sampler, self._imitates = task, sampler, recipe.sample
        there = held_out_problems(settings, task)
        self.problems = there if task.has_reward else []
        """Those that are attempted."""
        self._num_there = len(task.problems("test")) if self.problems else 0
        self._text = held_out_text(settings, recipe, text, policy)
        self._shown: list[Group] = []
        """Demonstrations of the held-out problems, for a recipe that imitates the others'."""
        if there and isinstance(recipe.sample, Demonstrations):
            cuts = settings.task.too_long == "truncate"
            self._shown = held_out_groups(there, policy.renderer, policy.max_positions, cuts=cuts)
        self._done: set[tuple[int, int]] = set()  # (step, samples)
        self._sampling = replace(settings.sample.sampling(), temperature=self._setting.temperature, top_k=0, top_p=1.0)

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Those of these rows of the journal are done, and no others."""
        evals = [row for row in rows if row["kind"] == "eval"]
        self._done = {(row["step"], num_samples(row)) for row in evals}

    def is_between(self, step: int) -> bool:
        """Whether one is made before this step, in the middle of a run."""
        return bool(self._setting.every and step and step % self._setting.every == 0)

    def wants(self, step: int, samples: int) -> bool:
        """Whether there is something to evaluate, and this was not done yet."""
        return bool(self.problems or self._shown or self._text) and (step, self._num(samples)) not in self._done

    def _num(self, samples: int) -> int:
        return samples if self.problems and self._task.says_right else 0

    def attempt(self, step: int, samples: int, progress: Progress) -> Evaluation:
        """All problems, greedily and ``samples`` times, and all that is predicted, as the policy is after ``step``
        steps."""
        self._done.add((step, self._num(samples)))
        losses = self.losses()
        if not self.problems:
            return Evaluation(losses, [])
        found = evaluate(
            self._task,
            self._sampler,
            self._scorer.policy.renderer,
            self.problems,
            self._sampling,
            samples=samples,
            seed=self._seed,
            progress=progress,
            by=self._setting.by,
            num_there=self._num_there,
            standing=standing_at(step, self._steps, self._per_step, self._num_training()),
        )
        return Evaluation(found.row | losses, found.greedy)

    def _num_training(self) -> int:
        try:
            return len(self._task.problems("train"))
        except UserError:  # it may have held-out ones alone
            return 0

    def losses(self) -> dict[str, Any]:
        """``held_out_loss`` nats a token of what the recipe imitates: held-out demonstrations where it imitates such,
        else held-out text. ``bits_per_byte`` of held-out text, whatever the recipe; ``held_out_tokens`` and
        ``held_out_bytes`` of the text. ``sample``: a text of the policy's own, for a recipe that reads text."""
        row: dict[str, Any] = {}
        if self._shown:
            row["held_out_loss"] = predicted(self._scorer, self._shown).loss
        if self._text is None:
            return row
        if self._text.num_documents:
            found = self._text.measure(self._scorer)
            if not isinstance(self._imitates, Demonstrations):
                row["held_out_loss"] = found.loss
            row |= found.of_text
        if isinstance(self._imitates, Documents):
            policy = self._scorer.policy
            temperature = self._setting.temperature
            row["sample"] = self._text.sample(self._sampler, policy, temperature, self._seed)
        return row


def held_out_text(settings: RunSettings, recipe: Recipe, text: Text | None, policy: Policy) -> HeldOutText | None:
    """The run's held-out text; None where it reads none, evaluations do not ask for it, or nothing is held out and no
    sample is written."""
    if text is None or not settings.eval.text_tokens:
        return None
    length = block_length(recipe.sample, policy.max_positions)
    found = HeldOutText(text, settings.eval.text_tokens, length=length, renderer=policy.renderer)
    return found if found.num_documents or isinstance(recipe.sample, Documents) else None
