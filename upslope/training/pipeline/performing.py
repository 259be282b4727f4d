"""Doing the stages of a pipeline: what is done is skipped, what was stopped goes on, what changed is named."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from upslope.errors import Stopped, UserError
from upslope.files import PART, write_whole
from upslope.model.names import BEST
from upslope.record.checkpoint import ASIDE
from upslope.record.claim import LOCK, OWNER, Taken, claimed, is_begun
from upslope.training.ending import AtOnce
from upslope.training.pipeline.notes import NOTES, Note, Notebook
from upslope.training.pipeline.plan import NAMED, Kinds, Pipeline, Stage
from upslope.training.tables import dotted
from upslope.training.view import View
from upslope.versions import RECORDED, running

PIPELINE = "pipeline.toml"
"""In a pipeline's folder: the stages with their resolved settings."""


def move_aside(folder: Path) -> Path:
    """Rename a stage's folder to the next free ``NAME.set-aside``, and return that. Raises Taken if it is in use."""
    with claimed(folder, resume=True):
        pass
    names = (folder.with_name(f"{folder.name}{ASIDE}{number or ''}") for number in itertools.count())
    free = next(name for name in names if not name.exists() and not name.is_symlink())
    return folder.rename(free)


@dataclass(frozen=True)
class Orders:
    """How a pipeline is to be done, and who is told of it."""

    only: Collection[str] = ()
    """Stages to do, the others must be done if these need them; empty: all."""
    since: str = ""
    """This stage and all after it are set aside and done anew; empty: none."""
    redo: bool = False
    """Stages that were made of something else are set aside and done anew, and those that need them."""
    again: str = "repeat the same command: what is done is kept"
    """How to go on after a stop."""
    say: Callable[[str], object] = lambda line: None
    finished: Callable[[Stage], object] = lambda stage: None
    """Called when a stage is done, also for one that was done before."""
    clear: Callable[[Path], Path | None] = move_aside
    """What becomes of a stage's folder that is in the way of a new one; returns where it is now."""


def perform_stages(pipeline: Pipeline, kinds: Kinds, make_view: Callable[[], View], orders: Orders = Orders()) -> None:
    """Do what is not done. Raises UserError for anything a user can mend (before minutes are spent, where that can be
    known), Taken if another process is at work in the folder, Stopped after Ctrl-C."""
    for name in (*orders.only, *((orders.since,) if orders.since else ())):
        pipeline.named(name)
    wanted = [stage for stage in pipeline.stages if not orders.only or stage.name in orders.only]
    for stage in wanted:
        if not _reads_earlier(stage):
            with _of_stage(stage):
                kinds[stage.kind].check(stage.settings)
    with _held(pipeline.folder, [stage.name for stage in pipeline.stages]):
        _Performance(pipeline, kinds, make_view, orders).run([stage.name for stage in wanted])


def _reads_earlier(stage: Stage) -> bool:
    """Whether its settings name a folder that an earlier stage fills, other than that of its model: until it is filled
    nobody can say whether they are right."""
    return any(need != stage.start for need in stage.needs)


