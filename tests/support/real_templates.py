"""The chat templates that families of models are shipped with, from outside: their texts have licences of their own.

They are read from the folder that ``UPSLOPE_TEMPLATES`` names, ``NAME.jinja`` each; else, those of them that TRL has,
from an installed TRL.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path


def real_template(name: str) -> str | None:
    """As Jinja; None where there is none to be had."""
    spec = importlib.util.find_spec("trl")
    trl = Path(spec.origin).parent / "chat_templates" if spec and spec.origin else None
    folders = [os.environ.get("UPSLOPE_TEMPLATES"), trl]
    for folder in folders:
        file = Path(folder) / f"{name}.jinja" if folder else None
        if file is not None and file.is_file():
            return file.read_text(encoding="utf-8")
    return None
