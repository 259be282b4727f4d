"""A run as it happens: a live screen on a terminal, plain lines anywhere else.

The view keeps what it was told last; rich's refresh thread draws that four times a second. So a step costs the run a
few list appends. The thread sees only values that are replaced whole or lists that only grow.
"""

from __future__ import annotations

import atexit
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from upslope.inspect.live_why import LiveWhy
from upslope.inspect.reward_words import reward_columns, reward_pairs
from upslope.inspect.screen import unbreakable
from upslope.inspect.words import chart, duration, percent, shorten, visible
from upslope.record.journal import LOSSES, JournalRow, attempted, number, only_imitates, sample_of, told_problems

NUM_PLAIN_LINES = 40
"""A plain run prints about this many step lines, however long it is."""
_PLAIN_KEYS = ("reward", "accuracy", "loss", "length", "truncated", "entropy", "grad_norm", "tokens_per_s")
_SHOWN = (
    ("length", "length {:.1f}"),
    ("truncated", "cut off {:.0%}"),
    ("grad_norm", "gradient norm {:.3g}"),
    ("entropy", "entropy {:.2f}"),
    ("equal_groups", "equal groups {:.0%}"),
    ("logp_gap_max", "log-prob gap {:.1e}"),
)


class TerminalView:
    """Satisfies ``upslope.training.view.View``.

    Use it in a ``with`` block, or call ``close`` in a ``finally``: both give the cursor back after Ctrl-C. ``plain``
    None looks for itself: the live screen needs a terminal that understands escape sequences and UTF-8.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        plain: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(file=unbreakable(sys.stdout))
        able = self._console.file.isatty() and not self._console.is_dumb_terminal
        self._plain = plain if plain is not None else not (able and self._console.encoding.startswith("utf"))
        self._clock = clock
        self._live: Live | None = None
        self._title = Text("")
        self._state = ""
        self._first = self._done = self._num_steps = 0
        self._started = clock()
        self._finished: deque[tuple[int, float]] = deque(maxlen=32)  # (updates done, when), for the time left
        self._last: JournalRow = {}
        self._rewards: list[float] = []
        self._losses: list[float] = []
        self._imitates = False
        self._evals: list[JournalRow] = []
        self._phase: tuple[str, int | None, int | None, float | None] | None = None
        self._attempt: tuple[str, str, float] | None = None
        self._sample: tuple[str, str] | None = None
        self._why = LiveWhy(self.message)

    def __enter__(self) -> TerminalView:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(ok=kind is None)

    # What the run calls.

    def start(self, name: str, recipe_line: str, num_steps: int, first_step: int = 0) -> None:
        self._title = Text.assemble((_flat(name), "bold"), "  ", (_flat(recipe_line), "cyan"))
        self._first, self._done, self._num_steps = first_step, first_step, num_steps
        self._started = self._clock()
        self._finished.append((first_step, self._started))
        if self._plain:
            resumed = f" from={first_step}" if first_step else ""
            self._print(f"run {_flat(name)} steps={num_steps}{resumed} recipe={_flat(recipe_line)}")
            return
        self._live = Live(console=self._console, get_renderable=self._draw, refresh_per_second=4)
        # A caller that forgets close must not leave a terminal without a cursor.
        atexit.register(self.close, False)
        self._live.start()

    def records_in(self, folder: Path) -> None:
        self._why = LiveWhy(self.message, folder)

    def phase(
        self, name: str, done: int | None = None, total: int | None = None, unit_speed: float | None = None
    ) -> None:
        self._phase = (name, done, total, unit_speed)

    def step(self, row: JournalRow) -> None:
        step = number(row, "step")
        self._done = int(step) + 1 if math.isfinite(step) else self._done + 1
        self._imitates = only_imitates([row]) and (self._imitates or not self._rewards)
        self._rewards.append(number(row, "reward"))
        self._losses.append(number(row, "loss"))
        self._last = row
        self._finished.append((self._done, self._clock()))
        if self._plain and self._is_due():
            words = [_pair(key, number(row, key)) for key in _PLAIN_KEYS if row.get(key) is not None]
            words += reward_pairs(row)
            self._print(" ".join([f"step {self._done}/{self._num_steps}", *words, f"left={duration(self._left())}"]))
        self._look(patient=True)

    def evaluated(self, row: JournalRow) -> None:
        self._evals.append(row)
        sample = sample_of(row)
        self._sample = sample and (_flat(shorten(sample[0], 1000)), _flat(shorten(sample[1], 1000)))
        if self._plain:
            words = [f"eval step={row.get('step', self._done)}"]
            words += [f"problems={told_problems(row)}"] if " of " in told_problems(row) else []
            words += [_estimate("accuracy", row.get("greedy"))] if attempted(row) else []
            words += [] if attempted(row) or "reward" not in row else [_pair("reward", number(row, "reward"))]
            words += reward_pairs(row)
            words += [_pair(key, number(row, key)) for key in LOSSES if key in row]
            pass_at = row.get("pass_at") or {}
            words += [_estimate(f"pass@{k}", estimate) for k, estimate in pass_at.items()]
            self._print(" ".join(words))
            if self._sample is not None:
                self._print(f"sample {self._sample[0]} | {self._sample[1]}")

    def attempt(self, problem_text: str, response_text: str, reward: float) -> None:
        # Cut first: a screen shows a few hundred characters of what may be a hundred thousand.
        self._attempt = (_flat(shorten(problem_text, 2000)), _flat(shorten(response_text, 4000)), reward)

    def message(self, text: str) -> None:
        self._print(visible(text))

    def close(self, ok: bool) -> None:
        atexit.unregister(self.close)
        if self._state:
            return
        if ok:
            self._look(patient=False)
        self._state = "done" if ok else "stopped"
        self._phase = None
        if self._plain:
            spent = duration(self._clock() - self._started)
            self._print(f"{self._state} at step {self._done}/{self._num_steps} after {spent}")
        if self._live is not None:
            try:
                self._live.stop()
            finally:  # a second Ctrl-C may land inside stop
                self._console.show_cursor(True)

    def _look(self, *, patient: bool) -> None:
        if self._why.look(patient=patient) and self._plain:
            self._print(f"why {_flat(self._why.line) or 'nothing looks wrong any more'}")

    # Plain lines.

    def _is_due(self) -> bool:
        every = max(1, math.ceil((self._num_steps - self._first) / NUM_PLAIN_LINES))
        return self._done == self._first + 1 or self._done % every == 0 or self._done == self._num_steps

    def _print(self, text: str) -> None:
        # Logs are read in whatever encoding the machine has: a character it lacks becomes "?", never a crash.
        encoding = self._console.encoding
        self._console.print(Text(text.encode(encoding, "replace").decode(encoding)), soft_wrap=True)

    def _left(self) -> float:
        """Seconds to go, at the pace of the last steps (evaluations between them included)."""
        (done_then, then), (done_now, now) = self._finished[0], self._finished[-1]
        if done_now == done_then:
            return math.nan
        return (now - then) / (done_now - done_then) * (self._num_steps - done_now)

    # The screen, top to bottom; what matters most stands highest because a low terminal cuts the bottom.

    def _draw(self) -> RenderableType:
        width, height = self._console.size
        chart_height = 3 if height >= 20 else 1
        lines = [self._title, self._bar(width), *self._reward(width, chart_height), *self._held_out(width)]
        lines += [Text(reward_columns(self._last), "blue")] if self._last.get("rewards") else []
        if self._why.line:
            lines.append(Text.assemble((f"{'looks wrong':<16}", "bold yellow"), _flat(self._why.line)))
        lines += [self._numbers(), *([] if self._state else [self._now()])]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        room = min(height - len(lines) - 3, 12)  # two borders, and the line of the cursor
        if room < 2 or width < 20:
            return Group(*lines)
        if self._attempt is not None:
            problem, response, reward = self._attempt
            border, title = "green" if reward > 0 else "bright_black", f"an attempt, reward {reward:.3g}"
            return Group(*lines, self._panel(problem, response, width - 4, room, title, border))
        if self._sample is not None:
            return Group(*lines, self._panel(*self._sample, width - 4, room, "how it goes on", "bright_black"))
        return Group(*lines)

    def _bar(self, width: int) -> Text:
        words = f" {self._done}/{self._num_steps}  {duration(self._clock() - self._started)} gone"
        words += f", {duration(self._left())} left" if not self._state else f", {self._state}"
        length = max(0, min(40, width - len(words)))
        full = length * self._done // max(self._num_steps, 1)
        return Text.assemble(("━" * full, "green"), ("━" * (length - full), "bright_black"), words)

    def _reward(self, width: int, height: int) -> list[Text]:
        key, values = ("loss", self._losses[:]) if self._imitates else ("reward", self._rewards[:])
        bars = chart(values, max(1, min(60, width - 26)), height)
        finite = [value for value in values if math.isfinite(value)]
        label = f"{key} {values[-1]:.3g}" if values else "reward"
        # The first line carries the present value; of a chart with several lines, the ends of its scale as well.
        notes = [""] * len(bars)
        if finite and len(bars) > 1:
            notes[0], notes[-1] = f" {max(finite):.3g}", f" {min(finite):.3g}"
        labels = [label] + [""] * (len(bars) - 1)
        return [
            Text.assemble((f"{label:<16}", "bold"), (bar, "blue"), (note, "bright_black"))
            for label, bar, note in zip(labels, bars, notes, strict=True)
        ]

    def _held_out(self, width: int) -> list[Text]:
        if not self._evals:
            return []
        return [
            *([self._accuracy([row for row in self._evals if attempted(row)])] if attempted(self._evals[-1]) else []),
            *([] if attempted(self._evals[-1]) or "reward" not in self._evals[-1] else [self._predicted("reward")]),
            *(self._predicted(key) for key in LOSSES if key in self._evals[-1]),
        ]

    def _predicted(self, key: str) -> Text:
        """A held-out loss, or bits per byte: first, last, and the way between."""
        values = [number(row, key) for row in self._evals[:] if key in row]
        words = f"{values[-1]:.3f}" if len(values) == 1 else f"{values[0]:.3f} → {values[-1]:.3f}"
        line = Text.assemble((f"{LOSSES.get(key, f'held-out {key}'):<16}", "bold"), (words, "green"))
        if len(values) > 2:
            line.append("  " + chart(values, width=20)[0], "green")
        return line

    def _accuracy(self, rows: Sequence[JournalRow]) -> Text:
        first, last = (number(row, "greedy", "value") for row in (rows[0], rows[-1]))
        low, high = (number(rows[-1], "greedy", end) for end in ("low", "high"))
        words = percent(last) if len(rows) == 1 else f"{percent(first)} → {percent(last)}"
        line = Text.assemble((f"{'held-out':<16}", "bold"), (words, "green"), f"  [{percent(low)}, {percent(high)}]")
        line.append(f" {told_problems(rows[-1])} problems" if " of " in told_problems(rows[-1]) else "")
        if len(rows) > 2:
            line.append("  " + chart([number(row, "greedy", "value") for row in rows], width=20)[0], "green")
        return line

    def _numbers(self) -> Text:
        row = self._last
        return Text("   ".join(form.format(number(row, key)) for key, form in _SHOWN if row.get(key) is not None))

    def _now(self) -> Text:
        if self._phase is None:
            return Text("")
        name, done, total, speed = self._phase
        words = [_flat(name)]
        if done is not None:
            words.append(f"{done}/{total}" if total is not None else f"{done}")
        if speed is not None and math.isfinite(speed):
            words.append(f"{speed:,.0f} tokens/s")
        return Text("  ".join(words), "magenta")

    def _panel(self, problem: str, response: str, width: int, num_lines: int, title: str, border: str) -> Panel:
        """An attempt, or a sample of text, in at most ``num_lines`` lines; the response gets at least half of them."""
        asked = self._fit(problem, width, max(1, num_lines // 3))
        said = self._fit(response, width, num_lines - len(asked))
        body = Text("\n").join([*(Text(line, "bright_black") for line in asked), *(Text(line) for line in said)])
        body.no_wrap, body.overflow = True, "crop"
        return Panel(body, title=Text(title), title_align="left", border_style=border)

    def _fit(self, text: str, width: int, num_lines: int) -> list[str]:
        """``text`` in lines; where there are too many, its middle goes, since an answer ends a text."""
        text = shorten(text, width * num_lines)
        lines = Text(text).wrap(self._console, width)
        while len(lines) > num_lines:
            text = shorten(text, max(1, len(text) * num_lines // len(lines)) - 1)
            lines = Text(text).wrap(self._console, width)
        return [line.plain for line in lines] or [""]


def _flat(text: str) -> str:
    return visible(text.strip()).replace("\n", " ⏎ ")


def _pair(key: str, value: float) -> str:
    """``tokens_per_s=10900``, ``reward=0.3125``: never an exponent for a large number."""
    return f"{key}={value:.0f}" if abs(value) >= 1e4 else f"{key}={value:.4g}"


def _estimate(name: str, estimate: object) -> str:
    """``accuracy=0.41 [0.37, 0.45]``, in a form that greps."""
    value, low, high = (number({"it": estimate}, "it", key) for key in ("value", "low", "high"))
    return f"{name}={value:.4g} [{low:.4g}, {high:.4g}]"
