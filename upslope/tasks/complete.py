"""A user's own object as a whole task: what it lacks has its default, what it returns is checked.

``problems`` and ``score`` are all that an object needs. Whatever else of ``Task`` it has is used.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from upslope.errors import UserError
from upslope.plugins import describe, file_of, is_own, said, unless_interrupted
from upslope.plugins.world import world_of
from upslope.tasks.at_work import at_work, on
from upslope.tasks.base import Split, Task
from upslope.tasks.episode import Episode
from upslope.tasks.guarded import GuardedEpisode, is_message, require_spans, require_steps
from upslope.tasks.problem_set import half_character, require_text
from upslope.tasks.reward_values import finite
from upslope.types import Problem, Score

NEEDED: Mapping[str, str] = {
    "problems": "problems(split), which returns a list of Problem for 'train' and for 'test'",
    "score": "score(problems, responses), which returns a list with one Score for each response",
}
"""The methods without which nothing is a task."""
_NAME = re.compile(r"[\w][\w .+-]*")


def complete(task: Any) -> Task:
    """The object with ``Task``'s defaults for what it lacks, and checked; the package's own tasks as they are.

    Raises UserError if it has no ``problems`` or no ``score``.
    """
    if inspect.isclass(task) or inspect.isroutine(task):
        raise UserError(f"task {task.__name__} is a {type(task).__name__}; call it, and give what it returns")
    return task if isinstance(task, Task) and is_own(task) else Completed(task, type(task).__name__)


def missing(own: Any) -> str:
    """Which of the needed methods an object lacks, in words; empty if none."""
    lacks = [what for name, what in NEEDED.items() if not callable(getattr(own, name, None))]
    lacks += [NEEDED[name] for name in sorted(getattr(own, "__abstractmethods__", ())) if name in NEEDED]
    return " and ".join(dict.fromkeys(lacks))


class Completed(Task):
    """The task that an object of the user's makes; every fault of it is a UserError that begins with ``task SPEC``."""

    def __init__(self, own: Any, spec: str) -> None:
        self._own, self._where = own, f"task {spec}"
        lacks = missing(own)
        if lacks:
            raise UserError(f"{self._where}: {type(own).__name__} has no {lacks}")
        self._sides: dict[str, tuple[Problem, ...]] = {}
        self._file = file_of(type(own))
        name = getattr(own, "name", None) or type(own).__name__
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{self._where}: its name {said(name)} must be a word or two; run folders are called so")
        self.name = name
        self.max_tokens = getattr(own, "max_tokens", None)
        if self.max_tokens is not None and (type(self.max_tokens) is not int or self.max_tokens < 1):
            raise UserError(f"{self._where}: max_tokens = {said(self.max_tokens)} must be None or a number from 1 on")
        self.reads_answers = bool(getattr(own, "reads_answers", True))
        self.has_reward = bool(getattr(own, "has_reward", True))
        self.independent = bool(getattr(own, "independent", False))
        self.says_right = bool(getattr(own, "says_right", True))
        self.keep_special = bool(getattr(own, "keep_special", False))

    def problems(self, split: Split) -> Sequence[Problem]:
        if split not in self._sides:
            self._sides[split] = self._problems(split)
        return self._sides[split]

    def demonstrations(self) -> Sequence[Problem]:
        found: Sequence[Problem] = self._list("demonstrations", Problem, self._call("demonstrations"))
        for place, problem in enumerate(found):
            self._check_problem("demonstrations()", place, problem)
            if not isinstance(problem.demonstration, str):
                raise UserError(f"{self._where}: demonstrations()[{place}] ({problem.id}) has no text to imitate")
        return found

    def documents(self) -> Sequence[str]:
        found: Sequence[str] = self._list("documents", str, self._call("documents"))
        halves = [place for place, text in enumerate(found) if half_character(text)]
        if halves:
            raise UserError(f"{self._where}: documents()[{halves[0]}] has half a character, which no tokenizer reads")
        return found

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        with at_work(f"{self._where}: score() {on(problems)}"):
            returned = self._call("score", problems, responses)
        scores = self._list("score", Score, returned)
        if len(scores) != len(responses):
            raise UserError(
                f"{self._where}: score() returned {len(scores)} scores for {len(responses)} responses; one for each"
            )
        return [self._checked(problem, score) for problem, score in zip(problems, scores, strict=True)]

    def check_rewards(self) -> None:
        self._call("check_rewards")

    def episode(self, problem: Problem) -> Episode | None:
        found: Episode | None = self._call("episode", problem)
        return None if found is None else GuardedEpisode(found, self._where, file_of(type(found)))

    def check_columns(self) -> None:
        self._call("check_columns")

    def place(self, problem: Problem) -> str:
        return said(self._call("place", problem), str)

    def problem_from_row(self, row: Mapping[str, Any], where: str) -> Problem | None:
        problem = self._call("problem_from_row", row, where)
        if problem is not None and not isinstance(problem, Problem):
            raise UserError(f"{self._where}: problem_from_row() returned {_kind(problem)}, not a Problem or None")
        return problem

    def fingerprint(self) -> str:
        found = self._call("fingerprint")
        if not isinstance(found, str):
            raise UserError(f"{self._where}: fingerprint() returned {_kind(found)}, not text")
        return found

    def _problems(self, split: Split) -> tuple[Problem, ...]:
        found = self._list("problems", Problem, self._call("problems", split))
        if not found:
            raise UserError(f"{self._where}: problems({split!r}) is empty (eval.problems=0 does without held-out ones)")
        here = f"problems({split!r})"
        first = {problem.id: f"problems({other!r})" for other, side in self._sides.items() for problem in side}
        for place, problem in enumerate(found):
            self._check_problem(here, place, problem)
            if problem.id in first:
                raise UserError(
                    f"{self._where}: {here}[{place}] has the id {problem.id!r}, as {first[problem.id]} has; "
                    "ids must be unique"
                )
            first[problem.id] = f"{here}[{place}]"
        return tuple(found)

    def _checked(self, problem: Problem, score: Score) -> Score:
        """The score, its reward as a float whatever number it is."""
        gave = f"{self._where}: score() gave {problem.id}"
        reward = finite(score.reward)
        if reward is None:
            raise UserError(f"{gave} the reward {said(score.reward):.60}; it must be a finite number")
        if not isinstance(score.extracted, str | None) or half_character(score.extracted or ""):
            raise UserError(
                f"{gave} extracted={said(score.extracted, ascii):.60}; it must be text, or None for no answer"
            )
        if score.lenient is not None and finite(score.lenient) is None:
            raise UserError(f"{gave} lenient={said(score.lenient):.60}; it must be a finite number, or None")
        if not isinstance(score.right, bool | None):
            raise UserError(f"{gave} right={said(score.right):.60}; it must be True, False, or None")
        require_steps(score.steps, gave)
        return replace(score, reward=reward, decided=self.says_right and score.decided)

    def _check_problem(self, method: str, place: int, problem: Problem) -> None:
        where = f"{self._where}: {method}[{place}]"
        if not isinstance(problem.id, str) or not problem.id:
            raise UserError(f"{where} has the id {said(problem.id):.60}; it must be a text of its own")
        chat = problem.messages
        if not isinstance(chat, tuple | list) or not chat or not all(map(is_message, chat)):
            raise UserError(
                f"{where} ({problem.id}): messages must be a tuple of {{'role': ..., 'content': ...}}, not "
                f"{said(chat):.60}"
            )
        if not isinstance(problem.truth, str):
            raise UserError(f"{where} ({problem.id}): truth must be text, not {said(problem.truth):.60} (str(x) of it)")
        if not isinstance(problem.demonstration, str | None):
            raise UserError(f"{where} ({problem.id}): demonstration must be text, or None")
        if problem.conversation and not all(map(is_message, problem.conversation)):
            raise UserError(
                f"{where} ({problem.id}): conversation must be a tuple of {{'role': ..., 'content': ...}}, not "
                f"{said(problem.conversation):.60}"
            )
        require_text(problem, f"{where} ({said(problem.id)})")
        if problem.replies:
            shown = problem.demonstration if isinstance(problem.demonstration, str) else ""
            require_spans(problem.replies, len(shown), f"{where} ({problem.id})")

    def _list(self, method: str, kind: type, found: Any) -> Any:
        """The list that a method returned, every item of the right type."""
        if not isinstance(found, Sequence) or isinstance(found, str | bytes):
            raise UserError(f"{self._where}: {method}() returned {_kind(found)}, not a list of {kind.__name__}")
        for place, item in enumerate(found):
            if not isinstance(item, kind):
                raise UserError(f"{self._where}: {method}()[{place}] is {_kind(item)}, not a {kind.__name__}")
        return found

    def _call(self, method: str, *arguments: Any) -> Any:
        """A method of the object, else the default; its crash as one line with the place in the user's file."""
        own = getattr(self._own, method, None)
        if own is None:
            return getattr(Task, method)(self, *arguments)
        try:
            if method == "episode":  # asked in the thread that samples, where nothing of the process is changed
                return own(*arguments)
            with world_of(type(self._own).__module__).inside():
                return own(*arguments)
        except UserError:
            raise
        except BaseException as error:
            unless_interrupted(error)
            raise UserError(f"{self._where}: {method}() crashed: {describe(error, self._file)}") from error


def _kind(value: Any) -> str:
    return "nothing (None)" if value is None else f"a {type(value).__name__}"
