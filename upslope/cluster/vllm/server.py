"""A vLLM server of the run's own: how it is called, started, waited for, and ended whatever becomes of the run."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from upslope.cluster.vllm import worker
from upslope.cluster.vllm.client import VllmClient
from upslope.errors import Unavailable, UserError

GUARD = """
import os, signal, subprocess, sys, threading
server = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
told = threading.Event()
def watch():
    code = server.wait()
    if not told.is_set():
        os.killpg(0, signal.SIGTERM)
        os._exit(code if code >= 0 else 128 - code)
threading.Thread(target=watch, daemon=True).start()
os.read(int(sys.argv[1]), 1)
told.set()
server.terminate()
try:
    server.wait(timeout=5)
except subprocess.TimeoutExpired:
    pass
os.killpg(0, signal.SIGKILL)
"""
"""Starts the server and ends as it ends. Once the other end of a pipe is closed, by ``close`` or by the system because
the run is gone, however it went, it ends the server and everything that the server started."""
LOG = "server.log"
OFF = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # without it there is neither /pause nor /collective_rpc
}
"""What the server's environment gets besides this process's."""
MOST_BIASED = 1024
"""Logits of a request that vLLM's second model runner, its usual one on GPUs, can add to; the first has no bound."""
PAUSE = 0.2
ERROR = re.compile(r"\b[A-Za-z_.]*(?:Error|Exception): .*")
LONGEST_ERROR = 500
"""Characters of an error."""


def server_arguments(
    model: str, dtype: str, *, port: int, memory: float, on_gpu: bool = False, nccl: bool = False
) -> list[str]:
    """What vLLM's server is told, after the interpreter: tokens in and out, log-probabilities of the distribution that
    was drawn from, our methods in its workers, its share of memory. docs/vllm.md says what each is for."""
    words = ["-m", "vllm.entrypoints.openai.api_server", "--model", model, "--dtype", dtype]
    words += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "upslope"]
    words += ["--logprobs-mode", "processed_logprobs", "--enable-scale-out", "--skip-tokenizer-init"]
    words += ["--generation-config", "vllm", "--max-model-len", "auto", "--stream-interval", "4"]
    words += ["--gpu-memory-utilization", f"{memory:g}"]  # on a CPU too, despite its name
    words += ["--worker-extension-cls", f"{worker.MODULE}.WeightsExtension"]
    if not on_gpu:
        words += ["--enforce-eager"]  # compiling takes minutes of a CPU
    if nccl:
        words += ["--weight-transfer-config", '{"backend": "nccl"}']
    return words


def model_runner(num_never_drawn: int) -> dict[str, str]:
    """What the server's environment says of its model runner, where so many tokens are never drawn."""
    return {"VLLM_USE_V2_MODEL_RUNNER": "0"} if num_never_drawn > MOST_BIASED else {}


def give_worker(folder: Path) -> Path:
    """Put the file that runs in vLLM's environment alone into a folder, for its ``PYTHONPATH``; returns the folder.

    The package as a whole must not be on that path: what is installed beside it would take the place of vLLM's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(worker.__file__, folder / f"{worker.MODULE}.py")
    return folder


def last_word(log: str) -> str:
    """Why a server ended: the last error that its log names. Each of its processes passes on that another one failed,
    and refers to a cause further up; that cause is what is wanted. Without any, the last line.

    >>> last_word("w: ValueError: no room\\n  raise\\nRuntimeError: init failed. See root cause above.\\nbye")
    'ValueError: no room'
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [found[0] for line in lines if (found := ERROR.search(line))]
    causes = [error for error in errors if "root cause" not in error]
    return next(reversed(causes or errors or lines), "nothing")[:LONGEST_ERROR]


class VllmServer:
    """A server process with a log in ``folder``. ``close`` ends it; so does the end of this process, even a kill."""

    def __init__(
        self,
        python: str,
        arguments: Sequence[str],
        port: int,
        folder: Path,
        patience: float,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start it, with ``more`` in its environment. Raises UserError if the interpreter cannot be run."""
        give_worker(folder)
        self.log, self.url = folder / LOG, f"http://127.0.0.1:{port}"
        self._patience = patience
        hears, self._lifeline = os.pipe()
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONHOME"} | OFF
        environment |= {"PYTHONPATH": str(folder), **more}
        environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else it takes cores that the learner is on
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-c", GUARD, str(hears), python, *arguments],
                    pass_fds=[hears],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,  # Ctrl-C in the terminal is the run's business
                )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(hears)

    def wait_ready(self, client: VllmClient) -> None:
        """Return once it answers. Raises Unavailable if it ends before, or says nothing for ``patience`` seconds."""
        size, since = -1, time.monotonic()
        while True:
            with contextlib.suppress(UserError):
                client.get("/health")
                return
            if self._process.poll() is not None:
                raise Unavailable(f"the vLLM server did not start: {self.post_mortem()}")
            now = self.log.stat().st_size
            if now != size:
                size, since = now, time.monotonic()
            if time.monotonic() - since > self._patience:
                self.close()
                raise Unavailable(
                    f"the vLLM server said nothing for {self._patience:g} s while it started; look at {self.log}, or "
                    "raise cluster.patience"
                )
            time.sleep(PAUSE)

    @property
    def pid(self) -> int:
        """Of the process whose group the server is in."""
        return self._process.pid

    def post_mortem(self) -> str:
        """How it ended, with its last word; empty while it runs."""
        try:  # whoever lost a connection to it may be faster than the system is in telling of its end
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return ""
        why = last_word(self.log.read_text(errors="replace"))
        mend = "; set cluster.vllm_memory" if "--gpu-memory-utilization" in why else ""
        return f"it ended with code {code}, and its log {self.log} ends: {why}{mend}"

    def close(self) -> None:
        """End it and whatever it started."""
        with contextlib.suppress(OSError):
            os.close(self._lifeline)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
