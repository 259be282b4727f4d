"""Tokens read back one by one."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from upslope.model.pieces import UNREADABLE, TokenTexts
from upslope.model.pocket import build_tokenizer

TEXTS = ["plain words, 3 + 4 = 7", "wörld é", "漢字 and 🎉🎉 done", "<|end|> and <|end|>", "a\n\n  b\t", ""]


def of_bytes(vocabulary: int) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")


@pytest.mark.parametrize("vocabulary", [257, 290])
@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_are_the_text(vocabulary: int, text: str) -> None:
    """Whatever a character was cut into, it stands once, with the last of its tokens."""
    tokenizer = of_bytes(vocabulary)
    ids = tokenizer(text)["input_ids"]
    pieces = TokenTexts(tokenizer)(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces).replace(UNREADABLE, "") == text


def test_half_a_character_is_no_text() -> None:
    tokenizer = of_bytes(257)
    ids = tokenizer("é")["input_ids"]
    texts = TokenTexts(tokenizer)
    assert texts(ids) == [UNREADABLE, "é"]
    assert texts(ids[:1]) == [UNREADABLE]
    assert texts(ids[1:]) == [UNREADABLE]
    assert texts([*ids[:1], *ids]) == [UNREADABLE, UNREADABLE, "é"]


def test_a_space_at_the_beginning_of_a_sentencepiece_token_is_kept() -> None:
    core = Tokenizer(models.WordLevel({"▁so": 0, "▁it": 1, "s": 2, "<unk>": 3}, unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    assert TokenTexts(tokenizer)([0, 1, 2]) == [" so", " it", "s"]


@pytest.mark.parametrize("text", ["Tom has 3 apples, and more.", "4 - 3 = 1\n4 + 1 = 5\n#### 5", "7", ""])
def test_spaces_that_no_token_has_are_kept(text: str) -> None:
    """Of the pocket world's words, each a token."""
    tokenizer = build_tokenizer()
    ids = tokenizer.encode(text)
    assert "".join(TokenTexts(tokenizer)(ids)) == tokenizer.decode(ids)


def test_what_stands_between_words_is_told_once() -> None:
    core = Tokenizer(models.WordPiece({"so": 0, "##lid": 1, "it": 2, "<unk>": 3}, unk_token="<unk>"))
    core.decoder = decoders.WordPiece(cleanup=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    assert TokenTexts(tokenizer)([0, 1, 2, 0]) == ["so", "lid", " it", " so"]
