"""``upslope doctor``: whether this machine has what training needs, on one screen."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from upslope.versions import python_range, wanted, within

LEAST_MEMORY_GB = 1.0
"""Below this even the pocket model's run may be killed."""
LEAST_DISK_GB = 0.5
HUB_SECONDS = 3.0
"""How long the hub may take to answer."""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and what it means.

    ``ok``: as it should be. ``note``: it works, and there is something to know. ``bad``: something will not work, and
    the text says how to mend it.
    """

    topic: str
    text: str
    state: Literal["ok", "note", "bad"] = "ok"


def doctor_command(*, as_json: bool) -> bool:
    """Look, print, and say whether everything will work."""
    findings = list(examine())
    if as_json:
        print(json.dumps([asdict(f) for f in findings]))
    else:
        _show(findings, Console())
    return all(f.state != "bad" for f in findings)


def examine() -> Iterator[Finding]:
    """Everything there is to say. A look that fails is a finding too."""
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions, _processor, _kernels, _repeatable, _memory, _disk, _gpu, _programs, _hub,
    )  # fmt: skip
    for look in looks:
        try:
            yield from look()
        except Exception as error:  # a broken installation breaks in any way it likes
            said = " ".join(str(error).split())
            yield Finding(look.__name__.strip("_"), f"cannot be looked at: {type(error).__name__}: {said}", "bad")


def _versions() -> Iterator[Finding]:
    here = platform.python_version()
    allowed = python_range()
    fits = within(here, allowed)
    yield Finding("python", f"{here} (allowed: {allowed})", "ok" if fits else "bad")
    right = []
    for package in wanted():
        said = f"{package.name} {package.found or 'is not installed'}"
        if package.fits:
            right.append(said)
        elif package.found is None and package.extra:
            yield Finding("optional", f"{said}: pip install 'upslope[{package.extra}]' if you need it", "note")
        else:
            mend = f"pip install '{package.name}{package.range}'"
            state: Literal["note", "bad"] = "note" if package.extra else "bad"
            yield Finding("packages", f"{said}, and upslope needs {package.range or 'it'}: {mend}", state)
    yield Finding("packages", ", ".join(right))


def _processor() -> Iterator[Finding]:
    import torch

    from upslope.model.precision import NARROWEST_FOR_BF16
    from upslope.native.onednn import cpu_gains_by_bf16

    kind = torch.backends.cpu.get_cpu_capability()
    yield Finding("processor", f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {kind}")
    if cpu_gains_by_bf16():
        why = f"bfloat16 for models at least {NARROWEST_FOR_BF16} wide, else float32 (bfloat16 is faster here)"
    else:
        why = "float32 (bfloat16 is taken where it is faster: with AMX, or AVX512-BF16 that is not Intel's)"
    yield Finding("precision", f"on the CPU {why}; learn.dtype chooses another")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _kernels() -> Iterator[Finding]:
    from upslope.native.build import folder, why_not

    cause = why_not()
    if cause:
        yield Finding("kernels", f"none: {cause}. Everything works without them, several times slower", "note")
    else:
        yield Finding("kernels", f"compiled, kept in {folder()}")


def _repeatable() -> Iterator[Finding]:
    import torch

    from upslope.native.threads import VARIABLE, same_bits_on_any_threads

    said = f"{VARIABLE}={os.environ.get(VARIABLE)}"
    if not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        yield Finding(
            "repeatable",
            "a run on the CPU repeats bit for bit on the same number of threads (on any number with MKL, which this "
            "torch has not)",
            "note",
        )
    elif same_bits_on_any_threads():
        yield Finding("repeatable", f"a run on the CPU repeats bit for bit, on any number of threads ({said})")
    else:
        yield Finding(
            "repeatable",
            f"a run on the CPU repeats bit for bit on the same number of threads only, by {said}; unset it, or set it "
            "to AUTO,STRICT",
            "note",
        )


def _memory() -> Iterator[Finding]:
    free = _free_memory_gb()
    if free is None:
        yield Finding("memory", "how much is free cannot be told on this system", "note")
        return
    short = free < LEAST_MEMORY_GB
    yield Finding("memory", f"{free:.1f} GB free" + (f", and a run needs {LEAST_MEMORY_GB:g}" * short), _bad_if(short))


def _free_memory_gb() -> float | None:
    """What programs can still have, and no more than the control group allows, in GB (10^9 bytes)."""
    free = None
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        rows = dict(line.split(":") for line in meminfo.read_text().splitlines() if ":" in line)
        free = int(rows["MemAvailable"].split()[0]) * 1024 / 1e9 if "MemAvailable" in rows else None
    elif "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    most, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if free is not None and most.exists() and used.exists() and most.read_text().strip() != "max":
        free = min(free, (int(most.read_text()) - int(used.read_text()) + _kept_pages()) / 1e9)
    return free


def _kept_pages() -> int:
    """Bytes of files that the control group's use counts and the system takes back when somebody needs them."""
    stat = Path("/sys/fs/cgroup/memory.stat")
    rows = dict(line.split() for line in stat.read_text().splitlines()) if stat.exists() else {}
    return int(rows.get("inactive_file", 0))


