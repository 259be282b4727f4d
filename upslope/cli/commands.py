"""All commands: each module adds its own to the app."""

from __future__ import annotations

from typing import Annotated

import typer

from upslope import __version__
from upslope.cli import data, export, ladder, look, measure, page, pipeline, plan, serve, shown, tokenizer, train
from upslope.cli.options import app

__all__ = [
    "app",
    "data",
    "export",
    "ladder",
    "look",
    "measure",
    "page",
    "pipeline",
    "plan",
    "serve",
    "shown",
    "tokenizer",
    "train",
]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"upslope {__version__}")
        raise typer.Exit
