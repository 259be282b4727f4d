"""``upslope serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from upslope.cli.measure import require_read
from upslope.cli.options import Dtype, ModelName, Overrides, app


@app.command(name="serve")
def serve_model(
    model: ModelName,
    overrides: Overrides = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than this machine's own needs --api-key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    api_key: Annotated[
        str, typer.Option(envvar="UPSLOPE_API_KEY", help="What clients have to show; empty: nothing.", show_default="")
    ] = "",
    name: Annotated[str, typer.Option(help="What clients call the model (as it is called here).")] = "",
    max_rows: Annotated[int, typer.Option(min=1, help="Responses written at once; others wait.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest chat answer of which no length is asked.")] = 1024,
    dtype: Dtype = "auto",
    device: str = "auto",
) -> None:
    """Serve a model behind OpenAI's interface, so that any client or evaluation harness can talk to a checkpoint.

    /v1/chat/completions, /v1/completions (with echo and logprobs), /v1/models, and tokens in, tokens out as
    /inference/v1/generate. Requests join those that are being written; log-probabilities are the learner's.
    """
    from upslope.config import load_settings
    from upslope.serve.app import Service
    from upslope.serve.command import READ, serve_command

    require_read("serve", overrides, READ)
    options = {"model": model, "device": device, "learn.dtype": dtype}
    service = Service(name, host, port, api_key, max_rows, max_tokens)
    serve_command(load_settings(None, overrides or (), options), service)