class _Performance:
    """One call's way through the stages, while it holds the folder."""

    def __init__(self, pipeline: Pipeline, kinds: Kinds, make_view: Callable[[], View], orders: Orders) -> None:
        self._pipeline, self._kinds, self._make_view, self._orders = pipeline, kinds, make_view, orders
        self._book = Notebook(pipeline.folder)
        self._now: dict[str, Note] = {}
        self._in_the_way: list[Stage] = []

    def run(self, wanted: Sequence[str]) -> None:
        """Compare first, so that what changed is named before anything is done or moved."""
        stages, needed = self._pipeline.stages, self._needed(wanted)
        left = self._compare_all([stage for stage in stages if stage.name in needed], wanted)
        for place, stage in enumerate(stages, 1):
            if stage.name not in wanted:
                continue
            self._bring_to_end(stage, f"stage {place} of {len(stages)}: {stage.name}")
            if left:
                left = self._compare_all(left, wanted)

    def _compare_all(self, stages: Sequence[Stage], wanted: Sequence[str]) -> list[Stage]:
        """Compare those that can be, and set aside what is in the way; returns the others, which read what is yet to be
        made. The file of the pipeline is written when nothing that was begun is left that could be refused."""
        left = []
        for stage in stages:
            if not self._can_be_compared(stage):
                left.append(stage)
                continue
            if stage.name in wanted and _reads_earlier(stage):
                with _of_stage(stage):
                    self._kinds[stage.kind].check(stage.settings)
            self._compare(stage, asked=stage.name in wanted)
        self._in_the_way += self._falling([stage for stage in left if stage.name in wanted])
        self._clear()
        if not any(self._book.of(stage.name) for stage in left):
            write_whole(self._pipeline.folder / PIPELINE, tomli_w.dumps(self._document()).encode())
        return left

    def _can_be_compared(self, stage: Stage) -> bool:
        """Whether all that its settings name is there, and to stay; the model that it begins with need not be."""
        read = [self._pipeline.named(need) for need in stage.needs if need != stage.start]
        there = all(self._is_done(each) and each not in self._in_the_way for each in read)
        return there and all(need in self._now for need in stage.needs)

    def _falling(self, stages: Sequence[Stage]) -> list[Stage]:
        """Those that were begun and read what is in the way, directly or not. They are set aside with it: after a stop
        between the two nobody would know that they read something else."""
        gone = {stage.name for stage in self._in_the_way}
        for stage in self._pipeline.stages:  # in order, so that whatever needs the gone is gone as well
            if gone & set(stage.needs):
                gone.add(stage.name)
        known = [stage for stage in stages if self._book.of(stage.name) is not None and stage.name in gone]
        return [stage for stage in known if self._kinds[stage.kind].begun(stage.folder)]

    def _needed(self, wanted: Sequence[str]) -> set[str]:
        """These stages and all that they need, directly or not."""
        found = set(wanted)
        for stage in reversed(self._pipeline.stages):
            if stage.name in found:
                found.update(stage.needs)
        return found

    def _compare(self, stage: Stage, *, asked: bool) -> None:
        """Take down what a stage is made of now. What is there of it must have been made of the same, or is in the way.
        Raises UserError, in one line that names what changed, where it may not be moved."""
        with _of_stage(stage):
            now = self._now[stage.name] = self._note(stage)
        before, kind = self._book.of(stage.name), self._kinds[stage.kind]
        begun = kind.begun(stage.folder)
        if begun and before is None:
            raise UserError(f"{stage.folder} is there, and was not made by this pipeline; choose another name")
        wrong = ""
        if begun and before is not None and not self._is_again(stage):
            mattered = {key: value for key, value in before.settings.items() if kind.matters(key)}  # to this version
            wrong = "; ".join(now.differences(replace(before, settings=mattered), stage.written))
            if not wrong and before.left and kind.left(stage.folder) != before.left:
                wrong = "its folder is not as it was when it was done"
            if not wrong:  # later stages are compared with what was noted of this one
                self._now[stage.name] = replace(now, settings=before.settings)
        if wrong and not (asked and self._orders.redo):
            what = "done" if before is not None and before.left else "begun"
            raise UserError(
                f"stage {stage.name} is {what} in {stage.folder}, and {wrong}; give --redo to set it aside and make it "
                "anew, with all that begins with it, or choose another --name"
            )
        if wrong or (begun and self._is_again(stage)):
            self._in_the_way.append(stage)
        if not asked and not self._is_done(stage):
            raise UserError(f"stage {stage.name} is needed and not done; leave --only, or name it as well")

    def _is_again(self, stage: Stage) -> bool:
        """Whether it is to be done anew in any case."""
        names = [each.name for each in self._pipeline.stages]
        return bool(self._orders.since) and names.index(stage.name) >= names.index(self._orders.since)

    def _note(self, stage: Stage) -> Note:
        """What decides the result of a stage, as it stands now."""
        kind = self._kinds[stage.kind]
        made_with = kind.made_with(stage.settings)
        versions = {name: value for name, value in made_with.items() if name in ("python", *RECORDED)}
        folders = paths_of(self._pipeline.named(name) for name in stage.needs)
        settings = {
            key: f"{NAMED}{folders[value]}" if isinstance(value, str) and value in folders else value
            for key, value in dotted(kind.document(stage.settings))
            if kind.matters(key)
        }
        return Note(
            settings=settings,
            needs={name: self._now[name].fingerprint for name in stage.needs},
            data={name: value for name, value in made_with.items() if name not in versions},
            versions=versions,
        )

    def _is_done(self, stage: Stage) -> bool:
        before = self._book.of(stage.name)
        return before is not None and bool(before.left) and self._kinds[stage.kind].begun(stage.folder)

    def _bring_to_end(self, stage: Stage, title: str) -> None:
        kind, orders, note = self._kinds[stage.kind], self._orders, self._now[stage.name]
        before = self._book.of(stage.name)
        if before is not None and self._is_done(stage):
            updates = ", ".join(note.updates(before))
            orders.say(f"{title}, done before" + (f" with other versions ({updates})" if updates else ""))
            orders.finished(stage)
            return
        orders.say(title)
        begun = kind.begun(stage.folder)
        self._book.begin(stage.name, note)
        try:
            with _of_stage(stage):
                asked = kind.perform(stage.settings, self._make_view, resume=begun)
        except Stopped as stopped:
            raise Stopped(orders.again, stopped.signal) from None
        except AtOnce as stop:
            raise AtOnce(stop.signal, orders.again) from None
        left = kind.left(stage.folder)
        assert left, "a stage that ends has left something whole"
        self._book.finish(stage.name, left)
        orders.finished(stage)
        if asked is not None:
            raise Stopped(orders.again, asked)

    def _clear(self) -> None:
        """Set aside what is in the way."""
        for stage in self._in_the_way:
            now = self._orders.clear(stage.folder)
            if now is not None:
                self._orders.say(f"stage {stage.name}: what was in {stage.folder} is in {now} now")
            self._book.forget(stage.name)
        self._in_the_way = []

    def _document(self) -> dict[str, Any]:
        """The pipeline as its file could say it: every setting of every stage."""
        rows = []
        for stage in self._pipeline.stages:
            table = self._kinds[stage.kind].document(stage.settings)
            table = {key: value for key, value in table.items() if key not in ("name", "out", "versions")}
            table = _with_names(table, paths_of(self._pipeline.stages))
            if stage.start:
                table.pop("model", None)
            begins = {"from": stage.start} if stage.start else {}
            rows.append({"name": stage.name, "kind": stage.kind} | begins | table)
        return {"name": self._pipeline.name, "versions": running(), "stage": rows}


