"""Configuration: a TOML run file, then ``key=value`` overrides, checked against the typed settings.

An unknown key is an error that names the nearest known one; a value of the wrong type says what it should be.
"""

from __future__ import annotations

import glob
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from upslope.errors import UserError, nearest
from upslope.model.names import NEW, config_of_new, folder_and_best
from upslope.plugins import names_a_file
from upslope.record.claim import folder_in
from upslope.training.pipeline.plan import Kinds, Pipeline, to_pipeline
from upslope.training.settings import RunSettings
from upslope.training.tables import replaced, to_settings

PATHS = (
    ("model",),
    ("reference", "model"),
    ("new", "tokenizer"),
    ("task", "data"),
    ("task", "eval_data"),
    ("task", "name"),
    ("task", "environment"),
    ("recipe", "name"),
)
"""Keys that may hold a path; so may every entry of ``task.rewards``, ``tools``, ``also`` and ``text``, and the kind of
every slot."""

SETTINGS = tuple(each.name for each in fields(RunSettings))


def load_settings(
    file: Path | None = None, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> RunSettings:
    """The settings of a run: defaults, then the file, then ``options`` by dotted key, then ``KEY=VALUE`` strings.

    A relative path in the file is looked for beside the file first, then in the current folder. Naming a recipe starts
    from it afresh: patches of another one, from the file, do not survive. ``steps`` from outside the file replaces its
    ``epochs``, and the other way round; a model from outside that is not new replaces what the file says of a new one.
    """
    table = read_toml(file) if file else {}
    if "stage" in table:
        raise UserError(f"{file} is a pipeline, for it has tables [[stage]]; give it to: upslope pipeline {file}")
    table.pop("versions", None)  # a record of what the run of that file ran with
    if "python" in table:
        objects = table["python"].get("objects") if isinstance(table["python"], dict) else None
        names = ", ".join(map(str, objects)) if isinstance(objects, list) and objects else "something"
        raise UserError(
            f"{file}: its table python says that {names} was an object of Python, which no file can hold; go on from "
            "Python, with the same objects: upslope.train(..., folder=..., resume=True)"
        )
    if file:
        _anchor(table, file.parent)
    pairs: list[tuple[str, Any]] = []
    for text in overrides:
        key, value = _pair(text)
        pairs.append(("recipe" if key == "recipe.name" else key, value))
    given = dict(options or {}) | dict(pairs)
    for key in sorted(replaced(table, given)):
        to_settings({key: table.pop(key)})  # what makes no sense is told all the same
    for key, value in (options or {}).items():
        _put(table, key, value)
    for key, value in sorted(pairs, key=lambda pair: pair[0] != "recipe"):
        _put(table, key, value)  # naming a recipe starts from it afresh, so that comes before any patch of it
    return to_settings(table)


def cluster_options(file: Path) -> dict[str, Any]:
    """What a file says of the processes of a run, by dotted key: the keys of ``[cluster]``, with or without that line.
    Raises UserError for a file that says other things as well."""
    table = read_toml(file, what="cluster file")
    inside = table.get("cluster", table)
    strange = [key for key, value in table.items() if isinstance(value, dict) and key != "cluster"]
    if strange:
        raise UserError(f"{file}: there is no table [{strange[0]}] in a cluster file{nearest(strange[0], ['cluster'])}")
    if not isinstance(inside, dict) or ("cluster" in table and len(table) > 1):
        raise UserError(f"{file} should hold the settings of [cluster] and nothing else; give it as --cluster {file}")
    if not inside:
        raise UserError(f"{file} asks for no processes; set samplers, rewards or ranks in it, or leave --cluster out")
    return {f"cluster.{key}": value for key, value in inside.items()}


def load_pipeline(
    source: Path | Mapping[str, Any],
    kinds: Kinds,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    out: str | None = None,
) -> Pipeline:
    """The pipeline of a file, or of a table that such a file could hold: shared settings and a table for every stage,
    then ``KEY=VALUE`` for all or ``STAGE.KEY=VALUE`` for one. Raises UserError naming the key."""
    table = read_toml(source) if isinstance(source, Path) else dict(source)
    given = table.get("stage")
    rows = [row for row in given if isinstance(row, dict)] if isinstance(given, list) else []
    if isinstance(source, Path):
        if given is None:
            raise UserError(f"{source} is no pipeline, for it has no table [[stage]]; try: upslope train {source}")
        for part in (table, *rows):
            _anchor(part, source.parent)
    changes: dict[str, list[dict[str, Any]]] = {}
    for text in overrides:
        key, value = _pair(text)
        owners = [str(row.get("name")) for row in rows if key.startswith(f"{row.get('name')}.")]
        owner = max(owners, key=len, default="")
        first, dot, _ = key.partition(".")
        if dot and not owner and first not in SETTINGS:
            names = [str(row.get("name")) for row in rows]
            raise UserError(f"{text}: there is no stage or setting {first!r}{nearest(first, [*names, *SETTINGS])}")
        key = key.removeprefix(f"{owner}.") if owner else key
        change: dict[str, Any] = {}
        _put(change, "recipe" if key == "recipe.name" else key, value)
        changes.setdefault(owner, []).append(change)
    for each in changes.values():
        each.sort(key=lambda change: not isinstance(change.get("recipe"), str))  # first, as in ``load_settings``
    name = name or table.get("name") or (source.stem if isinstance(source, Path) else None)
    where = out or table.get("out", RunSettings.out)
    if not isinstance(name, str) or not isinstance(where, str):
        raise UserError('name and out of a pipeline are texts, such as name = "my-pipeline"')
    return to_pipeline(table | {"name": name}, kinds, folder_in(Path(where), name), changes)


def _pair(text: str) -> tuple[str, Any]:
    """A key and its value. Raises UserError for what is none."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UserError(f"{text!r} is not of the form KEY=VALUE, for example learn.lr=1e-4")
    return key, _value(value)


def read_toml(file: Path, what: str = "run file") -> dict[str, Any]:
    """The file's table. Raises UserError naming the line, and ``what`` the file is."""
    if file.exists() and not file.is_file():  # a folder; a device may never end, a pipe never begin
        raise UserError(f"{what} {file} is no file")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))  # as Notepad writes it
    except OSError as error:
        raise UserError(f"{what} {file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number of thousands of digits, a deep list
        raise UserError(f"{what} {file} is not TOML: {error}") from None


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = table.get(parent)
        if isinstance(inner, str):  # recipe.surrogate = "clipped_ratio" is short for a table with that kind
            inner = {"name" if parent == "recipe" else "kind": inner}
        if not isinstance(inner, Mapping | None):
            raise UserError(f"{key}: {parent} = {inner!r:.60} is no table, so nothing can be set in it")
        table[parent] = dict(inner or {})
        table = table[parent]
    table[last] = value


def _value(text: str) -> Any:
    """A TOML value; anything that is none is taken as a string."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):
        return text


def _anchor(table: dict[str, Any], folder: Path) -> None:
    for key in PATHS:
        inner: Any = table
        for parent in key[:-1]:
            inner = inner.get(parent, {})
        text = inner.get(key[-1]) if isinstance(inner, dict) else None
        # gpt2 is a model of the hub, gsm8k a task and grpo a recipe, whatever lies beside the run file under that name.
        anywhere = key[-1] in ("model", "tokenizer")
        local = isinstance(text, str) and (not anywhere or _is_there(folder / text, _is_model))
        if local and text and key[-1] == "model":
            inner["model"] = str(folder / text)
        elif local and (key[-1] != "name" or names_a_file(str(text))):
            inner[key[-1]] = _beside(str(text), folder)
    config = config_of_new(str(table.get("model", "")))
    if config:
        table["model"] = NEW + _beside(config, folder)
    recipe = table.get("recipe", {})
    for slot, value in recipe.items() if isinstance(recipe, dict) else ():
        kind = value.get("kind") if isinstance(value, dict) else value
        if slot != "name" and isinstance(kind, str) and names_a_file(kind):
            recipe[slot] = value | {"kind": _beside(kind, folder)} if isinstance(value, dict) else _beside(kind, folder)
    task = table.get("task", {})
    for name in ("rewards", "tools", "also"):
        if isinstance(task, dict) and isinstance(task.get(name), list):
            task[name] = [_beside(r, folder) if isinstance(r, str) else r for r in task[name]]
    if isinstance(task, dict) and isinstance(task.get("text"), list):
        task["text"] = [_text_beside(t, folder) if isinstance(t, str) else t for t in task["text"]]


def _beside(text: str, folder: Path) -> str:
    path, colon, name = text.partition(":")
    found = folder / path
    return f"{found}{colon}{name}" if path and _is_there(found, Path.exists) else text


def _text_beside(text: str, folder: Path) -> str:
    """A file, folder or pattern of text beside the run file, where there is one."""
    if text and _is_there(folder / text, Path.exists):  # also one with brackets in its name
        return str(folder / text)
    beside = glob.has_magic(text) and not Path(text).is_absolute() and any(True for _ in folder.glob(text))
    return str(folder / text) if beside else text


def _is_model(path: Path) -> bool:
    """Whether it is a directory, or a run's with @best behind it."""
    return folder_and_best(str(path))[0].is_dir()


def _is_there(path: Path, asked: Callable[[Path], bool]) -> bool:
    """The same for a text that no path can be, which is too long, say."""
    try:
        return asked(path)
    except OSError:
        return False
