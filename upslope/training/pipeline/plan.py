"""What a pipeline is: stages in order, each with settings of its kind, and what each of them begins with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from upslope.errors import UserError, nearest
from upslope.model.names import BEST
from upslope.training.settings import RunSettings
from upslope.training.tables import dotted, replaced
from upslope.training.view import View

TOP = ("name", "out", "stage", "versions")
"""Keys of the file that are no setting of a stage."""
OWN = ("name", "kind", "from")
"""Keys of a stage that are no setting of what it does."""
NAMED = "stage:"
"""A setting of the form ``stage:NAME`` is that stage's folder, and ``stage:NAME@best`` its best checkpoint."""
KEPT = ("pipeline.toml", "stages.json", "report.md", "report.png")
"""What else a pipeline's folder holds, and no stage can be called."""
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")

Changes = Mapping[str, Sequence[Mapping[str, Any]]]
"""Tables that are merged over a stage's own, by its name; those under the empty name are for all."""


class StageKind(Protocol):
    """What a stage of one kind does. ``settings`` is whatever the kind makes of a table."""

    takes_model: bool
    """Whether it begins with a model: that of the stage before, if no other is named."""
    leaves_model: bool
    """Whether later stages begin with what it leaves."""

    def reads(self, key: str) -> bool:
        """Whether a setting, by its dotted key, is one of this kind's."""
        ...

    def matters(self, key: str) -> bool:
        """Whether a setting changes what the stage leaves."""
        ...

    def settings(self, table: Mapping[str, Any], folder: Path) -> Any:
        """Typed settings of a stage that works in ``folder``. Raises UserError naming the key."""
        ...

    def check(self, settings: Any) -> None:
        """Raise UserError for what would stop the stage later and can be seen now."""
        ...

    def document(self, settings: Any) -> dict[str, Any]:
        """The resolved settings, with nothing left to a default, as TOML can hold them."""
        ...

    def made_with(self, settings: Any) -> dict[str, str]:
        """What the result depends on besides: hashes by what they are of, and versions."""
        ...

    def begun(self, folder: Path) -> bool:
        """Whether it has written anything there."""
        ...

    def left(self, folder: Path) -> str:
        """A hash of what a finished stage left there; empty where there is nothing whole."""
        ...

    def perform(self, settings: Any, make_view: Callable[[], View], *, resume: bool) -> int | None:
        """Do it, or go on with it, to its end. Returns the signal that asked to stop and came too late for that. Raises
        UserError for what a user can mend, and Stopped."""
        ...


Kinds = Mapping[str, StageKind]


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline."""

    name: str
    kind: str
    settings: Any
    """What its kind reads; paths of earlier stages' folders are in it."""
    folder: Path
    start: str = ""
    """The stage whose model it begins with; empty: a model of its settings', or none."""
    needs: tuple[str, ...] = ()
    """Every stage whose folder its settings name, ``start`` among them."""
    written: frozenset[str] = frozenset()
    """The dotted keys that the file and whoever calls give it; what else its settings hold are defaults."""


