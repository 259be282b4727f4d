"""``upslope pipeline``, and ``upslope.pipeline`` in Python."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from upslope.config import load_pipeline
from upslope.errors import UserError
from upslope.inspect.report import write_report
from upslope.inspect.terminal import TerminalView
from upslope.lab.pipeline.kinds import KINDS
from upslope.lab.pipeline.report import StageFacts, facts_of, write_pipeline_report
from upslope.record.journal import JOURNAL
from upslope.training.pipeline.performing import Orders, perform_stages
from upslope.training.pipeline.plan import Stage
from upslope.training.view import NullView, View


def pipeline(
    source: str | Path | Mapping[str, Any],
    settings: Sequence[str] = (),
    *,
    name: str | None = None,
    out: str | Path | None = None,
    only: Sequence[str] = (),
    since: str = "",
    redo: bool = False,
    progress: bool | Callable[[], View] = True,
    say: Callable[[str], object] = print,
    again: str = Orders.again,
) -> list[StageFacts]:
    """Do the stages of a pipeline, in order, each in a run folder of its own below ``out/name``; what is done there
    is skipped, and what was stopped goes on, bit for bit. Returns what is there of every stage.

    ``source`` is a file, or the table that such a file holds (docs/pipeline.md); ``settings`` are ``KEY=VALUE`` for
    every stage or ``STAGE.KEY=VALUE`` for one. ``only`` these stages are done; from ``since`` on all are set aside and
    done anew; with ``redo`` so are those that were made with other settings. ``progress``: whether each stage is
    shown, or a function that makes a view of it. ``say`` is told which stage begins, and ``again`` is how whoever
    stops it goes on.

    Raises UserError for anything that can be mended, Stopped after Ctrl-C.
    """
    where = None if out is None else str(out)
    given = source if isinstance(source, Mapping) else Path(source)
    found = load_pipeline(given, KINDS, settings, name=name, out=where)
    if since and only:
        raise UserError(f"--from {since} does that stage and all after it, and --only some; give one of the two")
    make_view = progress if callable(progress) else TerminalView if progress else NullView
    orders = Orders(only=only, since=since, redo=redo, again=again, say=say, finished=_draw)
    perform_stages(found, KINDS, make_view, orders)
    write_pipeline_report(found.folder)
    return facts_of(found.folder)


def how_to_repeat(file: str, overrides: Sequence[str], name: str | None, out: str | None, only: Sequence[str]) -> str:
    """The command that goes on: the same without what sets stages aside."""
    words = ["upslope", "pipeline", file, *overrides]
    for option, value in (("--name", name), ("--out", out), *(("--only", stage) for stage in only)):
        words += [option, value] if value is not None else []
    return shlex.join(words)


def _draw(stage: Stage) -> None:
    """A stage's own picture, as ``upslope train`` leaves it."""
    if (stage.folder / JOURNAL).exists() and not (stage.folder / "report.png").exists():
        write_report(stage.folder)
