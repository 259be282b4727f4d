"""Damaged checkpoints: the newest is damaged in every way, and the run goes on from the one before, aloud."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from malformed.case import TRAIN

from upslope.cli import main
from upslope.record.checkpoint import newest, steps

Damage = Callable[[Path], object]
FILES = (
    *("config.json", "generation_config.json", "manifest.json", "model.safetensors", "resume/optimizer.state"),
    *("run_state.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
)


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def flip(file: Path, share: float) -> None:
    """Turn one bit."""
    data = bytearray(file.read_bytes())
    data[int(share * (len(data) - 1))] ^= 1
    file.write_bytes(data)


def sealed(change: Damage) -> Damage:
    """The same, with a manifest that says that it was so."""

    def damage(folder: Path) -> None:
        change(folder)
        manifest = folder / "manifest.json"
        files = [path for path in folder.rglob("*") if path.is_file() and path != manifest]
        manifest.write_text(
            json.dumps({p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files})
        )

    return damage


def in_place(file: str, make: Callable[[Path], object]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return damage


def manifest(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        hashes = json.loads((folder / "manifest.json").read_text())
        change(hashes)
        (folder / "manifest.json").write_text(json.dumps(hashes))

    return damage


def replaced(make: Callable[[Path], object]) -> Damage:
    def damage(folder: Path) -> None:
        shutil.rmtree(folder)
        make(folder)

    return damage


def of_every_file() -> dict[str, tuple[Damage, str]]:
    found: dict[str, tuple[Damage, str]] = {}
    for file in FILES:
        ways: dict[str, Damage] = {
            "gone": lambda folder, file=file: (folder / file).unlink(),
            "empty": lambda folder, file=file: (folder / file).write_bytes(b""),
            "a folder": in_place(file, Path.mkdir),
            "a link to itself": in_place(file, lambda path: path.symlink_to(path.name)),
        }
        for share in (0.5, 0.99):
            ways[f"cut at {share:.0%}"] = lambda folder, file=file, share=share: os.truncate(
                folder / file, int(share * (folder / file).stat().st_size)
            )
        for share in (0.0, 0.5):
            ways[f"a bit turned at {share:.0%}"] = lambda folder, file=file, share=share: flip(folder / file, share)
        found |= {f"{file}: {way}": (damage, file) for way, damage in ways.items()}
    return found


WHOLE: dict[str, tuple[Damage, str]] = {
    "a manifest of a list": (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json"),
    "a manifest of a number": (lambda folder: (folder / "manifest.json").write_text("3"), "manifest.json"),
    "a manifest of nothing": (lambda folder: (folder / "manifest.json").write_text("{}"), "not finished"),
    "a deep manifest": (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "manifest.json"),
    "a manifest of names of NUL": (manifest(lambda hashes: hashes.update({"a\0b": "c"})), "manifest.json"),
    "a manifest of endless names": (manifest(lambda hashes: hashes.update({"a" * 5000: "c"})), "too long"),
    "a manifest with a file more": (manifest(lambda hashes: hashes.update({"more": "c"})), "more is missing"),
    "a manifest with another hash": (manifest(lambda hashes: hashes.update({"config.json": "0"})), "config.json"),
    "a manifest with a hash of a number": (manifest(lambda hashes: hashes.update({"config.json": 0})), "config.json"),
    "a state that is none, sealed": (sealed(lambda folder: (folder / "run_state.json").write_text("[]")), "run_state"),
    "a state of text, sealed": (
        sealed(lambda folder: (folder / "run_state.json").write_text('{"step": "a"}')),
        "run_state",
    ),
    "a state of another step, sealed": (
        sealed(lambda folder: (folder / "run_state.json").write_text('{"step": 9}')),
        "step 9",
    ),
    "no state, sealed": (sealed(lambda folder: (folder / "run_state.json").unlink()), "run_state.json is missing"),
    "no optimizer, sealed": (sealed(lambda folder: (folder / "resume" / "optimizer.state").unlink()), "optimizer"),
    "no weights, sealed": (sealed(lambda folder: (folder / "model.safetensors").unlink()), "model.safetensors"),
    "no file left": (
        lambda folder: [path.unlink() for path in folder.rglob("*") if path.is_file()],
        "no manifest.json",
    ),
    "a file in its place": (replaced(lambda place: place.write_text("a")), "no folder"),
    "a broken link in its place": (replaced(lambda place: place.symlink_to("nowhere")), "no folder"),
    "a link to itself in its place": (replaced(lambda place: place.symlink_to(place.name)), "no folder"),
    "a folder of others in its place": (
        replaced(lambda place: (place.mkdir(), (place / "a").touch())),
        "manifest.json",
    ),
    "its name a later one": (lambda folder: folder.rename(folder.with_name("step-000007")), "of step 2"),
}
DAMAGES = of_every_file() | WHOLE


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of its first and second step."""
    folder = tmp_path_factory.mktemp("run")
    words = [word for word in TRAIN if not word.startswith(("steps=", "tokens="))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPSLOPE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.chdir(folder)
        assert command(patch, *words, "steps=2", "save.every=1", "--name", "run").code == 0
    return folder / "runs" / "run"


def command(patch: pytest.MonkeyPatch, *words: str) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    patch.setattr(sys, "argv", ["upslope", *words])
    with patch.context() as here:
        here.setattr(sys, "stdout", out)
        here.setattr(sys, "stderr", err)
        # A picture takes longer than all else together, and is none of this file's matter.
        here.setattr("upslope.inspect.report.write_report", lambda folder: None)
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UPSLOPE_CACHE", str(tmp_path.parent / "cache"))
    monkeypatch.setenv("COLUMNS", "1000")
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return Path("run")


def sampled(damages: dict[str, tuple[Damage, str]]) -> list[Any]:
    """All of them, of which every sixteenth is quick to see."""
    marks = [pytest.mark.slow, pytest.mark.exhaustive]
    return [pytest.param(name, marks=marks if i % 16 else []) for i, name in enumerate(damages)]


@pytest.mark.parametrize("name", sampled(DAMAGES))
def test_a_run_goes_on_from_the_checkpoint_before_and_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    damage, why = DAMAGES[name]
    damage(run / "checkpoints" / "step-000002")
    attempts = sorted((run / "rollouts").iterdir())
    ended = command(monkeypatch, "train", "--plain", "--resume", "run")
    assert (ended.code, ended.err) == (0, "")
    said = [line for line in ended.out.splitlines() if " is passed over: " in line]
    assert len(said) == 1 and "checkpoints/step-0000" in said[0] and why in said[0]
    rows = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    notes = [row["notes"] for row in rows if row["kind"] == "resume"]
    assert len(notes) == 1 and notes[0][0] in said[0]
    assert [row["step"] for row in rows if row["kind"] == "step"] == [0, 1]
    assert newest(run / "checkpoints").step == 2 and steps(run / "checkpoints") == [1, 2]
    assert sorted((run / "rollouts").iterdir()) == attempts


@pytest.mark.parametrize("name", sampled(DAMAGES)[::5])
def test_without_any_checkpoint_a_run_is_refused_and_nothing_lost(
    run: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    damage, why = DAMAGES[name]
    for step in (1, 2):
        place = run / "checkpoints" / f"step-{step:06d}"
        if name.startswith("its name"):
            place = place.rename(place.with_name(f"step-00000{step + 5}"))
        else:
            damage(place)
    before = contents(run)
    ended = command(monkeypatch, "train", "--plain", "--resume", "run")
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert ended.err.startswith("upslope: run holds no complete checkpoint to resume from")
    assert "step-0000" in ended.err and (why in ended.err or name.startswith("its name"))
    assert contents(run) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"
    }


def test_what_others_put_in_the_place_of_a_checkpoint_is_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = run / "checkpoints" / "step-000002"
    shutil.rmtree(place)
    place.write_text("mine")
    (run / "checkpoints" / "step-000002.set-aside").write_text("older")
    ended = command(monkeypatch, "train", "--plain", "--resume", "run")
    assert ended.code == 0 and "step-000002.set-aside1 now" in ended.out
    assert (run / "checkpoints" / "step-000002.set-aside1").read_text() == "mine"
    assert (run / "checkpoints" / "step-000002.set-aside").read_text() == "older"
    assert newest(run / "checkpoints").step == 2


def test_files_of_others_in_a_checkpoint_change_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "checkpoints" / "step-000002" / "notes.txt").write_text("mine")
    ended = command(monkeypatch, "train", "--plain", "--resume", "run")
    assert ended.code == 0 and "passed over" not in ended.out
    assert (run / "checkpoints" / "step-000002" / "notes.txt").read_text() == "mine"
