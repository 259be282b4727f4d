"""A stage of a pipeline that learns a tokenizer from the text that later stages read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from upslope.errors import UserError
from upslope.lab.tokenizing import write_tokenizer
from upslope.model.byte_pairs import require_vocabulary
from upslope.text.documents import find_sources
from upslope.training.pipeline.made_of import TEXT, content_of, text_of
from upslope.training.tables import names, to_settings
from upslope.training.task_settings import TaskSettings
from upslope.training.view import View
from upslope.versions import running

VOCABULARY = "vocab"
READ = ("task.text", "task.text_column", "task.text_held_out")
"""The settings of a run that it shares: the same text, and the same documents held out."""


@dataclass(frozen=True)
class TokenizerSettings:
    """What it learns from, and how many tokens there are to be."""

    task: TaskSettings
    vocab: int
    folder: Path


class TokenizerStage:
    """Learns a tokenizer as ``upslope tokenizer`` does, from ``task.text``; ``vocab`` is its only key of its own. A
    later stage names it: ``new.tokenizer = "stage:NAME"``. A ``StageKind``."""

    takes_model = leaves_model = False

    def reads(self, key: str) -> bool:
        return key == VOCABULARY or names(READ, key)

    def matters(self, key: str) -> bool:
        return key != "task.text"  # what stands in it counts, and not where: ``made_with``

    def settings(self, table: Mapping[str, Any], folder: Path) -> TokenizerSettings:
        vocabulary = table.get(VOCABULARY, 8192)
        if type(vocabulary) is not int:
            raise UserError(f"vocab = {vocabulary!r} must be a whole number, such as 8192")
        task = to_settings({"task": table.get("task", {})}).task
        return TokenizerSettings(task, vocabulary, folder)

    def check(self, settings: TokenizerSettings) -> None:
        require_vocabulary(settings.vocab)
        if not settings.task.text:
            raise UserError("a tokenizer is learnt from text: set task.text")
        find_sources(settings.task.text)

    def document(self, settings: TokenizerSettings) -> dict[str, Any]:
        task = asdict(settings.task)
        shared = {key.partition(".")[2]: task[key.partition(".")[2]] for key in READ}
        shared["text"] = [str(Path(text).absolute()) if Path(text).exists() else text for text in shared["text"]]
        return {VOCABULARY: settings.vocab, "task": shared}

    def made_with(self, settings: TokenizerSettings) -> dict[str, str]:
        return {TEXT: text_of(settings.task.text)} | running()

    def begun(self, folder: Path) -> bool:
        return folder.exists()

    def left(self, folder: Path) -> str:
        return content_of(folder)

    def perform(self, settings: TokenizerSettings, make_view: Callable[[], View], *, resume: bool) -> int | None:
        if not (settings.folder / "tokenizer.json").exists():  # it is there whole, or not at all
            task = settings.task
            view = make_view()
            made = write_tokenizer(
                task.text,
                settings.folder,
                settings.vocab,
                column=task.text_column,
                held_out=task.text_held_out,
                say=view.message,
            )
            packed = f"; {made.packings[0].bytes_a_token:.2f} bytes a token on held-out text" if made.packings else ""
            view.message(f"{made}{packed}")
        return None
