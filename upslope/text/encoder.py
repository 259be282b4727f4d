"""Text to tokens, in any process: what a tokenizer is when it is sent to another one, and what it depends on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from upslope.errors import UserError

Encode = Callable[[Sequence[str]], Iterable[Sequence[int]]]


class Encoded(NamedTuple):
    """Documents as tokens, each with the end token behind it."""

    length_D: NDArray[np.int64]
    """Tokens of each document, its end token included."""
    token_K: NDArray[np.uint16] | NDArray[np.uint32]
    """All of them, end to end."""


class Encoder:
    """A tokenizer as plain data. Text is text: ``<|im_end|>`` in a document gives the tokens of its characters, not the
    special token, and nothing is added but the end token."""

    def __init__(self, tokenizer: Any, end_id: int) -> None:
        """``tokenizer``: of transformers, or of tokenizers. Raises UserError if it cannot be sent to another process,
        and for an end token that is none of its."""
        core = getattr(tokenizer, "backend_tokenizer", tokenizer)
        self._is_core = hasattr(core, "to_str")
        if self._is_core:
            # Where it would cut and pad is left out here already, since the fingerprint is of this.
            state = content = json.dumps({**json.loads(core.to_str()), "truncation": None, "padding": None}).encode()
        else:
            try:
                state, content = pickle.dumps(tokenizer), _content(tokenizer)
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                raise UserError(
                    f"the tokenizer cannot be sent to another process ({error}); take a fast one (tokenizer.json)"
                ) from None
        self.state, self._content = state, content
        self.end_id = end_id
        self.num_ids = 1 + max(end_id, *tokenizer.get_vocab().values())
        """One more than the largest token there can be."""
        self.dtype = np.dtype("<u2" if self.num_ids <= 1 << 16 else "<u4")
        if end_id < 0:
            raise UserError(f"end_id = {end_id}: no token; give the tokenizer an end token (eos_token)")

    @property
    def fingerprint(self) -> str:
        """Of all that the tokens of a text depend on; the same in every process."""
        return hashlib.sha256(self._content + f"\x00{self.end_id}".encode()).hexdigest()

    def open(self) -> Encode:
        """What encodes texts, without special tokens; to be made once in each process."""
        if self._is_core:
            from tokenizers import Tokenizer

            core = Tokenizer.from_str(self.state.decode())
            core.encode_special_tokens = True  # taken for text
            return lambda texts: (found.ids for found in core.encode_batch_fast(texts, add_special_tokens=False))
        tokenizer = pickle.loads(self.state)
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        return lambda texts: (tokenizer(text, **options).input_ids for text in texts)

    def encoded(self, encode: Encode, texts: Sequence[str]) -> Encoded:
        """The texts as tokens, by what ``open`` made."""
        tokens = [np.array([*ids, self.end_id], dtype=self.dtype) for ids in encode(texts)]
        return Encoded(np.array([len(t) for t in tokens], dtype=np.int64), np.concatenate(tokens))


def _content(tokenizer: Any) -> bytes:
    """What a tokenizer in Python is: its class, vocabulary, added tokens, settings and files. Not its pickle, in which
    sets stand in another order in every process."""
    kind = type(tokenizer)
    settings = {
        key: value
        for key, value in getattr(tokenizer, "init_kwargs", {}).items()
        if key not in ("name_or_path", "chat_template") and not key.endswith("_file")  # where it lies, and what is chat
    }
    parts: dict[str, Any] = {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "added": sorted((i, repr(token)) for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()),
        "settings": settings,
        "files": {},
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(NotImplementedError, AttributeError):
        tokenizer.save_vocabulary(folder)  # of SentencePiece it holds the scores as well
        parts["files"] = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(Path(folder).iterdir())}
    return json.dumps(parts, sort_keys=True, default=lambda v: sorted(map(str, v)) if _is_set(v) else repr(v)).encode()


def _is_set(value: object) -> bool:
    return isinstance(value, set | frozenset)
