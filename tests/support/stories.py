"""Texts and a tokenizer for the tests of text: small, made on the spot, the same every time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = 0
WORDS = (
    *("the", "a", "cat", "dog", "sees", "runs", "over", "under", "house", "tree", "and", "then", "says", "nothing"),
    *("über", "straße", "☃", "12", "7", "."),
)


def story(random: Random, num_words: int) -> str:
    return " ".join(random.choice(WORDS) for _ in range(num_words))


def stories(num: int, seed: int = 0) -> Iterator[str]:
    """Documents of different lengths; every tenth was there before."""
    before: list[str] = []
    for number in range(num):
        random = Random(f"{seed}/{number}")
        again = before and number % 10 == 9
        before.append(random.choice(before) if again else story(random, random.randrange(1, 90)) + f" {number}")
        yield before[-1]


def write_rows(path: Path, texts: Iterator[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def byte_tokenizer(vocabulary: int = 300) -> Tokenizer:
    """Byte-level BPE; token 0 ends a text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([story(Random(0), 2000)], trainer)
    return core
