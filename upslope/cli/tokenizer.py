"""``upslope tokenizer``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upslope.cli.options import app


@app.command(name="tokenizer")
def make_tokenizer(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCES...", help="Files (.txt, .md, .jsonl, .parquet), folders, patterns, hub data."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The directory to write, which must not be there.")],
    vocab: Annotated[int, typer.Option(help="Tokens in all: bytes, special tokens, merges.")] = 8192,
    column: Annotated[str, typer.Option(help="Of JSONL, Parquet and hub data: which one holds the text.")] = "text",
    held_out: Annotated[
        float, typer.Option(help="Share of the documents that is not learnt from but measured on; 0: none.")
    ] = 0.01,
    against: Annotated[
        list[str] | None, typer.Option(help="Another tokenizer to compare with, directory or hub id; repeatable.")
    ] = None,
) -> None:
    """Make a tokenizer of your text: byte-level BPE with a chat template, as a transformers directory.

    Any text comes back from its tokens as it was; digits stand alone. At the end there are bytes a token on held-out
    text, beside --against's and those of GPT-2 and SmolLM2 where they lie in the hub's cache.
    """
    from upslope.lab.tokenizing import tokenizer_command

    tokenizer_command(sources, out, vocab, column=column, held_out=held_out, against=against or ())
