"""``upslope eval`` of a model on text: how well it predicts it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from upslope.algo.sample import Documents
from upslope.errors import UserError
from upslope.inspect.counting import counted
from upslope.inspect.data_stream import data_stream
from upslope.inspect.screen import console_aside
from upslope.inspect.terminal import TerminalView
from upslope.learn.scorer import Scorer
from upslope.training.corpora import block_length, opened_text
from upslope.training.held_out_loss import HeldOutText, Predicted
from upslope.training.named import resolve_recipe
from upslope.training.settings import RunSettings
from upslope.training.speaking import speaking
from upslope.training.start import MakeView

EVERY = ("new", "task.text", "task.text_column", "seed", "device", "threads", "deterministic", "learn.dtype")
"""The settings that predicting a whole text depends on,"""
HELD_OUT = (*EVERY, "task.text_weights", "task.text_held_out", "eval.text_tokens")
"""and those for what a run held out."""


@dataclass(frozen=True)
class TextLoss:
    """How well a model predicts some text."""

    found: Predicted
    num_documents: int
    length: int
    """Tokens of a block."""

    @property
    def row(self) -> dict[str, Any]:
        """As an evaluation's row in a journal says it."""
        return {"held_out_loss": self.found.loss} | self.found.of_text

    def __str__(self) -> str:
        """``1.2040 nats a token, 0.5790 bits per byte (3 documents, 90 tokens, 270 bytes)``"""
        found, num = self.found, self.num_documents
        counted = f"{num:,} document{'s' * (num != 1)}, {found.num_tokens:,} tokens, {found.num_bytes:,} bytes"
        return f"{found.loss:.4f} nats a token, {found.bits_per_byte:.4f} bits per byte ({counted})"


def predict_text(settings: RunSettings, make_view: MakeView, *, every: bool) -> TextLoss:
    """Predict the text that the settings name: all documents of it (``every``), or the held-out ones that the run's
    evaluations predict. Raises UserError for text that cannot be read, or of which none is held out."""
    with speaking(settings, make_view) as policy:
        task = replace(settings.task, text_held_out=0.0) if every else settings.task
        text = opened_text(task, policy.model, policy.tokenizer, make_view().message)
        sample = Documents() if every else resolve_recipe(settings.recipe).sample
        length = block_length(sample, policy.max_positions)
        if text is None:
            raise RuntimeError("asked for without text")
        most = float("inf") if every else settings.eval.text_tokens
        held_out = HeldOutText(text, most, length=length, renderer=policy.renderer, every=every)
        if not held_out.num_documents:
            raise UserError(
                f"no document of {', '.join(task.text)} is held out; give upslope eval --text FILE, or a stage "
                "task.text_held_out = 0, and all are predicted"
            )
        with counted(console_aside(), "documents predicted", held_out.num_documents) as told:
            found = held_out.measure(Scorer(policy), lambda done: told(done, ""))
        return TextLoss(found, held_out.num_documents, length)


def predict_command(settings: RunSettings, *, every: bool, as_json: bool) -> None:
    """The same, and print loss and bits per byte. Raises UserError as ``predict_text`` does."""
    aside = console_aside()
    found = predict_text(settings, lambda: TerminalView(aside), every=every)
    if as_json:
        print(json.dumps({"model": settings.model, "text": list(settings.task.text)} | found.row), file=data_stream())
        return
    print(f"{settings.model} on {', '.join(settings.task.text)}, in blocks of {found.length} tokens")
    print(found)