@dataclass(frozen=True)
class Pipeline:
    """Stages in order; each needs only earlier ones."""

    name: str
    folder: Path
    """Where the stages' folders are."""
    stages: tuple[Stage, ...]

    def named(self, name: str) -> Stage:
        """The stage of this name. Raises UserError if there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UserError(f"pipeline {self.name} has no stage {name!r}{nearest(name, [s.name for s in self.stages])}")


def to_pipeline(table: Mapping[str, Any], kinds: Kinds, folder: Path, changes: Changes | None = None) -> Pipeline:
    """A pipeline that works in ``folder``, from the table of its file. Raises UserError naming stage and key."""
    changes = changes or {}
    rows = table.get("stage")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        raise UserError("a pipeline has a table [[stage]] for every stage, and this one has none")
    stages: list[Stage] = []
    for place, row in enumerate(rows, 1):
        name = _name_of(row, place)
        if any(stage.name == name for stage in stages):
            raise UserError(f"stage {place}: another one is called {name!r} too; choose another name")
        try:
            stages.append(_stage(name, row, table, kinds, folder, stages, changes))
        except UserError as error:
            raise UserError(f"stage {name}: {error}") from error.__cause__
    names = [stage.name for stage in stages]
    for name in changes:
        if name and name not in names:
            raise UserError(f"there is no stage {name!r}{nearest(name, names)}")
    _require_read([_shared(table), *changes.get("", ())], [kinds[stage.kind] for stage in stages])
    return Pipeline(str(table.get("name") or folder.name), folder, tuple(stages))


def _stage(
    name: str,
    row: Mapping[str, Any],
    table: Mapping[str, Any],
    kinds: Kinds,
    folder: Path,
    before: Sequence[Stage],
    changes: Changes,
) -> Stage:
    kind_name = row.get("kind", "train")
    if kind_name not in kinds:
        raise UserError(f"kind = {kind_name!r} is no kind of stage{nearest(str(kind_name), kinds)}")
    kind = kinds[kind_name]
    own: dict[str, Any] = {key: value for key, value in row.items() if key not in OWN}
    for key in ("out", "name"):
        if key in own:
            raise UserError(f"{key} is the pipeline's, and no stage has its own; leave it out here")
    for asked in (own, *changes.get(name, ())):
        for key, _ in dotted(asked):
            if not kind.reads(key):
                raise UserError(f"a stage of kind {kind_name} does not read {key}")
    given: dict[str, Any] = {}
    for above in (_shared(table), own, *changes.get("", ()), *changes.get(name, ())):
        gone = replaced(given, above)
        given = merged({k: value for k, value in given.items() if k not in gone}, _read_of(kind, above))
    own = own | {key: value for change in changes.get(name, ()) for key, value in change.items()}
    start = _start(row.get("from"), own, kind, kinds, before)
    if start:
        given["model"] = f"{NAMED}{start}"
        if "new" not in own:
            given.pop("new", None)  # what is shared is of the first stage's model
    needs: dict[str, None] = {}
    found = _with_folders(given, {stage.name: stage for stage in before}, needs)
    settings = kind.settings(found, folder / name)
    written = frozenset(key for key, _ in dotted(given))
    return Stage(name, kind_name, settings, folder / name, start, tuple(needs), written)


def _start(came: Any, own: Mapping[str, Any], kind: StageKind, kinds: Kinds, before: Sequence[Stage]) -> str:
    """The earlier stage that a stage begins with; empty where it has a model of its own, or needs none."""
    able = [stage.name for stage in before if kinds[stage.kind].leaves_model]
    if came is not None:
        if "model" in own or not kind.takes_model:
            why = "it names a model as well" if "model" in own else "a stage of this kind begins with no model"
            raise UserError(f"from = {came!r}: {why}; give one of the two" if "model" in own else f"from: {why}")
        if came not in able:
            raise UserError(f"from = {came!r} is no earlier stage that leaves a model{nearest(str(came), able)}")
        return str(came)
    return able[-1] if able and kind.takes_model and "model" not in own else ""


def _shared(table: Mapping[str, Any]) -> dict[str, Any]:
    """The settings at the top of a file."""
    return {key: value for key, value in table.items() if key not in TOP}


def _read_of(kind: StageKind, table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Of a table that is for all stages, what this kind reads."""
    found = {}
    for key, value in table.items():
        if kind.reads(f"{above}{key}"):
            found[key] = value
        elif isinstance(value, Mapping) and (inner := _read_of(kind, value, f"{above}{key}.")):
            found[key] = inner
    return found


def _require_read(tables: Iterable[Mapping[str, Any]], kinds: Sequence[StageKind]) -> None:
    for table in tables:
        for key, _ in dotted(table):
            if not any(kind.reads(key) for kind in kinds):
                raise UserError(f"no stage reads {key}, which is set for all")


def _name_of(row: Mapping[str, Any], place: int) -> str:
    """A stage's name, which is a folder's and stands before a dot in ``STAGE.KEY=VALUE``."""
    name = row.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"stage {place}: name = {name!r} should be letters, digits and any of . _ + -, such as 'sft'")
    if name in KEPT:
        raise UserError(f"stage {place}: the pipeline itself writes {name} beside the stages; choose another name")
    if name in {field.name for field in fields(RunSettings)}:
        raise UserError(f"stage {place}: {name!r} is the name of a setting, so {name}.KEY=VALUE would mean two things")
    return name


def _with_folders(value: Any, known: Mapping[str, Stage], needs: dict[str, None]) -> Any:
    """A table in which ``stage:NAME`` is that stage's folder (``@best`` stays behind it); ``needs`` gets the names."""
    if isinstance(value, Mapping):
        return {key: _with_folders(inner, known, needs) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_folders(inner, known, needs) for inner in value]
    if isinstance(value, str) and value.startswith(NAMED):
        best = BEST if value.endswith(BEST) else ""
        name = value.removeprefix(NAMED).removesuffix(BEST)
        if name not in known:
            raise UserError(f"{value!r} is no earlier stage{nearest(name, known)}")
        needs[name] = None
        return f"{known[name].folder}{best}"
    return value


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two tables of settings as one, key by key; what ``above`` says holds. Naming a recipe starts from it afresh.

    >>> merged({"steps": 3, "learn": {"lr": 1.0}}, {"learn": {"warmup": 2}})
    {'steps': 3, 'learn': {'lr': 1.0, 'warmup': 2}}
    >>> merged({"recipe": {"name": "sft", "sample": {"replay": 0.2}}}, {"recipe": "grpo"})
    {'recipe': {'name': 'grpo'}}
    """
    found = dict(below)
    for key, value in above.items():
        if key == "recipe":
            value = {"name": value} if isinstance(value, str) else value
            afresh = isinstance(value, Mapping) and "name" in value
            found[key] = value if afresh else _over(_named(found.get(key), "name"), value)
        else:
            found[key] = _over(found.get(key), value)
    return found


def _over(below: Any, above: Any) -> Any:
    if not isinstance(above, Mapping):
        return above
    found = dict(_named(below, "kind") or {}) if isinstance(below, Mapping | str) else {}
    return found | {key: _over(found.get(key), value) for key, value in above.items()}


def _named(value: Any, key: str) -> Any:
    """A text that is short for a table with a name, or a kind, as that table."""
    return {key: value} if isinstance(value, str) else value
