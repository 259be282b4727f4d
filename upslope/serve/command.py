"""``upslope serve``: a model, loaded and served."""

from __future__ import annotations

from dataclasses import replace

from upslope.inspect.screen import console_aside
from upslope.inspect.terminal import TerminalView
from upslope.inspect.words import visible
from upslope.serve.app import Service, serve_policy
from upslope.training.settings import RunSettings
from upslope.training.speaking import speaking

READ = ("new", "seed", "device", "threads", "deterministic", "learn.dtype")
"""The settings that a served model depends on."""


def serve_command(settings: RunSettings, service: Service) -> None:
    """Serve ``settings.model`` until Ctrl-C. Raises UserError as ``serve_policy`` does, and for the model."""
    service.require_safe()
    service = replace(service, name=service.name or settings.model)
    with speaking(settings, lambda: TerminalView(console_aside())) as policy:
        serve_policy(
            policy,
            service,
            lambda address: print(f"{visible(service.name)} at {address}  (Ctrl-C ends it)", flush=True),
        )
