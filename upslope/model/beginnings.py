"""An assistant's turn that a prompt begins and an attempt goes on with."""

from __future__ import annotations

from collections.abc import Sequence

from upslope.model.turns import Rendering, turns_of
from upslope.types import Message


def begun(messages: Sequence[Message], render: Rendering) -> str:
    """A chat as text up to the end of its last message, which is the assistant's: as the template writes that turn, but
    for its end, and with the spaces that it ends with. Raises UserError as ``turns_of`` does."""
    *before, last = messages
    content: str = last["content"]
    turn = turns_of([*({**m, "train": False} if m["role"] == "assistant" else m for m in before), last], render)[-1]
    written = turn.written.rstrip()
    end = max((end for end in render.ends if written.endswith(end)), key=len, default="")
    return turn.prompt + written.removesuffix(end).rstrip() + content[len(content.rstrip()) :]