def _disk() -> Iterator[Finding]:
    """Where a run writes: its folder here, what can be made again, and what is in between."""
    from upslope.native.places import cache_folder

    places = {"here": Path.cwd(), "cache": cache_folder(), "temporary": Path(tempfile.gettempdir())}
    said, full, closed = [], False, False
    for name, place in places.items():
        there = next(p for p in (place, *place.parents) if p.exists())
        free, writable = shutil.disk_usage(there).free / 1e9, os.access(there, os.W_OK)
        said.append(f"{name} {free:.1f} GB free" + ("" if writable else f" but {there} cannot be written"))
        full = full or free < LEAST_DISK_GB
        closed = closed or not (writable or name == "cache")
    yield Finding("disk", ", ".join(said) + f" (a run needs {LEAST_DISK_GB:g})" * full, _bad_if(full or closed))


def _gpu() -> Iterator[Finding]:
    import torch

    from upslope.model.load import pick_device

    device = pick_device("auto")
    if device.type == "cpu":
        yield Finding("gpu", "none that this build of torch can use")
        return
    torch.zeros(1, device=device).add(1).cpu()
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        yield Finding("gpu", f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free; device=auto takes it")
    else:
        yield Finding("gpu", f"{device.type}; device=auto takes it")


def _programs() -> Iterator[Finding]:
    from upslope.errors import Unavailable
    from upslope.tasks.sandbox.confine import landlock_version
    from upslope.tasks.sandbox.pool import Limits, require_sandbox

    try:
        require_sandbox(Limits())
    except Unavailable as error:
        yield Finding("programs", f"task code cannot run any: {error}", "note")
    else:
        yield Finding("programs", f"run in a sandbox (task code; Landlock {landlock_version()})")


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", "offline by HF_HUB_OFFLINE: models and data come from directories and the cache")
        return
    try:
        with urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_SECONDS):
            yield Finding("hub", f"{constants.ENDPOINT} answers")
    except urllib.error.HTTPError:
        yield Finding("hub", f"{constants.ENDPOINT} answers")
    except OSError as error:
        cause = getattr(error, "reason", None) or error
        yield Finding("hub", f"cannot be reached ({cause}): give --model and --data directories", "note")


def _bad_if(wrong: bool) -> Literal["ok", "bad"]:
    return "bad" if wrong else "ok"


def _show(findings: list[Finding], console: Console) -> None:
    style = {"ok": "green", "note": "yellow", "bad": "bold red"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.state, style=style[finding.state]), finding.topic, Text(finding.text))
    console.print(table)
    bad = sum(f.state == "bad" for f in findings)
    console.print("all will work" if not bad else f"{bad} of these will not work: the lines that begin with 'bad'")
