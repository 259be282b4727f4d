"""Texts of a data set on the Hugging Face Hub, streamed by ``datasets``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from upslope.errors import Unavailable, UserError

_ID = re.compile(r"(?P<id>[\w-][\w.-]*/[\w.-]+)(:(?P<config>[^:]*)(:(?P<split>[^:]+))?)?")


def is_hub_id(source: str) -> bool:
    """Whether this may name a data set: ``owner/name``, ``owner/name:config``, ``owner/name:config:split``.

    >>> is_hub_id("owner/name::test"), is_hub_id("a/b/c"), is_hub_id("./a")
    (True, False, False)
    """
    return _ID.fullmatch(source) is not None


def hub_rows(source: str) -> Iterator[dict[str, Any]]:
    """The rows of a data set, as they arrive; its split ``train`` unless another is named.

    Raises UserError without the package, and Unavailable (one line) for whatever keeps the rows from coming.
    """
    found = _ID.fullmatch(source)
    assert found is not None, source
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{source}: there is no such file or folder; to read a data set of the hub, pip install 'upslope[hub]'"
        ) from None
    rows: Iterator[dict[str, Any]] | None = None
    while True:
        try:
            if rows is None:
                split = found["split"] or "train"
                rows = iter(datasets.load_dataset(found["id"], found["config"] or None, split=split, streaming=True))
            row = next(rows, None)
        except Exception as error:  # datasets raises its own, huggingface_hub's, httpx's and the system's errors
            raise Unavailable(
                f"{source}: there is no such file or folder, and it cannot be had from the hub "
                f"({type(error).__name__}: {' '.join(str(error).split()):.200}); check the name, and be online"
            ) from error
        if row is None:
            return
        yield row
