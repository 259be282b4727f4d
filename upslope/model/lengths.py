"""Lengths at which a model begins to compute in another way, by what its config names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from upslope.model.hf import text_config, text_part
from upslope.model.layout import HasTokens, Tokens

REACHES = re.compile(r"window|chunk|local_attention|index_topk|block_size")
"""What configs call the number of tokens that a layer sees, or works on at once."""
NO_REACHES = re.compile(r"layers|pattern|_type|vision|image|audio|feed_forward")


def named_reaches(config: Any) -> tuple[int, ...]:
    """Every reach that a config names and that its longest row goes beyond: sliding windows, chunks, how many tokens a
    sparse layer picks. Shorter rows do not show what they do."""
    text = text_part(config)
    longest = getattr(text, "max_position_embeddings", None)
    found = set()
    for name, value in vars(text).items():
        if REACHES.search(name) and not NO_REACHES.search(name) and type(value) is int and value > 1:
            idle = "window" in name and getattr(text, "use_sliding_window", True) is False
            if not idle and not (isinstance(longest, int) and value >= longest):
                found.add(value)
    return tuple(sorted(found))


def turns(model: Any) -> tuple[int, ...]:
    """The lengths beyond which a row's rotary angles are others, for all of its tokens (LongRoPE, arXiv 2402.13753).

    A row of more tokens is another computation from its first token on, so what such a model says of a token depends on
    how many stand before it, and rows to both sides of such a length cannot share a pass.
    """
    config = text_config(model)
    rope = getattr(config, "rope_parameters", None) or {}
    found = {n for n in _turns(rope, getattr(config, "original_max_position_embeddings", None)) if type(n) is int}
    return tuple(sorted(n for n in found if n < (getattr(config, "max_position_embeddings", None) or n + 1)))


def _turns(rope: Mapping[str, Any], original: Any) -> Iterator[Any]:
    """Of one table, or of one for each kind of layers."""
    if rope.get("rope_type") == "longrope":
        yield rope.get("original_max_position_embeddings") or original
    for value in rope.values():
        if isinstance(value, Mapping):
            yield from _turns(value, original)


def turn_of(num_tokens: int, turns: Sequence[int]) -> int:
    """How many of these lengths a row of so many tokens is beyond."""
    return sum(num_tokens > turn for turn in turns)


class LengthPiece(NamedTuple):
    """A row as far as one computation goes, which scores the tokens that stand before its end and after the last turn.
    ``row`` is its number among all rows."""

    row: int
    tokens: HasTokens


def pieces(rollouts: Sequence[HasTokens], turns: Sequence[int]) -> list[list[LengthPiece]]:
    """The rows that can share a pass: one list where no row is beyond a turn. A token is scored by the pass over the
    tokens before it, as it was drawn, so a row that goes beyond a turn is in two lists.

    >>> row = Tokens((1, 2), (3, 4, 5), (True,) * 3)
    >>> [[(p.row, p.tokens.response, p.tokens.mask) for p in found] for found in pieces([row], [3])]
    [[(0, (3, 4), (True, True))], [(0, (3, 4, 5), (False, False, True))]]
    """
    lists: list[list[LengthPiece]] = [[] for _ in range(len(turns) + 1)]
    for row, rollout in enumerate(rollouts):
        prompt = len(rollout.prompt)
        where = [turn_of(prompt + column, turns) for column in range(len(rollout.response))] or [0]
        for turn in dict.fromkeys(where):
            end = max(column for column, at in enumerate(where) if at == turn) + 1
            mask = tuple(chosen and at == turn for chosen, at in zip(rollout.mask[:end], where, strict=False))
            lists[turn].append(LengthPiece(row, Tokens(rollout.prompt, rollout.response[:end], mask)))
    return [found for found in lists if found]


def scored_in(passes: Sequence[Sequence[LengthPiece]]) -> list[tuple[int, int]]:
    """(row, column) of every token that is scored, pass by pass.

    >>> row = Tokens((1, 2), (3, 4, 5), (True,) * 3)
    >>> scored_in(pieces([row], [3]))
    [(0, 0), (0, 1), (0, 2)]
    """
    return [(p.row, column) for found in passes for p in found for column, chosen in enumerate(p.tokens.mask) if chosen]
