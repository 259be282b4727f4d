"""``upslope eval`` of a model on text: how well it predicts it."""

from __future__ import annotations

import json
from dataclasses import replace

from rich.console import Console

from upslope.algo.sample import Documents
from upslope.errors import UserError
from upslope.inspect.terminal import TerminalView
from upslope.learn.scorer import Scorer
from upslope.training.corpora import block_length, opened_text
from upslope.training.held_out_loss import HeldOutText
from upslope.training.settings import RunSettings
from upslope.training.speaking import speaking
from upslope.training.start import resolve_recipe

EVERY = ("new", "task.text", "task.text_column", "seed", "device", "threads", "deterministic", "learn.dtype")
"""The settings that predicting a whole text depends on,"""
HELD_OUT = (*EVERY, "task.text_weights", "task.text_held_out", "eval.text_tokens")
"""and those for what a run held out."""


def predict_command(settings: RunSettings, *, every: bool, as_json: bool) -> None:
    """Predict the text that the settings name, all documents of it (``every``), or the held-out ones that the run's
    evaluations predict, and print loss and bits per byte. Raises UserError for text that cannot be read."""
    aside = Console(stderr=True)
    with speaking(settings, lambda: TerminalView(aside)) as policy:
        say = TerminalView(aside).message
        task = replace(settings.task, text_held_out=0.0) if every else settings.task
        text = opened_text(task, policy.model, policy.tokenizer, say)
        sample = Documents() if every else resolve_recipe(settings.recipe).sample
        length = block_length(sample, policy.max_positions)
        if text is None:
            raise RuntimeError("asked for without text")
        most = float("inf") if every else settings.eval.text_tokens
        held_out = HeldOutText(text, most, length=length, renderer=policy.renderer, every=every)
        if not held_out.num_documents:
            raise UserError("no document of the run's text is held out (task.text_held_out); give --text FILE")
        found = held_out.measure(Scorer(policy))
    row = {
        "held_out_loss": found.loss,
        "bits_per_byte": found.bits_per_byte,
        "held_out_tokens": found.num_tokens,
        "held_out_bytes": found.num_bytes,
    }
    if as_json:
        print(json.dumps({"model": settings.model, "text": list(settings.task.text)} | row))
        return
    print(f"{settings.model} on {', '.join(settings.task.text)}, in blocks of {length} tokens")
    num = held_out.num_documents
    counted = f"{num:,} document{'s' * (num != 1)}, {found.num_tokens:,} tokens, {found.num_bytes:,} bytes"
    print(f"{found.loss:.4f} nats a token, {found.bits_per_byte:.4f} bits per byte ({counted})")
