"""Text that grows token by token is the text of all tokens, up to a stop."""

from __future__ import annotations

import random

import pytest
from tiny import TOKENIZER

from upslope.model.byte_pairs import learn_tokenizer
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.growing import GrowingText

TEXTS = ["naïve café — 🙂🙃 end", "Tom has 3 apples.\n#### 12", "日本語のテキスト", "  spaces  and\ttabs "]
BYTES = ChatRenderer.of(learn_tokenizer(TEXTS * 4, 280))
WORDS = ChatRenderer.of(TOKENIZER)


@pytest.mark.parametrize("renderer", [BYTES, WORDS], ids=["bytes", "words"])
def test_it_grows_to_the_text_of_all_tokens(renderer: ChatRenderer) -> None:
    """Of texts, and of random tokens: half characters, special tokens in the middle."""
    rng = random.Random(0)
    size = len(renderer.tokenizer)
    drawn = [[rng.randrange(size) for _ in range(rng.randint(1, 40))] for _ in range(50)]
    for ids in [*(list(renderer.response_ids(text)) for text in TEXTS), *drawn]:
        grown = GrowingText(renderer.text)
        pieces = [grown.add(token) for token in ids]
        assert not any(piece.endswith("\ufffd") for piece in pieces)
        assert "".join(pieces) + grown.rest() == renderer.text(ids)


@pytest.mark.parametrize("stop", ["é —", "🙃", "#### 1", "ab", "a", "\n", "キス"])
def test_a_stop_cuts_before_it_and_nothing_of_it_gets_out(stop: str) -> None:
    for text in [*TEXTS, "aab", "aaab", "xa", "b"]:
        ids = BYTES.response_ids(text)[:-1]
        grown, said = GrowingText(BYTES.text, ("zzz", stop)), ""
        for token in ids:
            said += grown.add(token)
            assert text.startswith(said) and stop not in said
            if grown.stopped:
                break
        said += grown.rest()
        assert grown.stopped == (stop in text)
        assert said == text.partition(stop)[0]
