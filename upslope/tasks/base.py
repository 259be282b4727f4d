"""What every task offers: problems by split, demonstrations to imitate, a score for any response."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from upslope.errors import UserError
from upslope.tasks.episode import Episode
from upslope.types import Problem, Score

Split = Literal["train", "test"]
Shares = Sequence[tuple[float, Sequence[Problem]]]
"""Data sets that are mixed: what share of all draws each has (in all 1), and its demonstrations."""


@runtime_checkable
class Task(Protocol):
    """Problems and their reward. Implementations never import torch.

    Only ``problems`` and ``score`` have to be written; a subclass inherits the rest as it stands here, and an object
    that is no subclass gets it from ``upslope.tasks.complete``.

    >>> class Echo(Task):
    ...     name = "echo"
    ...
    ...     def problems(self, split):
    ...         return [Problem(f"echo/{split}/0", ({"role": "user", "content": "Say hi."},), truth="hi")]
    ...
    ...     def score(self, problems, responses):
    ...         return [Score(float(p.truth == r)) for p, r in zip(problems, responses, strict=True)]
    >>> Echo().score(Echo().problems("train"), ["hi"])[0].reward, Echo().demonstrations(), Echo().max_tokens
    (1.0, (), None)
    """

    name: str
    """One short word or two: it stands in names of run folders."""
    max_tokens: int | None = None
    """The longest attempt that the task suggests, in tokens; None: it has no opinion."""
    reads_answers: bool = True
    """Whether ``Score.extracted`` means something: without an answer it is None."""
    keep_special: bool = False
    """Whether the text that is scored has the special tokens of the response, but for the one that ends it."""
    has_reward: bool = True
    """False where nothing says what is right, so that the task can be imitated or read, and not attempted."""
    independent: bool = False
    """Whether its problems were drawn independently of each other, so that the first ones are a sample of all. Of other
    tasks, evaluations that take fewer problems than there are take some from everywhere."""
    says_right: bool = True
    """False where its rewards do not say which attempts are right (``Score.decided``): there is no accuracy then."""

    @abstractmethod
    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems to learn from or the held-out ones, in a fixed order. Raises UserError if there are none."""
        ...

    @abstractmethod
    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """One score for each response to the problem at the same place. A crashed checker raises, it is never 0.

        Called in the main thread: once a step, or, where that takes long, with one or several whole groups while
        further ones are sampled. Which ones share a call is then a matter of timing, so each response is judged by
        itself."""
        ...

    def episode(self, problem: Problem) -> Episode | None:
        """The world of one attempt at the problem, asked for anew by each; None: the policy writes alone."""
        return None

    def demonstrations(self) -> Sequence[Problem]:
        """Problems whose ``demonstration`` is not None, for imitation; empty if the task has none."""
        return ()

    def shares(self) -> Shares:
        """The demonstrations by data set, where several are mixed; empty: each is imitated once a pass."""
        return ()

    def documents(self) -> Sequence[str]:
        """Plain text for pretraining; empty if the task has none."""
        return ()

    def check_rewards(self) -> None:
        """Raise UserError if ``score`` could not be called, whatever the responses: asked before a run begins."""
        return

    def check_columns(self) -> None:
        """Raise UserError if the task's rewards ask for a column that no row has: asked before a run begins."""
        return

    def place(self, problem: Problem) -> str:
        """Where a problem comes from, for messages: its id, and the file's row where it has one."""
        return problem.id

    def problem_from_row(self, row: Mapping[str, Any], where: str) -> Problem | None:
        """The problem in the own columns of a line to be scored, or None if what scoring needs is not there: then the
        line is of one of ``problems``, by its id. Loads no data. ``where`` is the line's address, for messages."""
        return None

    def fingerprint(self) -> str:
        """A hash of everything that problems, demonstrations and documents depend on (cache keys, run.toml)."""
        lines: list[list[object]] = [[split, _told(p)] for split, side in sides(self).items() for p in side]
        lines += [["demonstrations", _told(p)] for p in self.demonstrations()]
        lines.append(["documents", *self.documents()])
        digest = hashlib.sha256()
        for line in lines:
            digest.update(json.dumps(line, sort_keys=True, default=repr).encode() + b"\n")
        return digest.hexdigest()


def _told(problem: Problem) -> dict[str, object]:
    """Its fields; the form where it is not left open, so that data of earlier versions keep their hash."""
    return {name: value for name, value in vars(problem).items() if name != "form" or value != "auto"}


def scores_of(
    task: Task, problems: Sequence[Problem], responses: Sequence[str], *, of: str = "responses"
) -> list[Score]:
    """The task's score of each response. Raises UserError unless there are as many."""
    scores = task.score(problems, responses)
    if len(scores) != len(responses):
        raise UserError(f"task {task.name} returned {len(scores)} scores for {len(responses)} {of}")
    return scores


def sides(task: Task) -> dict[Split, Sequence[Problem]]:
    """The problems of every split that has some. Raises UserError if none has."""
    found: dict[Split, Sequence[Problem]] = {}
    missing: list[UserError] = []
    for split in get_args(Split):
        try:
            found[split] = task.problems(split)
        except UserError as error:  # a task may have one split only
            missing.append(error)
    if not found:
        raise missing[0]
    return found
