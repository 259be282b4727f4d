"""How a run ends before its last step: what signals ask for."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from upslope.tasks.at_work import WATCH, user_code_is_at_work
from upslope.training.view import View

ASKING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What people, SLURM, Kubernetes and a closing terminal send."""

GRACE = 5.0
"""Seconds that a user's code may go on after a signal that a kill may follow."""


class AtOnce(KeyboardInterrupt):
    """Asked to stop a second time: not after this step, but now. The message says what there is to go on from."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.signal = number


class Signals:
    """While it lasts, the first signal is only remembered, and the second one raises ``AtOnce``; if a user's code
    swallows that, ``give_up`` is called at the next one. Signals that are ignored (``nohup``) stay so. Outside the main
    thread nothing is changed: whoever runs us handles signals."""

    def __init__(self, say: Callable[[str], None], give_up: Callable[[int], None] | None = None) -> None:
        self._say, self._give_up = say, give_up
        self.asked: int | None = None
        """The first signal; None: none came."""
        self._before: dict[int, Any] = {}
        self._over = threading.Event()

    @property
    def hurried(self) -> bool:
        """Whether a kill may follow soon, so that what was only begun should be dropped: all but Ctrl-C."""
        return self.asked not in (None, signal.SIGINT)

    def __enter__(self) -> Signals:
        self._over.clear()
        for number in ASKING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                try:
                    self._before[number] = signal.signal(number, self._handle)
                except ValueError:
                    break
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        WATCH.stop = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.asked is not None:
            self._stop(number)
        self.asked = number
        again = "Ctrl-C again" if number == signal.SIGINT else "once more"
        name = "" if number == signal.SIGINT else f"{signal.Signals(number).name}: "
        if self.hurried:
            threading.Thread(target=self._remind, args=(number,), daemon=True).start()
        self._say(f"{name}finishing this step, then writing a checkpoint; {again} to stop at once")

    def _stop(self, number: int) -> None:
        stop = AtOnce(number)
        if user_code_is_at_work():
            if WATCH.stop is not None and self._give_up is not None:
                self._give_up(number)
            WATCH.stop = stop
        raise stop

    def _remind(self, number: int) -> None:
        """A reward may never return, and nothing of its step has reached the weights yet: so not after it, but now."""
        while not self._over.wait(GRACE):
            if user_code_is_at_work():
                os.kill(os.getpid(), number)


def give_up(number: int, rescue: Callable[[], str], view: View) -> None:
    """Code of a user's goes on whatever is raised in it: save what is finished, and end the process."""
    view.message(f"the reward does not end; {rescue()}")
    view.close(False)
    os._exit(128 + number)
