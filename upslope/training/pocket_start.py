"""The pocket model, made from nothing by a pipeline that comes with the package, once, and kept in a cache."""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock

import upslope
from upslope.errors import Stopped, UserError, nearest
from upslope.model.load import load
from upslope.model.pocket import build_model, build_tokenizer
from upslope.native.places import cache_folder
from upslope.record import checkpoint
from upslope.training.pipeline.performing import Orders, perform_stages
from upslope.training.pipeline.plan import StageKind, merged, to_pipeline
from upslope.training.settings import RunSettings
from upslope.training.tables import to_settings
from upslope.training.view import View

FILE = Path(__file__).with_name("pocket.toml")


def pocket_stage(name: str) -> RunSettings:
    """The settings of a stage of the pocket model's pipeline. Raises UserError if there is none of that name."""
    table = _table()
    rows = {row["name"]: row for row in table.pop("stage")}
    if name not in rows:
        raise UserError(f"pocket has no stage {name!r}{nearest(name, [*rows, 'blank'])}")
    return to_settings(merged(table, {key: value for key, value in rows[name].items() if key != "name"}))


def pocket_model(stage: str, wanted: RunSettings, train: StageKind, make_view: Callable[[], View]) -> tuple[Any, Any]:
    """(model, tokenizer) after a stage, the last if it is empty, for the seed and the device that are wanted. From the
    cache if everything it depends on is unchanged, else made; what was stopped goes on. Raises UserError, Stopped."""
    if stage == "blank":
        return build_model(wanted.seed), build_tokenizer()
    names = [row["name"] for row in _table()["stage"]]
    stage = stage or names[-1]
    pocket_stage(stage)
    folder = cache_folder() / f"pocket-{_fingerprint(wanted)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    changes = {"": [{"seed": wanted.seed, "device": wanted.device, "threads": wanted.threads}]}
    pipeline = to_pipeline(_table(), {"train": train}, folder, changes)
    with FileLock(f"{folder}.lock"):  # two runs that start together make it once
        for made in pipeline.stages:
            if checkpoint.newest(made.folder / "checkpoints") is None:
                _remove(made.folder)
        try:
            orders = Orders(only=names[: names.index(stage) + 1], redo=True, clear=_remove)
            perform_stages(pipeline, {"train": train}, make_view, orders)
        except Stopped as stopped:
            raise Stopped("repeat the same command: what was made of the pocket model is kept") from stopped
        saved = checkpoint.newest(folder / stage / "checkpoints")
    assert saved is not None, "a stage that ends has written its checkpoint"
    return load(str(saved.folder))


def _table() -> dict[str, Any]:
    """What ``FILE`` says, without the pipeline's name."""
    table = tomllib.loads(FILE.read_text(encoding="utf-8"))
    del table["name"]
    return table


def _remove(folder: Path) -> None:
    """Of a cache that is ours, under names that only we give."""
    shutil.rmtree(folder, ignore_errors=True)


def _fingerprint(wanted: RunSettings) -> str:
    """A hash of everything the pipeline depends on beside its own settings and data, which its notes have: what is
    wanted, the code (the file of the pipeline among it), the libraries."""
    parts = [str(wanted.seed), wanted.device, torch.__version__, transformers.__version__]
    parts += [path.read_text(encoding="utf-8") for path in code_of_a_start(Path(upslope.__file__).parent)]
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:12]


def code_of_a_start(package: Path) -> list[Path]:
    """The files whose change may change what a stage makes, rooms within rooms too."""
    rooms = ("native", "text", "algo", "tasks", "model", "rollout", "learn", "record", "training")
    files = (path for room in rooms for path in sorted((package / room).rglob("*")))
    return [path for path in files if path.suffix in (".py", ".c", ".h", ".toml")]
