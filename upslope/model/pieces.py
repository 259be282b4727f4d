"""The text of single tokens, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""What stands in a text for bytes that are no whole character."""
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # ▁
"""Stands for a space at the beginning of a token in tokenizers that SentencePiece made; decoding a single one drops
it."""
MOST_BYTES = 4
"""Of a character in UTF-8, and so the most tokens that can share one."""


class TokenTexts:
    """Reads tokens back one by one. A character that several tokens share stands with the last of them, and each of the
    others is ``�``. What a tokenizer puts between two tokens (a space between words) stands with the second. Special
    tokens are spelled out."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}
        self._behind: dict[tuple[int, int], str] = {}

    def __call__(self, ids: Sequence[int]) -> list[str]:
        texts = [self._text(token) for token in ids]
        for place, text in enumerate(texts):
            if UNREADABLE in text:
                texts[place] = self._with_those_before(ids, texts, place)
        if UNREADABLE in (told := "".join(texts)) or self._decoded(ids) in (told, told[1:]):
            return texts
        return texts[:1] + [self._text_behind(*pair) for pair in pairwise(ids)]

    def _text_behind(self, before: int, token: int) -> str:
        """What ``token`` adds to the one before it."""
        found = self._behind.get((before, token))
        if found is None:
            first, both = self._decoded([before]), self._decoded([before, token])
            found = both.removeprefix(first) if both.startswith(first) else self._text(token)
            self._behind[before, token] = found
        return found

    def _text(self, token: int) -> str:
        found = self._known.get(token)
        if found is None:
            name = self._tokenizer.convert_ids_to_tokens(token)
            found = self._decoded([token])
            if isinstance(name, str) and name.startswith(SPACE) and not found.startswith(" "):
                found = " " + found
            self._known[token] = found
        return found

    def _with_those_before(self, ids: Sequence[int], texts: Sequence[str], place: int) -> str:
        """What the tokens up to ``place`` spell if they are the end of a character; ``�`` else."""
        for start in range(place - 1, max(place - MOST_BYTES, -1), -1):
            if UNREADABLE not in texts[start]:
                break
            joined = self._decoded(ids[start : place + 1])
            if UNREADABLE not in joined:
                return joined
        return UNREADABLE

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
