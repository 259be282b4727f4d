"""How a model can be run: tried before it is, with what will be used. Everything is measured by one row alone, in one
pass without a cache (``plain.row_by_itself``).

What is tried: rows of unequal length side by side, with a shared prompt; decoding token by token while rows leave;
positions beyond every length that the config names, as far as that costs little. A model runs packed, with our
attention (``admit``), or else the plain way (``plain_way``): rows padded side by side, or one at a time; with what it
keeps of earlier tokens, or without. One that is no language model in longer rows runs in shorter ones alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from upslope.errors import UserError
from upslope.model.attention import NAME, planned, release, take_over
from upslope.model.decoder import AloneDecoder, PlainDecoder, SharedPromptDecoder, WholeDecoder
from upslope.model.fast import Decoder
from upslope.model.hf import accepted, attention_in_use, below_adapter, can_choose_attention, text_config
from upslope.model.layout import Tokens, lay_out
from upslope.model.lengths import named_reaches, pieces, turn_of, turns
from upslope.model.plain import before_tokens, plain_call, row_by_itself, whole_pass
from upslope.model.precision import agree
from upslope.model.probing import around, is_cheap, probe, probes
from upslope.plugins import said

MakeDecoder = Callable[[Any, int, int], Decoder]
Keeps = Literal["all rows", "a row", "a row that counts itself", "nothing"]
"""What of earlier tokens is kept while decoding, and reads right."""

DECODERS: dict[Keeps, MakeDecoder] = {
    "all rows": PlainDecoder,
    "a row": AloneDecoder,
    "a row that counts itself": partial(AloneDecoder, places=False),
    "nothing": WholeDecoder,
}


@dataclass(frozen=True)
class PlainWay:
    """How a model runs that is not packed."""

    side_by_side: bool
    """Whether rows can be scored together, padded."""
    keeps: Keeps
    untried: int = 0
    """Rows beyond this length were not tried, as that would take long; 0: all were."""
    longest: int = sys.maxsize
    """Tokens of prompt and response up to which it is right, and what it is beyond."""
    beyond: str = ""

    @property
    def bound(self) -> str:
        """That rows have to be short, and why, in words; empty if they need not be."""
        right = f"it is right in rows of at most {self.longest:,} tokens, prompt and attempt together"
        return f"{right}; longer ones are refused, as in them {self.beyond}" if self.beyond else ""

    @property
    def decoder(self) -> MakeDecoder:
        return DECODERS[self.keeps]

    def told(self, kind: str) -> str:
        """In one line, of a model of this class."""
        parts = ["scored in padded rows" if self.side_by_side else "scored a row at a time"]
        parts += {
            "all rows": ["sampled in padded rows"],
            "a row": ["sampled a row at a time"],
            "a row that counts itself": ["sampled a row at a time"],
            "nothing": ["sampled by a whole pass for every token, as what it keeps of earlier ones is not right"],
        }[self.keeps]
        beyond = f"; not tried beyond {self.untried:,} tokens" if self.untried else ""
        beyond += f"; {self.bound}" if self.bound else ""
        return f"{kind} cannot be packed, so it takes the plain path: {', '.join(parts)}{beyond}"


_PLAIN: WeakKeyDictionary[Any, PlainWay] = WeakKeyDictionary()
"""What was found of models, by the model below an adapter."""


def admit(model: Any) -> bool:
    """Switch the model to our attention if it then computes what it computed before; say whether it did.

    Lengths that a config names (windows, chunks) and layers of other kinds rule a model out, as short rows do not show
    them; LongRoPE does not, as rows to its two sides are never in one pass. The rest is measured: packed scoring, and
    decoding with rows that begin and leave. A model that is not admitted is left as it was.
    """
    if attention_in_use(model) == NAME:
        return True
    config = text_config(model)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if not can_choose_attention(model) or kinds != {"full_attention"} or named_reaches(config):
        return False
    at = turns(model)
    try:
        with torch.no_grad():
            rows = [*probes(model), *(row for n in at if is_cheap(model, n) for row in around(model, n))]
            truth = [row_by_itself(model, row, at) for row in rows]
            take_over(model)
            for near in pieces(rows, at):
                layout = lay_out([p.tokens for p in near], next(model.parameters()).device)
                with planned(layout):
                    logits = model(**layout.call()).logits[0]
                wanted = [truth[p.row][column] for p in near for column, c in enumerate(p.tokens.mask) if c]
                if not agree(logits, torch.stack(wanted)):
                    raise _Differs
            _require_decoding(partial(SharedPromptDecoder, model), rows, truth, at)
    except Exception:  # whatever an architecture does that is no plain attention over the tokens it is given
        release(model)
        return False
    return True


def plain_way(model: Any) -> PlainWay:
    """How a model that is not packed can run, and up to what length. Raises UserError if it cannot: if even in short
    rows it does not take tokens alone, looks at later ones, or does not say twice the same."""
    inside = below_adapter(model)
    if inside not in _PLAIN:
        with torch.no_grad():
            _PLAIN[inside] = _measured_way(model)
    return _PLAIN[inside]


def _measured_way(model: Any) -> PlainWay:
    at = turns(model)
    lengths = sorted({*named_reaches(text_config(model)), *at})
    near = [n for n in lengths if is_cheap(model, n)]
    sets, truths, longest, beyond = _sound(model, near, at)
    side_by_side = all(_scores_side_by_side(model, *pair, at) for pair in zip(sets, truths, strict=True))
    keeps: Keeps = "nothing"
    ways: tuple[tuple[Keeps, MakeDecoder], ...] = (
        ("all rows", PlainDecoder),
        ("a row", partial(AloneDecoder, turns=at)),
        ("a row that counts itself", partial(AloneDecoder, turns=at, places=False)),
    )
    for name, make in ways:
        try:
            for rows, truth in zip(sets, truths, strict=True):
                _require_decoding(partial(make, model), rows, truth, at if name == "all rows" else ())
        except Exception:  # whatever an architecture does that this way is none for it
            continue
        keeps = name
        break
    untried = next((n for n in lengths if n not in near and n < longest), 0)
    return PlainWay(side_by_side, keeps, untried, longest, beyond)


class _Differs(Exception):
    pass


class _Unsound(Exception):
    """A model says what could not be learnt from, for this reason."""


def _sound(
    model: Any, lengths: Sequence[int], at: Sequence[int]
) -> tuple[list[list[Tokens]], list[list[Tensor]], int, str]:
    """Sets of rows with the logits of each by itself: short ones, and some beyond each of the lengths as far as the
    model is sound there; the longest row that may be, and what it is beyond. Raises UserError if it is sound nowhere.
    """
    usual = probes(model)
    sets: list[list[Tokens]] = []
    truths: list[list[Tensor]] = []

    def tried(rows: list[Tokens]) -> str:
        """Why not."""
        try:
            truths.append(_truth(model, rows, at, learns=not sets))
        except _Unsound as error:
            return str(error)
        sets.append(rows)
        return ""

    for length in (0, *lengths):
        why = tried([*around(model, length), usual[0]] if length else usual)
        if not why:
            continue
        known = max((_total(row) for rows in sets for row in rows), default=0)
        bound = length or (lengths[0] if lengths else 0)
        shorter = [probe(bound - 5, 5, model)] if bound > known > 0 else [row for row in usual if _total(row) <= bound]
        longest = bound if shorter and not tried(shorter) else min(known, bound)
        if not longest:
            raise UserError(f"a {type(model).__name__} cannot be trained here: {why}")
        return sets, truths, longest, why
    return sets, truths, sys.maxsize, ""


def _total(row: Tokens) -> int:
    return len(row.prompt) + len(row.response)


def _truth(model: Any, rows: Sequence[Tokens], at: Sequence[int], *, learns: bool) -> list[Tensor]:
    """Logits of every row by itself. Raises _Unsound if they are none that could be learnt from; with ``learns``, a
    gradient is tried too."""
    try:
        truth = [row_by_itself(model, row, at) for row in rows]
        row, logits = max(zip(rows, truth, strict=True), key=lambda pair: _total(pair[0]))
        again = row_by_itself(model, row, at)
        ends = range(len(row.response))
        short = torch.stack([whole_pass(model, (*row.prompt, *row.response[:end]))[-1] for end in ends])
        learnt = next((p for p in model.parameters() if p.requires_grad), None)
        if learnt is not None and learns:
            with torch.enable_grad():
                torch.autograd.grad(row_by_itself(model, row, at).sum(), learnt, allow_unused=True)
    except Exception as error:
        first = next(iter(said(error, str).splitlines()), "")
        raise _Unsound(f"called with tokens alone it raises {type(error).__name__}: {first}") from error
    if not all(bool(torch.isfinite(x).any(dim=-1).all()) and not bool(x.isnan().any()) for x in truth):
        raise _Unsound("its logits are not finite; its weights are damaged")
    if not agree(again, logits):
        raise _Unsound("called twice with the same tokens it gives other logits")
    if not agree(short, logits):
        raise _Unsound(
            "what it says of a token depends on later ones, so it is no causal language model, or its config.json "
            "says so"
        )
    return truth


def _scores_side_by_side(model: Any, rows: Sequence[Tokens], truth: Sequence[Tensor], at: Sequence[int]) -> bool:
    device = next(model.parameters()).device
    try:
        for near in pieces(rows, at):
            parts = [p.tokens for p in near]
            found_NTV = before_tokens(model(**accepted(model, plain_call(parts, 0, device))).logits, parts)
            for n, piece in enumerate(near):
                chosen = torch.tensor(piece.tokens.mask).nonzero()[:, 0]
                if not agree(found_NTV[n][chosen], truth[piece.row][chosen]):
                    return False
    except Exception:  # as a model that takes no mask
        return False
    return True


def _require_decoding(
    make: Callable[[int, int], Decoder], rows: Sequence[Tokens], truth: Sequence[Tensor], at: Sequence[int]
) -> None:
    """Decode the rows, each with its own tokens, and let go of those that end. Raises an exception if any logits are
    others. Rows to two sides of a turn are never decoded together."""
    sides = [{turn_of(len(row.prompt) - 1, at), turn_of(len(row.prompt) + len(row.response) - 1, at)} for row in rows]
    for side in range(len(at) + 1):
        chosen = [n for n, found in enumerate(sides) if found == {side}]
        if chosen:
            _require_rows([rows[n] for n in chosen], [truth[n] for n in chosen], make)


def _require_rows(rows: Sequence[Tokens], truth: Sequence[Tensor], make: Callable[[int, int], Decoder]) -> None:
    live, longest = list(range(len(rows))), max(len(row.response) for row in rows)
    decoder = make(len(rows), longest)
    decoder.place(live, [row.prompt for row in rows])
    for column in range(longest):
        going = [n for n in live if column < len(rows[n].response)]
        device = truth[0].device
        if going != live:
            decoder.keep(torch.tensor([live.index(n) for n in going], device=device))
            live = going
        newest = [(rows[n].prompt if column == 0 else rows[n].response)[column - 1] for n in live]
        logits = decoder.advance(torch.tensor(newest, device=device))
        if not agree(logits, torch.stack([truth[n][column] for n in live])):
            raise _Differs
    if decoder.refills:
        again = make(1, 2)
        for row, expected in ((rows[0], truth[0]), (rows[-1], truth[-1])):
            again.place([0], [row.prompt])
            if not agree(again.advance(torch.tensor([row.prompt[-1]], device=expected.device)), expected[:1]):
                raise _Differs
