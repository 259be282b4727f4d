"""Code that a run's run.toml names: it runs unasked only if this user wrote that file here."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from upslope.errors import UserError
from upslope.files import write_whole
from upslope.native.places import cache_folder, private_folder
from upslope.plugins import names_a_file

SEAL = ".made-here"
"""Beside run.toml: proof that whoever has the key wrote it."""


def seal(folder: Path, content: bytes) -> None:
    """Say, before it is written, of what run.toml will hold that it was written here. What it holds now, if that was
    said of it too, stays trusted: a kill may come in between. Without a place for a key that only we can read, nothing
    is said."""
    key = _key()
    if key is not None:
        now = folder / "run.toml"
        proofs = {_proof(key, content): None}  # a set in order
        if now.exists() and _is_sealed(key, folder):
            proofs[_proof(key, now.read_bytes())] = None
        write_whole(folder / SEAL, "\n".join(proofs).encode("ascii"))


def require_trusted(folder: Path, document: Mapping[str, Any], *, trust: bool) -> None:
    """Raise UserError, before anything is imported, if a run's run.toml (``document``) names code and was not written
    here, or changed since. ``trust``: the user was asked."""
    code = sorted({*_code(document), *_programs(document)})
    if not code or trust:
        return
    key = _key()
    if key is not None and _is_sealed(key, folder):
        return
    raise UserError(
        f"{folder / 'run.toml'} was not written here, or was changed since, and names code that would run: "
        f"{', '.join(code)}. Look at it, and give --trust if you want that"
    )


def _code(value: Any) -> Iterator[str]:
    """Every FILE.py:NAME in a table, however deep."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _code(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _code(inner)
    elif isinstance(value, str) and names_a_file(value):
        yield value


def _programs(document: Mapping[str, Any]) -> Iterator[str]:
    """What a run's processes would start, or be started by."""
    cluster = document.get("cluster")
    for key in ("vllm_python", "vllm_url", "address"):
        if isinstance(cluster, Mapping) and cluster.get(key):
            yield f"cluster.{key} = {cluster[key]!r}"


def _is_sealed(key: bytes, folder: Path) -> bool:
    """Whether one of the proofs there is of run.toml as it is now."""
    try:
        proof = _proof(key, (folder / "run.toml").read_bytes())
        return any(hmac.compare_digest(line, proof) for line in (folder / SEAL).read_text(encoding="ascii").split("\n"))
    except (OSError, ValueError):
        return False


def _proof(key: bytes, content: bytes) -> str:
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def _key() -> bytes | None:
    """This user's key, made if there is none; None where there is no private place for one."""
    place = cache_folder()
    if not private_folder(place):
        return None
    file = place / "key"
    try:
        if not file.exists():
            aside = place / f".key.{secrets.token_hex(8)}"
            aside.touch(mode=0o600)
            aside.write_bytes(secrets.token_bytes(32))
            with contextlib.suppress(FileExistsError):  # of several that begin at once, the first
                file.hardlink_to(aside)
            aside.unlink()
        return file.read_bytes() or None
    except OSError:
        return None
