"""A tokenizer's fingerprint is of what it is, whichever process asks."""

from __future__ import annotations

import os
import subprocess
import sys

from transformers import ByT5Tokenizer

from upslope.text.encoder import Encoder

FINGERPRINT = """
from transformers import ByT5Tokenizer
from upslope.text.encoder import Encoder
print(Encoder(ByT5Tokenizer(), 1).fingerprint)
"""


def fingerprint_elsewhere(seed: int) -> str:
    """Of a process of its own, in which sets are in another order."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(sys.path)}
    asked = [sys.executable, "-c", FINGERPRINT]
    return subprocess.run(asked, env=environment, check=True, capture_output=True, text=True, timeout=120).stdout


def test_a_slow_tokenizer_has_one_fingerprint_in_every_process() -> None:
    assert len({fingerprint_elsewhere(seed) for seed in (1, 2, 3)}) == 1


def test_slow_tokenizers_that_differ_have_other_fingerprints() -> None:
    plain, longer, more = ByT5Tokenizer(), ByT5Tokenizer(extra_ids=130), ByT5Tokenizer()
    more.add_tokens(["hello"])
    assert len({Encoder(each, 1).fingerprint for each in (plain, longer, more)}) == 3
    assert Encoder(plain, 1).fingerprint != Encoder(plain, 2).fingerprint
    assert Encoder(plain, 1).fingerprint == Encoder(ByT5Tokenizer(), 1).fingerprint
