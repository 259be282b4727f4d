"""The thread that computes: whoever asks joins the rows that are being written, from any thread, at any time."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from upslope.errors import Unavailable
from upslope.model.growing import GrowingText
from upslope.model.policy import Policy
from upslope.rollout.joining import Guest, JoinedRows, Seat, TokenTold
from upslope.rollout.local import CACHE_BUDGET
from upslope.rollout.reading import read_texts
from upslope.types import Ended

LEAST_ROOM = 256
"""Tokens a row can hold at least, so that short requests share a table."""
WASTE = 4
"""An empty table that is so many times longer than it need be is given up: a shorter one has more rows."""
READ_TOKENS = 2048
"""Tokens of given texts in one pass, between two tokens of those who write."""
GATHER = 0.005
"""Seconds that the first one waits for others where a batch cannot be joined later."""
CLOSED = "the server is closing"


@dataclass(frozen=True)
class Said:
    """What was written since the last piece.

    >>> Said((TokenTold(7, -0.5),), "hi", "stop").ended
    'stop'
    """

    tokens: tuple[TokenTold, ...]
    text: str
    ended: Ended | None = None
    """Why it ended, in the last piece."""


Deliver = Callable[[Said | Exception], None]
"""Called in the engine's thread; the last call is a piece that has ended, or what went wrong."""


@dataclass(eq=False)
class Writing:
    """A response that is to be written."""

    guest: Guest
    stops: tuple[str, ...]
    """Texts that end it."""
    streamed: bool
    """Told piece by piece; else all in one."""
    tell: Deliver
    cancelled: bool = False
    """Nobody waits for it any more; set by whoever asked."""
    tokens: list[TokenTold] = field(default_factory=list)
    """Not told yet; this and what follows is the engine's."""
    text: str = ""
    grown: GrowingText | None = None


@dataclass(eq=False)
class Reading:
    """A text of which every token is to be scored; told as one piece, without its first token."""

    ids: tuple[int, ...]
    num_top: int
    tell: Deliver
    cancelled: bool = False


