"""All of the sandbox's tests again as an ordinary user, where whoever runs them is root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from upslope.tasks.sandbox import confine

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    str(Path(__file__).with_name(name)) for name in ("test_sandbox.py", "test_code_verdict.py", "test_sandbox_pool.py")
]
NOBODY = 65534

if sys.platform != "linux" or not confine.landlock_version():
    pytest.skip("needs Linux with Landlock", allow_module_level=True)


def python_for_nobody() -> list[str] | None:
    """An interpreter of the same version that an ordinary user can run, with the same packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, shutil.which(version, path="/usr/local/bin:/usr/bin")):
        command = [str(python), "-c", "import encodings, sys; print(sys.version_info[:2])"]
        if python is None:
            continue
        try:
            done = subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, cwd="/")
        except OSError:
            continue
        if done.returncode == 0:
            return [str(python)]
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="is run as an ordinary user already")
def test_all_of_it_as_an_ordinary_user() -> None:
    """Then the program has the user's own name, and could do to the parent whatever the user can."""
    python = python_for_nobody()
    if python is None or not os.access(ROOT, os.R_OK):
        pytest.skip("no interpreter that an ordinary user can run")
    packages = [path for path in sys.path if "site-packages" in path]
    done = subprocess.run(
        [*python, "-m", "pytest", "--no-header", "-p", "no:cacheprovider", *FILES],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd=ROOT,
        env={
            "PYTHONPATH": ":".join([str(ROOT), *packages]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": os.environ["PATH"],
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(done.stdout.rpartition(" passed")[0].rpartition("\n")[2])
    assert passed >= 90
