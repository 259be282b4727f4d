"""A tokenizer's chat template as ``turns_of`` asks for it, and what it says when it does not take a chat."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from jinja2 import TemplateError  # comes with torch; transformers renders with it
from transformers.utils.chat_template_utils import render_jinja_template

from upslope.model.turns import Refused
from upslope.types import Message

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""No further arguments for a chat template."""
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""How a chat template marks what the assistant says."""


class Renders(Protocol):
    """What is asked of a renderer here."""

    @property
    def tokenizer(self) -> Any: ...
    @property
    def end_ids(self) -> tuple[int, ...]: ...
    @property
    def ends(self) -> tuple[str, ...]: ...
    @property
    def written_end(self) -> int | None: ...
    @property
    def hears_tools(self) -> bool: ...
    @property
    def tells_tools(self) -> dict[tuple[str, ...], bool]: ...
    def ids(self, text: str) -> tuple[int, ...]: ...
    def whole_ids(self, text: str) -> tuple[int, ...]: ...
    def rendered(self, messages: Sequence[Message], options: Mapping[str, Any], *, generate: bool) -> str: ...
    def spelled(self, ids: Sequence[int]) -> str: ...


class TemplateRendering:
    """A renderer's template with its options, as ``turns_of`` asks for it."""

    def __init__(self, of: Renders, options: Mapping[str, Any]) -> None:
        self._of, self._options, self.ends = of, options, of.ends
        self.stops = tuple(of.spelled([i]) for i in of.end_ids)

    def __call__(self, messages: Sequence[Message], *, generate: bool) -> str:
        return self._of.rendered(messages, self._options, generate=generate)

    def marked(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]] | None:
        tokenizer = self._of.tokenizer
        if not (isinstance(tokenizer.chat_template, str) and MARKS.search(tokenizer.chat_template)):
            return None
        how = {"chat_template": tokenizer.chat_template, "return_assistant_tokens_mask": True}
        with refusals(messages):
            texts, spans = render_jinja_template(
                [[dict(m) for m in messages]], **{**tokenizer.special_tokens_map, **self._options, **how}
            )
        return texts[0], [(begin, end) for begin, end in spans[0]]


@contextlib.contextmanager
def refusals(messages: Sequence[Message]) -> Iterator[None]:
    """A template is a program, and may fail like any other. Raises Refused for whatever it raises."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
        said = f"the model's chat template does not take {list(messages)!r:.600}: {kind}{error}"
        raise Refused(said, f"{kind}{error}") from error
