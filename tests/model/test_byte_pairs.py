"""Where text is cut before bytes are paired: as Qwen2 cuts it, but no piece is long."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Regex, pre_tokenizers

from upslope.model.byte_pairs import PIECES

LONGEST = 64
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUT, WHOLE = (pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in (PIECES, QWEN2))
TEXT = st.text(alphabet=st.sampled_from("abé漢字1٣ \t\r\n.,'=-s\u00a0\u3000☃"), max_size=LONGEST)


@settings(max_examples=300)
@given(TEXT | st.text(max_size=LONGEST))
def test_ordinary_text_is_cut_as_by_qwen2(text: str) -> None:
    assert CUT.pre_tokenize_str(text) == WHOLE.pre_tokenize_str(text)


@pytest.mark.parametrize("character", ["a", "漢", "=", " ", "\n", "\t", "\u3000", " \n", "=\n", "ab☃", "\r\n"])
def test_no_piece_is_long_and_none_is_lost(character: str) -> None:
    """A mark may stand before letters, and as many line ends behind marks: at most 64 + 64 + 1."""
    text = character * 1000
    pieces = [piece for piece, _ in CUT.pre_tokenize_str(text)]
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 2 * LONGEST + 1
