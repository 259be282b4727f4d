"""Compile the kernels for this machine, once, and load them; where that is impossible, say why and do without."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from upslope.native.places import cache_folder, private_folder

HERE = Path(__file__).parent
FLAGS = ("-O3", "-fopenmp", "-fPIC", "-shared", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math")


def library() -> ctypes.CDLL | None:
    """The compiled kernels, None where there are none; ``why_not`` then says why."""
    return None if why_not() else _found()[0]


def why_not() -> str:
    """Empty if the kernels are there."""
    return "UPSLOPE_NATIVE=0 is set" if os.environ.get("UPSLOPE_NATIVE") == "0" else _found()[1]


def folder() -> Path:
    """Where compiled kernels are kept."""
    return cache_folder() / "native"


@functools.cache
def _found() -> tuple[ctypes.CDLL | None, str]:
    if sys.platform == "win32" or sys.byteorder != "little":
        return None, f"the kernels are not made for {platform.platform()}"
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))), None)
    if compiler is None:
        return None, "there is no C compiler (cc, gcc or clang)"
    tune = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    try:
        return _kept(compiler, tune), ""
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "").strip().splitlines() or ["it said nothing"]
        cause = next((line for line in said if "error" in line), said[0])
        return None, f"{compiler} could not compile the kernels: {cause}"
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        return None, f"the kernels could not be compiled or loaded: {error}".splitlines()[0]


def _kept(compiler: str, tune: str) -> ctypes.CDLL:
    """The kernels as they lie in the folder, else compiled into it; for this process alone where it cannot be written
    to, or others can write there too: what lies there would be run.

    A file's name ends in the hash of what it holds. One that was damaged is passed over: to load it could end the
    process.
    """
    prefix = f"kernels-{_key(compiler, tune)}-"
    into = folder() if private_folder(folder()) and _writable(folder()) else None
    for place in sorted(into.glob(f"{prefix}*.so")) if into is not None else ():
        if place.stem == prefix + _hash(place.read_bytes()):
            return ctypes.CDLL(str(place))
    with tempfile.TemporaryDirectory(prefix="upslope-", dir=into) as own:  # two processes may be here at the same time
        made = Path(own) / "kernels.so"
        command = [compiler, *FLAGS, tune, str(HERE / "kernels.c"), "-o", str(made), "-lm"]
        subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300, check=True)
        loaded = ctypes.CDLL(str(made))
        if into is not None:
            made.replace(into / f"{prefix}{_hash(made.read_bytes())}.so")
        return loaded


def _writable(place: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _key(compiler: str, tune: str) -> str:
    """Sources, compiler and processor: a home folder may be shared by machines of different kinds."""
    asked = subprocess.run([compiler, "--version"], capture_output=True, timeout=60, check=True)
    version = asked.stdout.decode(errors="replace")
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(errors="replace").splitlines() if cpu.exists() else [platform.processor()]
    flags = {line for line in lines if not line.startswith(("processor", "cpu MHz", "bogomips", "apicid", "initial"))}
    sources = [path.read_text() for path in sorted(HERE.glob("*.[ch]"))]
    text = "\n".join([*sources, version, tune, *FLAGS, platform.machine(), *sorted(flags)])
    return _hash(text.encode())
