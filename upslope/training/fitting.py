"""``task.too_long``: rows that the model's positions have no room for stop the run before its first step, are left out,
or are shortened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from upslope.algo.recipe import Recipe
from upslope.algo.sample import Attempts, Demonstrations, Documents
from upslope.errors import UserError
from upslope.model.admission import PlainWay
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.hf import max_positions
from upslope.model.policy import PLAIN_WAY, admitted, num_embedded
from upslope.model.renderer import Renderer
from upslope.tasks.around import AroundTask
from upslope.tasks.base import Shares, Split, Task
from upslope.tasks.mixture import shares_of_left
from upslope.tasks.text_alone import TextAlone
from upslope.training.held_out import held_out_problems
from upslope.training.room import MEND_ATTEMPTS, LongRow, Room, longest_of, of_long, of_longest
from upslope.training.settings import RunSettings
from upslope.training.shown import mend_shown
from upslope.types import Problem

ALTERNATIVE = 'task.too_long = "drop" goes without such rows, "truncate" shortens them'


class Reads(Protocol):
    """What says whether a row fits: a policy, or what is known of one before it is made."""

    @property
    def renderer(self) -> Renderer: ...

    @property
    def max_positions(self) -> int: ...

    @property
    def plain(self) -> PlainWay: ...


@dataclass(frozen=True)
class Reader:
    """The same of a model that is no policy yet."""

    renderer: Renderer
    max_positions: int
    plain: PlainWay = PLAIN_WAY

    @staticmethod
    def of(model: Any, tokenizer: Any) -> Reader:
        """Raises UserError if the tokenizer has no end token, or the model cannot run."""
        renderer = ChatRenderer.of(tokenizer, model.generation_config, num_embedded(model))
        _, plain = admitted(model)
        return Reader(renderer, min(max_positions(model), plain.longest), plain)


@dataclass
class Fitted:
    """A task in which every row fits, and what became of those that did not, for the journal; empty if all did."""

    task: Task
    told: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


class FittingTask(AroundTask):
    """A task with other rows in the place of its own, where some are given."""

    def __init__(self, inner: Task) -> None:
        super().__init__(inner)
        self.sides: dict[Split, Sequence[Problem]] = {}
        self.imitated: Sequence[Problem] | None = None
        self.mixed: Shares | None = None
        self.read: Sequence[str] | None = None

    def problems(self, split: Split) -> Sequence[Problem]:
        return self.sides[split] if split in self.sides else super().problems(split)

    def demonstrations(self) -> Sequence[Problem]:
        return super().demonstrations() if self.imitated is None else self.imitated

    def shares(self) -> Shares:
        return super().shares() if self.mixed is None else self.mixed

    def documents(self) -> Sequence[str]:
        return super().documents() if self.read is None else self.read


def fit_rows(task: Task, recipe: Recipe, settings: RunSettings, reads: Reads, *, blocks: bool = False) -> Fitted:
    """The task with rows that fit the model's positions: of what the recipe takes, and of the held-out problems.
    ``blocks``: documents are cut to fit anyway.

    Raises UserError, which says how many are too long and names the longest, if ``task.too_long`` is ``stop``; for a
    side of which nothing is left; and for a row, by its address, that cannot be made tokens.
    """
    fitting = _Fitting(task, settings, reads)
    sample = recipe.sample
    if isinstance(sample, Attempts):
        fitting.attempted("train", task.problems("train"))
    elif isinstance(sample, Demonstrations):
        fitting.imitated()
    if not isinstance(sample, Attempts) and not blocks and (isinstance(sample, Documents) or sample.replay):
        fitting.read()
    fitting.held_out(shown=isinstance(sample, Demonstrations))
    return fitting.found


def fit_held_out(task: Task, settings: RunSettings, reads: Reads) -> Fitted:
    """The same of held-out problems alone, which are attempted."""
    fitting = _Fitting(task, settings, reads)
    fitting.held_out(shown=False)
    return fitting.found


def fit_training(task: Task, settings: RunSettings, reads: Reads) -> Fitted:
    """The same of training problems alone, which are attempted."""
    fitting = _Fitting(task, settings, reads)
    fitting.attempted("train", task.problems("train"))
    return fitting.found


class _Fitting:
    def __init__(self, task: Task, settings: RunSettings, reads: Reads) -> None:
        self._inner, self._settings, self._how = task, settings, settings.task.too_long
        self._room = Room(reads.renderer, settings.sample.sampling(), reads.max_positions, task.place)
        self._task = FittingTask(task)
        self._bound = f"; of the model: {reads.plain.bound}" if reads.plain.bound else ""
        self.found = Fitted(task)

    def attempted(self, split: Split, problems: Sequence[Problem]) -> None:
        rows = self._room.too_long_to_attempt(problems)
        what = "training problems" if split == "train" else "held-out problems"
        self._said(what, rows, len(problems))
        self._take(split, problems, {row.problem.id: self._shorter(row.problem) for row in rows}, what)

    def imitated(self) -> None:
        problems = self._inner.demonstrations()
        gone = self._too_long_to_imitate("demonstrations", problems)
        if gone:
            self._task.imitated = _left(problems, gone, "demonstrations")
            left = partial(_left, gone=gone, what="demonstrations of one of the data sets")
            weighted = bool(self._settings.task.weights)
            self._task.mixed = shares_of_left(self._inner.shares(), left, weighted=weighted)

    def read(self) -> None:
        texts = self._inner.documents()
        problems = [Problem(f"document {i}", (), demonstration=text) for i, text in enumerate(texts)]
        gone = self._too_long_to_imitate("documents", problems)
        if gone:
            self._task.read = [p.demonstration or "" for p in _left(problems, gone, "documents")]

    def held_out(self, *, shown: bool) -> None:
        """Those that evaluations look at, or, where some may be left out, all that they might look at."""
        if isinstance(self._inner, TextAlone) or not self._settings.eval.problems:
            return
        stops = self._how == "stop"
        problems = held_out_problems(self._settings, self._inner) if stops else self._inner.problems("test")
        if shown:
            shows = [p for p in problems if p.demonstration is not None]
            gone = self._too_long_to_imitate("held-out demonstrations", shows)
            self._take("test", problems, dict.fromkeys(gone), "held-out problems")
            problems = [p for p in problems if p.id not in gone]
        if self._inner.has_reward:
            self.attempted("test", problems)

    def _too_long_to_imitate(self, what: str, problems: Sequence[Problem]) -> set[str]:
        """The ids of those that have to be left out: all that are too long, or, where what is imitated is cut, those
        whose prompt alone is."""
        rows = self._room.too_long_to_imitate(problems)
        self._said(what, rows, len(problems), shown=True)
        cut = self._how == "truncate"
        return {row.problem.id for row in rows if not (cut and row.prompt < self._room.positions)}

    def _shorter(self, problem: Problem) -> Problem | None:
        return self._room.shortened(problem) if self._how == "truncate" else None

    def _take(
        self, split: Split, problems: Sequence[Problem], changed: Mapping[str, Problem | None], what: str
    ) -> None:
        if changed:
            found = [changed.get(p.id, p) for p in problems]
            self._task.sides[split] = _some([p for p in found if p is not None], what)

    def _said(self, what: str, rows: Sequence[LongRow], num: int, *, shown: bool = False) -> None:
        """Raise UserError, or remember what becomes of them."""
        if not rows:
            return
        longest, positions, place = longest_of(rows), self._room.positions, self._inner.place
        if self._how == "stop":
            mend = mend_shown(longest.problem) if shown else MEND_ATTEMPTS
            told = of_long(rows, num, what, positions, place, shown=shown)
            raise UserError(f"{told}; {mend}; {ALTERNATIVE}{self._bound}")
        done = "left out" if self._how == "drop" else "shortened"
        self.found.task = self._task
        self.found.told[what] = {"num": len(rows), "of": num, "longest": longest.total}
        line = of_longest(rows, positions, place, shown=shown)
        self.found.lines.append(f"task.too_long: {len(rows):,} of {num:,} {what} {done}; the longest is {line}")


def _left(problems: Iterable[Problem], gone: set[str], what: str) -> list[Problem]:
    return _some([p for p in problems if p.id not in gone], what)


def _some(found: list[Problem], what: str) -> list[Problem]:
    if not found:
        raise UserError(f"task.too_long leaves none of the {what}; take a model with more positions, or shorter rows")
    return found
