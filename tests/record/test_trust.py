"""No code runs that was not named here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import tomli_w

from upslope.errors import UserError
from upslope.native.places import private_folder
from upslope.record.folder import FolderRecorder
from upslope.record.trust import SEAL, require_trusted, seal

CODE = {"task": {"name": "user", "rewards": ["/x/mine.py:odd"]}, "recipe": {"shape": {"kind": "/x/slots.py:mine"}}}
PLAIN = {"task": {"name": "pocket", "data": "a:b", "rewards": []}, "recipe": {"name": "grpo"}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UPSLOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    FolderRecorder(folder).begin(CODE)
    return folder


def test_a_run_made_here_is_trusted(made: Path, cache: Path) -> None:
    require_trusted(made, CODE, trust=False)
    assert (cache / "key").stat().st_mode & 0o777 == 0o600 and cache.stat().st_mode & 0o777 == 0o700
    shutil.move(made, made.parent / "elsewhere")
    require_trusted(made.parent / "elsewhere", CODE, trust=False)


def refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"names code that would run: /x/mine.py:odd, /x/slots.py:mine\. .* --trust"):
        require_trusted(folder, CODE, trust=False)
    require_trusted(folder, CODE, trust=True)


def test_one_made_by_somebody_else_is_not(made: Path, cache: Path) -> None:
    (cache / "key").write_bytes(b"of another user" * 2)
    refused(made)


def test_one_that_was_changed_since_is_not(made: Path) -> None:
    with (made / "run.toml").open("a") as file:
        file.write("\n")
    refused(made)


def test_a_kill_between_the_seal_and_run_toml_leaves_one_that_is_trusted(made: Path) -> None:
    seal(made, b"what it would have held")
    require_trusted(made, CODE, trust=False)
    (made / "run.toml").write_bytes(b"what it would have held")
    require_trusted(made, CODE, trust=False)
    seal(made, b"the next")
    assert len((made / SEAL).read_text().split()) == 2


def test_what_somebody_else_wrote_is_not_sealed_along(made: Path) -> None:
    (made / "run.toml").write_bytes(b"of another")
    seal(made, b"ours")
    refused(made)


@pytest.mark.parametrize("content", ["", "x", "é", "0" * 64])
def test_a_seal_cannot_be_guessed(made: Path, content: str) -> None:
    (made / SEAL).write_text(content)
    refused(made)
    (made / SEAL).unlink()
    refused(made)


def test_one_that_names_no_code_needs_none(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(tomli_w.dumps(PLAIN))
    require_trusted(tmp_path, PLAIN, trust=False)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="modes of POSIX")
@pytest.mark.parametrize(
    ("mode", "itself", "below"),
    [(0o700, True, True), (0o755, True, True), (0o777, False, False), (0o775, False, False), (0o1777, False, True)],
)
def test_what_others_can_write_to_is_not_private(tmp_path: Path, mode: int, itself: bool, below: bool) -> None:
    """Whoever can write to the parent can exchange a folder, unless it is sticky, as /tmp is."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(mode)
    assert private_folder(tmp_path / "a") is itself
    assert private_folder(tmp_path / "a" / "b") is below


def test_no_key_is_kept_where_others_could_read_or_write_it(tmp_path: Path, cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    FolderRecorder(tmp_path / "run").begin(CODE)
    assert not (tmp_path / "run" / SEAL).exists() and not (cache / "key").exists()
    refused(tmp_path / "run")
