"""How far sampling may run ahead of learning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Slots:
    """(S + 1) P places for problems whose attempts are written, scored, waiting or learnt from; S is the staleness, P
    the problems of a step.

    A problem takes a place when its attempts begin and gives it back when the update that learnt from it is done. So
    attempts that begin after update t stand behind at most S P others, and belong to step t + S at the latest: no
    sample is ever learnt from that is older than S updates, and none has to be thrown away for its age.

    >>> slots = Slots(staleness=1, per_step=4)
    >>> slots.begin(100), slots.begin(100)
    (8, 0)
    >>> slots.learnt(4)
    >>> slots.begin(100)
    4
    """

    staleness: int
    per_step: int
    taken: int = 0

    @property
    def free(self) -> int:
        return (self.staleness + 1) * self.per_step - self.taken

    def begin(self, wanted: int) -> int:
        """Take places for up to ``wanted`` problems; returns for how many there were some."""
        num = max(0, min(wanted, self.free))
        self.taken += num
        return num

    def learnt(self, num: int) -> None:
        """Give back the places of problems that an update has learnt from."""
        if num > self.taken:
            raise ValueError(f"{num} problems were learnt from, and only {self.taken} were begun")
        self.taken -= num
