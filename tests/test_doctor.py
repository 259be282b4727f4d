"""What `upslope doctor` says, and when it says that something will not work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from upslope import doctor, versions
from upslope.versions import Wanted, running, wanted


def said(as_json=True, **env):
    words = [sys.executable, "-m", "upslope.cli", "doctor", *(["--json"] if as_json else [])]
    return subprocess.run(words, capture_output=True, text=True, env=os.environ | env, check=False)


def topics(findings):
    return {f.topic: f for f in findings}


def test_this_machine_can_train_and_the_screen_says_with_what():
    done = said()
    found = {line["topic"]: line for line in json.loads(done.stdout)}
    assert done.returncode == 0
    wants = {
        "python",
        "packages",
        "processor",
        "precision",
        "kernels",
        "repeatable",
        "memory",
        "disk",
        "gpu",
        "programs",
        "hub",
    }
    assert wants <= set(found)
    assert "transformers" in found["packages"]["text"]
    assert "HF_HUB_OFFLINE" in found["hub"]["text"]


def test_it_fits_on_one_screen():
    done = said(as_json=False, COLUMNS="100")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 24
    assert "all will work" in done.stdout


@pytest.mark.parametrize(
    ("package", "state"),
    [
        (Wanted("torch", SpecifierSet(">=99"), "", "2.13.0"), "bad"),
        (Wanted("torch", SpecifierSet(">=2.6"), "", None), "bad"),
        (Wanted("peft", SpecifierSet(">=0.15"), "lora", None), "note"),
        (Wanted("peft", SpecifierSet(">=0.15"), "lora", "0.1"), "note"),
        (Wanted("torch", SpecifierSet(">=2.6"), "", "2.14.0rc1"), "ok"),
    ],
)
def test_a_package_outside_its_range_is_bad_unless_it_is_optional(package, state, monkeypatch):
    monkeypatch.setattr(doctor, "wanted", lambda: [package])
    found = [f for f in doctor._versions() if f.topic != "python" and package.name in f.text]
    assert [f.state for f in found] == [state]
    assert state == "ok" or "pip install" in found[0].text


def test_what_cannot_be_looked_at_is_a_finding_and_the_rest_is_still_said(monkeypatch):
    def broken():
        raise OSError("libtorch_cpu.so: cannot open\nshared object file")
        yield

    broken.__name__ = "_processor"
    monkeypatch.setattr(doctor, "_processor", broken)
    found = topics(doctor.examine())
    assert found["processor"].state == "bad"
    assert "cannot open shared object file" in found["processor"].text
    assert {"memory", "disk", "hub"} <= set(found)


@pytest.mark.parametrize(("free", "state"), [(0.2, "bad"), (8.0, "ok"), (None, "note")])
def test_too_little_memory_is_bad(free, state, monkeypatch):
    monkeypatch.setattr(doctor, "_free_memory_gb", lambda: free)
    (found,) = doctor._memory()
    assert found.state == state


def test_a_full_disk_is_bad(monkeypatch):
    usage = type("Usage", (), {"free": 1e8})
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    (found,) = doctor._disk()
    assert found.state == "bad"
    assert "0.1 GB free" in found.text


def test_a_folder_that_cannot_be_written_is_bad_and_no_matter_of_room(monkeypatch):
    here = Path.cwd()
    monkeypatch.setattr("os.access", lambda place, mode: Path(place) != here)
    (found,) = doctor._disk()
    assert found.state == "bad"
    assert f"{here} cannot be written" in found.text and "a run needs" not in found.text


@pytest.mark.parametrize(
    ("has_mkl", "setting", "state", "told"),
    [
        (True, "AUTO,STRICT", "ok", "on any number of threads (MKL_CBWR=AUTO,STRICT)"),
        (True, "AVX2,STRICT", "ok", "on any number of threads (MKL_CBWR=AVX2,STRICT)"),
        (True, "COMPATIBLE", "note", "the same number of threads only, by MKL_CBWR=COMPATIBLE; unset it"),
        (False, "AUTO,STRICT", "note", "on the same number of threads (on any number with MKL"),
    ],
)
def test_what_repeats_is_said_of_this_torch_and_this_setting(has_mkl, setting, state, told, monkeypatch):
    monkeypatch.setattr("torch.backends.mkl.is_available", lambda: has_mkl)
    monkeypatch.setenv("MKL_CBWR", setting)
    (found,) = doctor._repeatable()
    assert found.state == state and told in found.text


def test_a_setting_of_the_users_own_is_what_the_screen_says():
    found = {line["topic"]: line for line in json.loads(said(MKL_CBWR="COMPATIBLE").stdout)}
    assert "COMPATIBLE" in found["repeatable"]["text"] or "which this torch has not" in found["repeatable"]["text"]


@pytest.mark.parametrize("has_it", [True, False])
def test_precision_says_what_decides_it(has_it, monkeypatch):
    monkeypatch.setattr("upslope.native.onednn.cpu_gains_by_bf16", lambda: has_it)
    (_, found) = doctor._processor()
    assert found.text.startswith("on the CPU bfloat16" if has_it else "on the CPU float32")


@pytest.mark.parametrize(
    ("found", "allowed", "fits"),
    [
        ("2.6.0a0+nv24.10", ">=2.6", True),  # a vendor's build of what became 2.6
        ("2.5.9a0+nv24.10", ">=2.6", False),
        ("6.0.0rc1", ">=5.0,<6", False),
        ("5.9.0.dev0", ">=5.0,<6", True),
        ("3.13.1+", ">=3.11", True),  # Python built from a checkout
        ("3.10.2+", ">=3.11", False),
        ("2.13.0+cpu", ">=2.6", True),
        ("unknown", ">=2.6", False),
    ],
)
def test_a_version_counts_as_the_release_that_it_leads_to(found, allowed, fits, monkeypatch):
    assert Wanted("torch", SpecifierSet(allowed), "", found).fits is fits
    monkeypatch.setattr("platform.python_version", lambda: found)
    monkeypatch.setattr(doctor, "python_range", lambda: SpecifierSet(allowed))
    python = next(f for f in doctor._versions() if f.topic == "python")
    assert python.state == ("ok" if fits else "bad") and python.text.startswith(found)


def test_missing_kernels_are_said_with_their_cause():
    done = said(UPSLOPE_NATIVE="0")
    found = {line["topic"]: line for line in json.loads(done.stdout)}
    assert (done.returncode, found["kernels"]["state"]) == (0, "note")
    assert "UPSLOPE_NATIVE=0 is set" in found["kernels"]["text"]


def test_a_hub_out_of_reach_is_a_note():
    """Port 9 of this machine: nobody answers there."""
    done = said(HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9")
    found = {line["topic"]: line for line in json.loads(done.stdout)}
    assert (done.returncode, found["hub"]["state"]) == (0, "note")
    assert "cannot be reached" in found["hub"]["text"]


def test_something_bad_ends_with_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: iter([doctor.Finding("disk", "none", "bad")]))
    assert not doctor.doctor_command(as_json=False)
    assert "1 of these will not work" in capsys.readouterr().out


def test_every_range_that_pyproject_gives_is_looked_at():
    text = (Path(versions.__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    table = __import__("tomllib").loads(text)["project"]
    asked = {line.split(">")[0] for line in table["dependencies"]}
    assert asked == {w.name for w in wanted(extras=())}
    assert {"peft", "datasets"} <= {w.name for w in wanted()} - asked


def test_what_runs_is_named_with_its_version():
    import torch
    import transformers

    found = running()
    assert torch.__version__.startswith(found["torch"])  # which may leave out the build: 2.6.0 for 2.6.0+cu124
    assert found["transformers"] == transformers.__version__
    assert found["python"].split(".")[:2] == [str(n) for n in sys.version_info[:2]]


def test_where_programs_cannot_be_run_the_cause_is_said(monkeypatch):
    from upslope.tasks.sandbox import pool

    monkeypatch.setattr(pool, "is_known_machine", lambda: False)
    (found,) = doctor._programs()
    assert found.state == "note"
    assert "on Linux alone" in found.text
