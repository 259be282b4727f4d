"""The numeric tests under every instruction set that this machine can stand for:

    python tests/processors.py [PYTEST ARGS]

What differs from one processor to the next is which code the libraries choose, and what the compiler makes of ours:

- oneDNN and torch's own loops are told to use less than they could (``ONEDNN_MAX_CPU_ISA``, ``ATEN_CPU_CAPABILITY``).
- Our kernels are compiled for other processors whose instructions this one has too.
- MKL asks a function whether the processor is Intel's and takes other paths if so. Where the processor has the same
  instructions, one that says yes is put in its place (Linux, torch's builds with MKL).

Prints a line for each and ends with 1 if a test failed. What a processor lacks (AMX, say) cannot be shown on it.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

TESTS = (
    *("tests/model", "tests/native", "tests/algo", "tests/rollout"),
    *(f"tests/learn/test_{name}.py" for name in ("critic_learning", "learner", "trust_region", "chunks", "optimizer")),
)
"""What computes; the rest of the suite writes files, reads them, and talks."""
THREADS = "tests/test_cli.py::test_the_number_of_threads_does_not_change_a_bit"
ONEDNN = {"avx2": "AVX2", "avx512f": "AVX512_CORE", "avx512_bf16": "AVX512_CORE_BF16", "amx_bf16": "AVX512_CORE_AMX"}
ATEN = {"": "default", "avx2": "avx2", "avx512f": "avx512"}
MARCH = {"": "x86-64", "avx2": "haswell", "avx512bw": "skylake-avx512", "avx512_vbmi2": "icelake-server"}
INTEL = "int mkl_serv_intel_cpu_true(void) { return 1; }\nint mkl_serv_intel_cpu(void) { return 1; }\n"
WRAPPER = """#!/bin/sh
for word do shift; case $word in -march=native) word=-march={march};; esac; set -- "$@" "$word"; done
exec {compiler} "$@"
"""


def flags() -> set[str]:
    """What /proc/cpuinfo says the processor can do."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def stand_ins(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(name, environment) of every processor that this one can stand for, itself first."""
    has, compiler = flags(), shutil.which("cc") or shutil.which("gcc")
    yield "as it is", {}
    for needs, isa in ONEDNN.items():
        if needs in has:
            yield f"oneDNN {isa}", {"ONEDNN_MAX_CPU_ISA": isa}
    for needs, capability in ATEN.items():
        if not needs or needs in has:
            yield f"ATen {capability}", {"ATEN_CPU_CAPABILITY": capability}
    if compiler is None or platform.machine() != "x86_64":
        return
    for needs, march in MARCH.items():
        if not needs or needs in has:
            wrapper = folder / f"cc-{march}"
            wrapper.write_text(WRAPPER.format(march=march, compiler=compiler))
            wrapper.chmod(0o755)
            yield f"kernels for {march}", {"CC": str(wrapper), "UPSLOPE_CACHE": str(folder / march)}
    (folder / "intel.c").write_text(INTEL)
    made = folder / "intel.so"
    subprocess.run([compiler, "-shared", "-fPIC", folder / "intel.c", "-o", made], check=True)
    yield "MKL's Intel paths", {"LD_PRELOAD": str(made)}


def main() -> None:
    more = sys.argv[1:]
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, environment in stand_ins(Path(folder)):
            start = time.perf_counter()
            words = [sys.executable, "-m", "pytest", "-n", "2", *TESTS, THREADS, *more]
            base = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(
                words, capture_output=True, text=True, env=os.environ | base | environment, check=False
            )
            lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
            print(f"{name:24} {lines[-1]}  ({time.perf_counter() - start:.0f} s)", flush=True)
            for line in lines if done.returncode else []:
                if line.startswith(("FAILED", "ERROR")):
                    print(f"{'':24} {line}", flush=True)
            failed = failed or bool(done.returncode)
    sys.exit(failed)


if __name__ == "__main__":
    main()