class ServingEngine:
    """Serves a policy from a thread of its own. ``with`` starts it, and ends it with whatever it is at."""

    def __init__(
        self, policy: Policy, read: Callable[[Sequence[int]], str], *, max_rows: int = 64, budget: int = CACHE_BUDGET
    ) -> None:
        """``read`` makes text of tokens; ``budget`` is bytes for keys and values, of which ``max_rows`` rows at most
        are written at once. A single request may take more than the budget."""
        self._policy, self._read, self._max_rows, self._budget = policy, read, max_rows, budget
        self._asked: deque[Writing | Reading] = deque()
        self._something = threading.Condition()
        self._closing = False
        self._tables: list[JoinedRows] = []
        self._waiting: deque[Writing] = deque()
        self._to_read: deque[Reading] = deque()
        self._written: dict[Seat, Writing] = {}
        self._thread = threading.Thread(target=self._run, name="upslope-engine", daemon=True)

    def __enter__(self) -> ServingEngine:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        self._thread.join()

    def close(self) -> None:
        """Everybody who waits is told that nothing more comes."""
        with self._something:
            self._closing = True
            self._something.notify()

    def ask(self, jobs: Sequence[Writing | Reading]) -> None:
        """In the order given, behind what was asked before. Raises Unavailable once it is closing."""
        with self._something:
            if self._closing:
                raise Unavailable(CLOSED)
            self._asked += jobs
            self._something.notify()

    @property
    def num_asked(self) -> int:
        """Who has not got a row yet."""
        return len(self._asked) + len(self._waiting) + len(self._to_read)

    @torch.no_grad()
    def _run(self) -> None:
        while self._take():
            try:
                self._seat()
                for table in self._tables:
                    for seat, told, ended in table.step():
                        self._say(seat, told, ended)
                self._read_some()
            except Exception as error:  # theirs, not the server's: it goes on with whoever comes next
                self._fail(error)
        self._fail(Unavailable(CLOSED))

    def _take(self) -> bool:
        """Wait until there is something to do; False: it is closing."""
        if not (self._written or self._waiting or self._to_read):
            with self._something:
                self._something.wait_for(lambda: self._closing or self._asked)
            if not self._policy.packs:
                time.sleep(GATHER)
        with self._something:
            for job in self._asked:
                if isinstance(job, Reading):
                    self._to_read.append(job)
                    continue
                if job.streamed or job.stops:
                    job.grown = GrowingText(self._read, job.stops)
                self._waiting.append(job)
            self._asked.clear()
            return not self._closing

    def _seat(self) -> None:
        """Those who wait get rows, first come first served; those who are gone leave theirs."""
        for seat, writing in list(self._written.items()):
            if writing.cancelled:
                seat.left = True
                del self._written[seat]
        self._waiting = deque(writing for writing in self._waiting if not writing.cancelled)
        while self._waiting:
            table = self._table_for(self._waiting[0].guest)
            if table is None:
                return
            joining = [self._waiting[i] for i in range(min(table.num_free, self._num_fitting(table.room)))]
            for _ in joining:
                self._waiting.popleft()
            seats = table.join([writing.guest for writing in joining])
            self._written.update(zip(seats, joining, strict=True))

    def _num_fitting(self, room: int) -> int:
        """How many of those who wait, from the first on, are no longer than that."""
        return sum(1 for _ in itertools.takewhile(lambda w: w.guest.sampling.max_tokens <= room, self._waiting))

    def _table_for(self, guest: Guest) -> JoinedRows | None:
        """One with a free row that is long enough, if need be a new one; None where there is no room for one now."""
        wanted = guest.sampling.max_tokens
        room = max(LEAST_ROOM, 1 << (wanted - 1).bit_length())
        for table in self._tables:
            fits = wanted <= table.room and (table.live or table.room <= WASTE * room)
            if fits and table.num_free:
                return table
        self._tables = [table for table in self._tables if table.live]
        row_bytes = self._policy.cache_bytes
        held = sum(table.num_rows * table.room for table in self._tables) * row_bytes
        num_live = sum(len(table.live) for table in self._tables)
        num_rows = min(self._max_rows - num_live, (self._budget - held) // ((len(guest.prompt) + room) * row_bytes))
        if num_rows < 1 and self._tables:
            return None
        if not self._policy.packs:  # nobody can join it later
            num_rows = min(num_rows, self._num_fitting(room))
        num_rows = max(1, num_rows)
        policy = self._policy
        decoder = policy.decoder(num_rows, room)
        table = JoinedRows(decoder, num_rows, room, policy.end_ids, policy.device, policy.never.ban_)
        self._tables.append(table)
        return table

    def _say(self, seat: Seat, told: TokenTold, ended: bool) -> None:
        """Add a token to whoever sits there, and tell what may be told."""
        writing = self._written[seat]
        writing.tokens.append(told)
        if writing.grown is not None:
            writing.text += writing.grown.add(told.id)
            if ended:
                writing.text += writing.grown.rest()
            if writing.grown.stopped:
                seat.left = ended = True
        elif ended:
            writing.text = self._read([each.id for each in writing.tokens])
        if not (ended or writing.streamed):
            return
        cut = seat.num_tokens == seat.guest.sampling.max_tokens
        by_end = told.id in seat.guest.ends or told.id in self._policy.end_ids
        stopped = by_end or (writing.grown is not None and writing.grown.stopped)
        why: Ended | None = None if not ended else "length" if cut and not stopped else "stop"
        piece = Said(tuple(writing.tokens), writing.text, why)
        writing.tokens, writing.text = [], ""
        if ended:
            del self._written[seat]
        _told(writing, piece)

    def _read_some(self) -> None:
        """Score given texts of one kind, as many as make a pass."""
        batch: list[Reading] = []
        while self._to_read and (not batch or sum(len(r.ids) for r in batch) < READ_TOKENS):
            if batch and self._to_read[0].num_top != batch[0].num_top:
                break
            reading = self._to_read.popleft()
            if not reading.cancelled:
                batch.append(reading)
        if batch:
            try:
                found = read_texts(self._policy, [reading.ids for reading in batch], batch[0].num_top)
            except Exception as error:
                for reading in batch:
                    _told(reading, error)
                return
            for reading, tokens in zip(batch, found, strict=True):
                _told(reading, Said(tuple(tokens), "", "stop"))

    def _fail(self, error: Exception) -> None:
        """Tell everybody who is being served, and begin anew."""
        with self._something:
            jobs = [*self._written.values(), *self._waiting, *self._to_read, *self._asked]
            self._asked.clear()
        self._tables, self._written = [], {}
        self._waiting.clear()
        self._to_read.clear()
        for job in jobs:
            _told(job, error)


def _told(job: Writing | Reading, what: Said | Exception) -> None:
    if not job.cancelled:
        with contextlib.suppress(RuntimeError):  # whoever asked is gone, and the loop that it waited in
            job.tell(what)
