"""Tokenising a large text: megabytes a second, the most memory held, and seconds until it is open again.

    python benchmarks/text.py TOKENIZER [--megabytes 1000] [--workers 1,2]

``TOKENIZER`` is a directory with a tokenizer.json. The text is made here: words of one to four syllables out of
200,000, as often as Zipf's law has it, in sentences and paragraphs, as one file. Every number of workers has its turn,
in a process of its own and with a folder of its own, which are deleted afterwards. Gigabytes are 10^9 bytes; those of
the processes that tokenise are the largest one's times their number. ``first block``: from nothing but the imports to
4 blocks of 1024 tokens, the corpus being there.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Measure, Result, peak_gb, tell, worker

WORDS = 200_000


def make_text(path: Path, megabytes: int) -> None:
    """The same text for the same size."""
    rng = np.random.default_rng(0)
    syllables = [c + v + e for c in "bdfgklmnprst" for v in "aeiou" for e in ("", "n", "r", "s")]
    lengths = rng.integers(1, 5, WORDS)
    words = np.array(["".join(rng.choice(syllables, length)) for length in lengths])
    share = 1 / np.arange(10, WORDS + 10)
    cumulated = np.cumsum(share / share.sum())
    written = 0
    with path.open("wb") as file:
        while written < megabytes * 1_000_000:
            drawn = words[np.searchsorted(cumulated, rng.random(100_000)).clip(max=WORDS - 1)].tolist()
            ends = rng.random(len(drawn))
            text = "".join(
                word + ("\n\n" if end < 0.01 else ". " if end < 0.08 else " ")
                for word, end in zip(drawn, ends, strict=True)
            )
            written += file.write(text.encode())


def tokenise(tokenizer_file: str, source: str, folder: str, workers: int) -> Result:
    """One side, and then once more from the cache."""
    from tokenizers import Tokenizer

    from upslope.text.corpus import open_corpus
    from upslope.text.order import Blocks

    tokenizer = Tokenizer.from_file(tokenizer_file)
    options: dict[str, Any] = {
        "tokenizer": tokenizer,
        "end_id": 0,
        "held_out": 0.01,
        "folder": Path(folder),
        "workers": workers,
    }
    begin = time.perf_counter()
    corpus = open_corpus([source], **options)
    made = time.perf_counter()
    corpus = open_corpus([source], **options)
    there = time.perf_counter()
    training = np.flatnonzero(~corpus.held_out_D)
    blocks = Blocks(
        corpus.length_D, 1024, lambda epoch: np.random.default_rng(epoch).permutation(len(training)), training
    )
    for number in range(4):
        for piece in blocks.pieces(number):
            corpus.read(*piece)
    read, num_tokens = time.perf_counter(), int(corpus.length_D.sum())
    size = Path(source).stat().st_size
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    return {
        "rate": size / 1e6 / (made - begin),
        "seconds": made - begin,
        "open": there - made,
        "first": read - made,
        "gb": peak_gb(),
        "gb_others": child * workers if workers else 0.0,
        "tokens": num_tokens,
        "documents": len(corpus.length_D),
        "bytes_a_token": int(corpus.bytes_D.sum()) / num_tokens,
    }


def line(result: Result) -> str:
    return (
        f"{result['rate']:.2f} MB/s ({result['seconds']:.0f} s), peak {result['gb']:.2f} GB here and "
        f"{result['gb_others']:.2f} GB in the workers, open again in {result['open']:.2f} s, first block "
        f"{result['first']:.2f} s; "
        f"{result['documents']:,} documents, {result['tokens']:,} tokens of {result['bytes_a_token']:.2f} bytes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    tokenizer_file = str(Path(options.tokenizer, "tokenizer.json").resolve())
    if options.worker:
        tell(tokenise(tokenizer_file, *json.loads(options.worker)))
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "text.txt")
        make_text(source, options.megabytes)
        for turn, workers in enumerate(map(int, options.workers.split(","))):
            side = json.dumps([str(source), str(Path(folder, f"made-{turn}")), workers])
            measure: Measure = worker(__file__, side, [str(Path(options.tokenizer).resolve())])
            print(f"{options.megabytes} MB, {workers} workers: {line(measure())}", flush=True)


if __name__ == "__main__":
    main()
