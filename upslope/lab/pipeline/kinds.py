"""What a stage of a pipeline can be: each kind by the word that a file says. A kind of one's own is one more entry."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from upslope.cluster.launch import company_of
from upslope.errors import UserError
from upslope.files import write_whole
from upslope.lab.evaluation import SPEAKING, evaluated
from upslope.lab.pipeline.tokenizer_stage import TokenizerStage
from upslope.lab.predicting import predict_text
from upslope.record.claim import claimed
from upslope.record.journal import JOURNAL, plain
from upslope.text.documents import find_sources
from upslope.training.checks import check_evaluation, require_told
from upslope.training.named import open_run_task
from upslope.training.pipeline.made_of import reads_of
from upslope.training.pipeline.plan import StageKind
from upslope.training.settings import RunSettings
from upslope.training.start import TrainStage
from upslope.training.tables import dotted, names, to_settings
from upslope.training.view import View

ATTEMPTS = "attempts.jsonl"


class EvalStage:
    """A stage that evaluates the model it begins with, as ``upslope eval`` does: every attempt goes to a file, and the
    result is the one row of a journal. Text alone is predicted: its held-out documents, or all where
    ``task.text_held_out`` is 0. A ``StageKind``."""

    takes_model, leaves_model = True, False

    def reads(self, key: str) -> bool:
        return names(("model", *SPEAKING), key)

    def matters(self, key: str) -> bool:
        paths = ("task.data", "task.eval_data", "task.also", "task.text")  # what they lead to is in ``made_with``
        return not names(("threads", "task.reward_workers", *paths), key)

    def settings(self, table: Mapping[str, Any], folder: Path) -> RunSettings:
        if "model" not in table:
            raise UserError("no stage before it leaves a model to evaluate; give it model = DIRECTORY")
        return to_settings({**table, "out": str(folder.parent), "name": folder.name})

    def check(self, settings: RunSettings) -> None:
        task = open_run_task(settings.task, settings.seed)
        if settings.task.text_alone:
            find_sources(settings.task.text)
            return
        check_evaluation(settings)
        require_told(settings, task)
        task.problems("test")
        task.check_rewards()

    def document(self, settings: RunSettings) -> dict[str, Any]:
        whole = TrainStage().document(settings)
        found: dict[str, Any] = {}
        for key, value in dotted(whole):
            if self.reads(key):
                *parents, last = key.split(".")
                inner = found
                for parent in parents:
                    inner = inner.setdefault(parent, {})
                inner[last] = value
        return found

    def made_with(self, settings: RunSettings) -> dict[str, str]:
        return reads_of(settings, open_run_task(settings.task, settings.seed))

    def begun(self, folder: Path) -> bool:
        return (folder / ATTEMPTS).exists() or (folder / JOURNAL).exists()

    def left(self, folder: Path) -> str:
        file = folder / JOURNAL
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else ""

    def perform(self, settings: RunSettings, make_view: Callable[[], View], *, resume: bool) -> int | None:
        folder = Path(settings.out) / settings.name
        with claimed(folder, resume=True):
            begun = time.perf_counter()
            if settings.task.text_alone:
                text = predict_text(settings, make_view, every=not settings.task.text_held_out)
                told, found = str(text), text.row | {"seconds": time.perf_counter() - begun}
            else:
                _, _, of_problems = evaluated(settings, folder / ATTEMPTS)
                told, found = str(of_problems), of_problems.row
            row = {"kind": "eval", "step": 0} | found
            write_whole(folder / JOURNAL, json.dumps(plain(row), allow_nan=False).encode() + b"\n")
        make_view().message(told)
        return None


KINDS: dict[str, StageKind] = {"tokenizer": TokenizerStage(), "train": TrainStage(company_of), "eval": EvalStage()}
