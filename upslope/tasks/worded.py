"""``task.template``, ``task.chat_template_kwargs`` and ``task.keep_special``: how a model reads prompts, and rewards
attempts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from upslope.tasks.around import OtherRows
from upslope.tasks.base import Split, Task
from upslope.tasks.conversation import template_options
from upslope.types import Form, Problem


class Worded(OtherRows):
    """A task whose problems say how they are to be put to a model."""

    def __init__(self, inner: Task, form: Form, options: Mapping[str, Any], *, keep_special: bool) -> None:
        """``options``: of the chat template; a row's own come first. Raises UserError for one that is not to be
        given."""
        super().__init__(inner)
        self._form, self._options = form, template_options(options, "task.chat_template_kwargs")
        self.keep_special = keep_special or inner.keep_special

    def made(self, problems: Sequence[Problem], split: Split | None) -> list[Problem]:
        return [replace(p, form=self._form, template={**self._options, **p.template}) for p in problems]

    def fingerprint(self) -> str:
        parts = [super().fingerprint(), self._form, self._options, self.keep_special]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()
