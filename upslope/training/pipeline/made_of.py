"""What a stage that trains, or evaluates, is made of, and what it leaves: as hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from upslope.model.directory import TOKENIZER_FILES
from upslope.model.names import config_of_new, folder_and_best, is_new, is_pocket
from upslope.native.places import cache_folder
from upslope.record import checkpoint
from upslope.record.best import best_step
from upslope.record.manifest import MANIFEST
from upslope.tasks.base import Task
from upslope.text.documents import find_sources
from upslope.text.origin import origins
from upslope.training.resuming import made_with
from upslope.training.settings import RunSettings
from upslope.training.tables import dotted

IRRELEVANT = (
    *("name", "out", "versions", "threads", "track", "task.reward_workers"),
    *("task.data", "task.eval_data", "task.also", "task.text"),
    *(f"eval.{name}" for name in ("every", "problems", "samples", "temperature", "text_tokens", "by")),
    *(
        f"cluster.{name}"
        for name in ("samplers", "rewards", "address", "patience", "vllm_python", "vllm_url", "vllm_memory", "most_gap")
    ),
    *("save.every", "save.keep", "save.rollouts"),
)
"""Settings that do not change the weights of a run. A new one counts until it is listed here. What the paths of the
data lead to is in ``reads_of``."""
_DATA = "the task's data"
TEXT = "the text"
OF_TOKENIZER = (
    *TOKENIZER_FILES,
    *("merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "spiece.model"),
)
"""Files in which transformers keeps a tokenizer."""


def reads_of(settings: RunSettings, task: Task) -> dict[str, str]:
    """What a stage depends on besides its settings, by what it is: hashes of data, code, models and tokenizers;
    versions. What earlier stages of the pipeline leave is not among it: their own notes say that."""
    found = made_with(settings, task, None)
    if settings.eval.patience or settings.save.best:  # then evaluations say how long it learns, or what is kept
        found["the evaluations"] = str(settings.eval)
    paths = (settings.task.data, settings.task.eval_data, *settings.task.also)
    found.setdefault(_DATA, " ".join(map(str, paths)))  # where not all of it can be read
    if settings.task.text:
        found[TEXT] = text_of(settings.task.text)
    for key, value in dotted(asdict(settings)):
        if key.rpartition(".")[2] in ("model", "tokenizer") and isinstance(value, str) and value:
            if is_pocket(value) or (is_new(value) and not config_of_new(value)):
                continue  # a folder of such a name is another thing
            place = Path(config_of_new(value) or value)
            if place.resolve().parent != Path(settings.out).resolve() and (content := content_of(place)):
                found[f"what {key} names"] = content
    config = Path(config_of_new(settings.model))
    if config.is_file() and not settings.new.tokenizer:  # the tokenizer beside it is the model's
        beside = [config.with_name(name) for name in OF_TOKENIZER]
        found["the tokenizer beside model"] = " ".join(f"{file.name} {content_of(file)}" for file in beside)
    return found


def text_of(sources: Sequence[str]) -> str:
    """A hash of what stands in sources of text, each by itself, since each may have a weight. Where a file lies does
    not count; a data set of the hub goes by its name. Raises UserError for what cannot be read."""
    noted = cache_folder() / "text"
    noted.mkdir(parents=True, exist_ok=True)
    made = [[one.content for one in origins(find_sources([source]), noted)] for source in sources]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()[:16]


def content_of(model: Path) -> str:
    """A hash of a file, of the files of a directory, or of a run folder's newest checkpoint (``RUN@best``: of its best
    one); empty for what is none.

    All bytes count: a model trained further under the same name is another one.
    """
    run, best = folder_and_best(str(model))
    if best:
        return _mark_of(run / "checkpoints" / f"step-{best_step(run) or 0:06d}")
    if not model.exists():
        return ""
    if (model / "checkpoints").is_dir():
        return end_of(model)
    digest = hashlib.sha256()
    files = model.iterdir() if model.is_dir() else [model]
    for file in sorted(path for path in files if path.is_file() and not path.name.startswith(".")):
        with file.open("rb") as opened:
            digest.update(file.name.encode() + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def end_of(run: Path) -> str:
    """A hash of a run's newest whole checkpoint; empty if there is none."""
    found = checkpoint.newest(run / "checkpoints")
    return "" if found is None else _mark_of(found.folder)


def _mark_of(saved: Path) -> str:
    """A hash of a checkpoint; empty if there is none."""
    file = saved / MANIFEST
    if not file.is_file():
        return ""
    return f"{int(saved.name.rpartition('-')[2])}-{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"