def paths_of(stages: Iterable[Stage]) -> dict[str, str]:
    """The names of stages by the paths of their folders: as they are given, which holds until a folder is there, and
    from the root, as documents have those that are; each also with ``@best`` behind it."""
    return {
        f"{path}{best}": f"{stage.name}{best}"
        for stage in stages
        for path in (stage.folder, stage.folder.resolve())
        for best in ("", BEST)
    }


def _with_names(table: dict[str, Any], folders: dict[str, str]) -> dict[str, Any]:
    """A table that names stages where it had the paths of their folders."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found[key] = _with_names(value, folders)
        else:
            found[key] = f"{NAMED}{folders[value]}" if isinstance(value, str) and value in folders else value
    return found


@contextlib.contextmanager
def _of_stage(stage: Stage) -> Iterator[None]:
    """A mistake is told with the stage that it is in."""
    try:
        yield
    except UserError as error:
        error.args = (f"stage {stage.name}: {error}", *error.args[1:])  # of its own type, whatever that is made of
        raise


@contextlib.contextmanager
def _held(folder: Path, stages: Sequence[str]) -> Iterator[None]:
    """Hold a pipeline's folder. Raises Taken if another process does, or if there is something else in it."""
    _require_own(folder)
    with claimed(folder, resume=True):
        for part in folder.glob(".*.part"):  # of a process that was killed while it wrote
            if (found := PART.fullmatch(part.name)) and found[1] in (NOTES, PIPELINE, *stages):
                shutil.rmtree(part) if part.is_dir() else part.unlink()
        yield


def _require_own(folder: Path) -> None:
    if not folder.is_dir() or (folder / NOTES).exists():
        return
    if is_begun(folder):
        raise Taken(f"{folder} holds a run, and no pipeline; choose another name")
    others = [p.name for p in folder.iterdir() if p.name not in (LOCK, OWNER, PIPELINE) and not PART.fullmatch(p.name)]
    if others:
        raise Taken(f"{folder} is not empty and holds no pipeline ({min(others)!r} is in it); choose another name")
