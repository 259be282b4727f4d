"""Slot ``sample``: who acts, how many attempts a problem, which of them are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from upslope.algo.equal import all_alike
from upslope.algo.slots import Sampled, kind
from upslope.types import Group

Keep = Callable[[Group], Group | None]


def everything(group: Group) -> Group | None:
    """Keep all attempts."""
    return group


def rewarded(group: Group) -> Group | None:
    """Keep the attempts with a positive reward: rejection sampling, the filter of RFT (arXiv 2308.01825)."""
    kept = tuple(r for r in group.rollouts if r.reward > 0)
    return replace(group, rollouts=kept) if kept else None


def mixed(group: Group) -> Group | None:
    """Keep a group whole if its rewards differ by more than rounding, else nothing: equal rewards teach nothing (DAPO,
    equation 11)."""
    return None if all_alike([r.reward for r in group.rollouts]) else group


@kind("sample")
@dataclass(frozen=True)
class Attempts(Sampled):
    """The policy acts: ``group_size`` attempts at every problem of the step, filtered by ``keep``.

    ``refill`` > 0 is dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): while the step has fewer groups than
    problems were asked for, further problems are tried, at most ``refill`` times that number in all. A step that
    stays short ends the run, with the cause; 0 learns from what was kept.

    ``drop_truncated`` is overlong filtering (section 3.4): an attempt cut by the length limit still counts when its
    siblings are compared, and is then left out of the loss, numerator and denominator.
    """

    group_size: int = 8
    keep: Keep = everything
    refill: float = 0.0
    drop_truncated: bool = False
    source: ClassVar[str] = "policy"

    def __post_init__(self) -> None:
        if self.group_size < 1:
            raise ValueError(f"group_size must be at least 1, not {self.group_size}")
        if self.refill and not self.refill >= 1:
            raise ValueError(f"refill is 0 (off) or a budget of at least 1, not {self.refill}")


@kind("sample")
@dataclass(frozen=True)
class Demonstrations(Sampled):
    """Somebody else acted: the task's worked responses, each an attempt with reward 1.

    ``replay`` is the share of every step filled with plain text instead, so that what was learnt from it is not
    forgotten: the task's documents, or blocks of ``task.text`` where that is given.
    """

    replay: float = 0.0
    source: ClassVar[str] = "demonstrations"

    def __post_init__(self) -> None:
        if not 0 <= self.replay < 1:
            raise ValueError(f"replay is a share in [0, 1), not {self.replay}")


@kind("sample")
@dataclass(frozen=True)
class Documents(Sampled):
    """Plain text, every token of it counted: pretraining as imitation with reward 1.

    ``block`` is how many tokens of the documents, laid end to end, one of the step's ``problems`` has. 0: a task's own
    documents are taken whole; of text (``task.text``) 512, or as many as the model's positions leave room for.
    ``across``: a block is one row, and a token sees all of the block before it, also of other documents. Else every
    document's piece of a block is a row of its own: its first token is predicted from the start token, or, where the
    piece goes on with a document, from the token before it.
    """

    block: int = 0
    across: bool = False
    source: ClassVar[str] = "documents"

    def __post_init__(self) -> None:
        if self.block < 0:
            raise ValueError(f"block must be at least 0, not {self.block}")


Sample = Attempts | Demonstrations | Documents
