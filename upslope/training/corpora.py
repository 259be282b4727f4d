"""The text of a run, opened: its corpora, their weights, and what is read of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from upslope.algo.sample import Demonstrations, Documents, Sample
from upslope.errors import UserError
from upslope.model.ends import find_end_ids
from upslope.model.hf import max_positions
from upslope.model.policy import Policy
from upslope.model.renderer import Renderer
from upslope.native.places import cache_folder
from upslope.text.corpus import open_corpus
from upslope.training.blocks import DEFAULT_BLOCK, Index, TextBlocks, TokenStore
from upslope.training.task_settings import TaskSettings

BETWEEN_WORDS = 10.0
"""Seconds between two messages while a corpus is made."""


@dataclass(frozen=True)
class Text:
    """Corpora and the share that each has of the tokens that are read."""

    corpora: tuple[TokenStore, ...]
    weights: tuple[float, ...]

    @property
    def fingerprint(self) -> str:
        """Of all of them."""
        return " ".join(corpus.fingerprint for corpus in self.corpora)


class OwnDocuments:
    """A task's own documents as tokens, in memory; none is held out."""

    fingerprint = ""
    """The task's says what they are."""

    def __init__(self, texts: Sequence[str], renderer: Renderer) -> None:
        self._ids = [np.array(renderer.response_ids(text), dtype=np.int64) for text in texts]
        self.length_D: Index = np.array([len(ids) for ids in self._ids], dtype=np.int64)
        self.bytes_D: Index = np.array([len(text.encode("utf-8", "replace")) for text in texts], dtype=np.int64)
        self.held_out_D: NDArray[np.bool_] = np.zeros(len(texts), dtype=bool)

    def read(self, document: int, start: int = 0, stop: int | None = None) -> Index:
        return self._ids[document][start:stop]


def opened_text(settings: TaskSettings, model: Any, tokenizer: Any, say: Callable[[str], None]) -> Text | None:
    """The text that the settings name, as tokens of this tokenizer, from the cache where it was made before; None where
    they name none. ``say`` is told how far that is. Raises UserError for what cannot be read."""
    if not settings.text:
        return None
    end_id = find_end_ids(tokenizer, model.generation_config)[0]
    given = [[source] for source in settings.text] if settings.text_weights else [list(settings.text)]
    found: list[TokenStore] = []
    for sources in given:
        announced = Announced(say, ", ".join(sources))
        corpus = open_corpus(
            sources,
            column=settings.text_column,
            tokenizer=tokenizer,
            end_id=end_id,
            held_out=settings.text_held_out,
            folder=cache_folder() / "text",
            progress=announced,
        )
        if announced.told and corpus.duplicates:
            num = corpus.duplicates
            were = "document was there before, and is" if num == 1 else "documents were there before, and are"
            say(f"{', '.join(sources)}: {num:,} {were} left out")
        if settings.text_held_out and not corpus.held_out_D.any():
            say(f"{', '.join(sources)} is one document, so none is held out, and no held-out loss of it is measured")
        found.append(corpus)
    return Text(tuple(found), tuple(settings.text_weights) or (1.0,))


class Announced:
    """Progress of a corpus in the making, as a message now and then."""

    def __init__(self, say: Callable[[str], None], what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._what, self._clock = say, what, clock
        self._last = clock()
        self.told = False
        """Whether anything was made."""

    def __call__(self, num_bytes: int, total: int | None) -> None:
        self.told = True
        now = self._clock()
        if now - self._last >= BETWEEN_WORDS:
            self._last = now
            of = f" of {total / 1e6:,.0f}" if total else ""
            self._say(f"tokenising {self._what}: {num_bytes / 1e6:,.0f}{of} MB")


def block_length(sample: Sample, max_positions: int) -> int:
    """Tokens of a block of text under these settings. Raises UserError for more than the model has positions for, which
    a model of one position always has."""
    most = max_positions - 1  # what a block begins after takes one
    if most < 1:
        raise UserError(
            f"the model has {max_positions} position, and to predict text takes 2 or more; take a longer model"
        )
    wanted = sample.block if isinstance(sample, Documents) else 0
    if wanted > most:
        raise UserError(
            f"recipe.sample.block = {wanted} tokens, and the one before them, do not fit the model's {max_positions} "
            f"positions; set it to {most} or less"
        )
    return wanted or min(DEFAULT_BLOCK, most)


def _block_within(sample: Sample, policy: Policy) -> int:
    """By the model's positions, as a pass over a text is counted before it is known in how long rows it is right.
    Raises UserError where that is less than a block."""
    length, most = block_length(sample, max_positions(policy.model)), policy.max_positions - 1
    if length > most:
        raise UserError(
            f"a block of {length} tokens is too long for this model; set recipe.sample.block to {most} or less: "
            f"{policy.plain.bound}"
        )
    return length


def reads_text(sample: Sample) -> bool:
    """Whether a step takes text: all of it, or a share that is replayed."""
    return isinstance(sample, Documents) or (isinstance(sample, Demonstrations) and sample.replay > 0)


def blocks_of(text: Text | None, own: Sequence[str], sample: Sample, policy: Policy, seed: int) -> TextBlocks | None:
    """The blocks that a recipe reads: of the run's text, or of the task's ``own`` documents where ``sample.block`` says
    so; None where those are taken whole, or nothing is read. Raises UserError for a block that the model is too short
    for, or that the text is."""
    if text is None and isinstance(sample, Documents) and sample.block:
        text = Text((OwnDocuments(own, policy.renderer),), (1.0,))
    if text is None or not reads_text(sample):
        return None
    return TextBlocks(
        text.corpora,
        text.weights,
        seed,
        length=_block_within(sample, policy),
        across=isinstance(sample, Documents) and sample.across,
        renderer=policy.renderer,
    )
