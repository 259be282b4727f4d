"""The run's own server: started, waited for, and gone at the end, whatever the end was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from naive import HERE, SAMPLING
from samplers import REQUESTS
from tiny import TOKENIZER
from vllms import moved, tied

from upslope.cluster.vllm import engine, server as servers
from upslope.cluster.vllm.engine import vllm_sampler
from upslope.errors import Unavailable, UserError
from upslope.training.cluster_settings import ClusterSettings
from upslope.training.settings import RunSettings

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def python(tmp_path: Path) -> str:
    """What stands for the interpreter of vLLM's environment: it starts the stand-in with vLLM's arguments."""
    program = tmp_path / "python"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    stand_in = ROOT / "tests" / "support" / "vllm_stand_in.py"
    program.write_text(f'#!/bin/sh\nshift 2\nPYTHONPATH={path} exec {sys.executable} {stand_in} "$@"\n')
    program.chmod(0o755)
    return str(program)


def settings(python: str = "", **cluster: object) -> RunSettings:
    return RunSettings(
        cluster=ClusterSettings(
            **{"engine": "vllm", "vllm_python": python, "most_gap": 1e-3, "patience": 600} | cluster
        )  # type: ignore[arg-type]
    )


def at_work(group: int) -> list[str]:
    """The processes of a group that have not ended; one that nobody has asked for its end (Z) has."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [" ".join(row[2:]) for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


def gone(group: int) -> bool:
    """Whether no process of the group is left, after a while at most."""
    deadline = time.monotonic() + 120
    while at_work(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not at_work(group)


@pytest.mark.parametrize(("more", "runner"), [(1024, "its own"), (1025, "0")])
def test_a_server_that_is_told_of_many_tokens_never_to_draw_gets_the_runner_that_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int, runner: str
) -> None:
    started: list[servers.VllmServer] = []

    def say(python: str, words: list[str], *given: object) -> servers.VllmServer:
        monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
        told = ["-c", 'echo "runner Error ${VLLM_USE_V2_MODEL_RUNNER:-its own}"']
        started.append(servers.VllmServer("/bin/sh", told, *given))  # type: ignore[arg-type]
        return started[-1]

    monkeypatch.setattr(engine, "VllmServer", say)
    with (
        pytest.raises(Unavailable, match=f"did not start: .* runner Error {runner}"),
        vllm_sampler(settings("sh"), tmp_path) as make,
    ):
        make(tied(vocab_size=len(TOKENIZER) + more))


def test_a_run_has_a_server_of_its_own_and_leaves_only_its_log(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[servers.VllmServer] = []
    begin = servers.VllmServer.__init__

    def noted(self: servers.VllmServer, *given: object) -> None:
        begin(self, *given)  # type: ignore[arg-type]
        started.append(self)

    monkeypatch.setattr(servers.VllmServer, "__init__", noted)
    policy = tied()
    with vllm_sampler(settings(python), tmp_path / "run") as make:
        sampler = make(policy)
        sampler.load(moved(policy), version=1)
        assert {r.version for r in sampler.generate(REQUESTS[:2], SAMPLING, HERE)} == {1}
        (server,) = started
        assert server.post_mortem() == ""
    assert [h.version for h in sampler.handed_over] == [0, 1]
    assert all(h.gap < 1e-4 for h in sampler.handed_over)
    assert sorted(p.name for p in (tmp_path / "run" / "vllm").iterdir()) == ["server.log", "upslope_vllm_worker.py"]
    assert gone(server.pid)


def test_a_server_that_dies_at_work_is_named_with_how_it_ended(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSLOPE_STAND_IN_FAULTS", "die")
    with vllm_sampler(settings(python), tmp_path) as make, pytest.raises(Unavailable) as caught:
        make(tied())
    assert "cannot be reached" in str(caught.value) and "it ended with code 9" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        ("there is no such model", ""),
        ("decrease `--gpu-memory-utilization`, or free memory", "; set cluster.vllm_memory"),
    ],
)
def test_a_server_that_does_not_start_is_named_with_what_ended_it(
    error: str, mend: str, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's error is passed on by the engine and by the server, each in its own words."""
    said = tmp_path / "said"
    monkeypatch.setenv("UPSLOPE_STAND_IN_FAILS", str(said))
    lines = [
        "(VllmWorker-0 pid=7) ERROR 11-30 12:33:21 [multiproc_executor.py:953]     raise ValueError(",
        f"(VllmWorker-0 pid=7) ERROR 11-30 12:33:21 [multiproc_executor.py:953] ValueError: {error}",
        "(EngineCore pid=8) ERROR 11-30 12:33:27 [core.py:1510] Exception: WorkerProc initialization failed due to an "
        "exception in a background process. See stack trace for root cause.",
        "    raise RuntimeError(",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
    said.write_text("\n".join(lines))
    why = f"did not start: it ended with code 1, and its log .*server.log ends: ValueError: {error}{mend}$"
    with vllm_sampler(settings(python), tmp_path) as make, pytest.raises(Unavailable, match=why):
        make(tied())


def test_the_server_takes_its_share_of_memory() -> None:
    words = servers.server_arguments("MODEL", "float32", port=1, memory=0.25)
    assert words[words.index("--gpu-memory-utilization") + 1] == "0.25"
    with pytest.raises(ValueError, match=r"vllm_memory = 1\.5 is a share of a memory; set it to 1 or less"):
        settings(vllm_memory=1.5)
    with pytest.raises(ValueError, match=r"vllm_memory = 0\.5 is vLLM's; set engine = 'vllm'"):
        ClusterSettings(samplers=1, vllm_memory=0.5)


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    with (
        vllm_sampler(settings(str(program), patience=1), tmp_path) as make,
        pytest.raises(Unavailable, match=r"said nothing for 1 s while it started; look at .*server.log"),
    ):
        make(tied())


def test_the_server_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    """The run cannot say goodbye; the guard hears that the pipe is closed."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom upslope.cluster.vllm.server import VllmServer\n"
        f"server = VllmServer('/bin/sh', ['-c', 'sleep 1000 & wait'], 1, Path({str(tmp_path)!r}), 5)\n"
        "print(server.pid, flush=True)\ntime.sleep(1000)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert run.stdout is not None
    with run.stdout:
        group = int(run.stdout.readline())
    assert at_work(group)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert gone(group)


def test_the_worker_is_alone_on_the_servers_path(tmp_path: Path) -> None:
    folder = servers.give_worker(tmp_path / "path")
    assert [p.name for p in folder.iterdir()] == ["upslope_vllm_worker.py"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import upslope_vllm_worker, sys; print('upslope' in sys.modules)"],
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("url", ["https://a:1", "http://", "http://a:1/v1", "ftp://a"])
def test_an_address_that_is_none_is_refused(url: str, tmp_path: Path) -> None:
    with (
        vllm_sampler(settings(vllm_url=url), tmp_path) as make,
        pytest.raises(UserError, match=r"cluster\.vllm_url=.* is no address of a server; write http://HOST:PORT"),
    ):
        make(tied())


@pytest.mark.parametrize(
    ("dtype", "given", "bound"),
    [(torch.float32, None, 0.001), (torch.bfloat16, None, 0.5), (torch.float32, 0.2, 0.2), (torch.float32, 0.0, 0.0)],
)
def test_the_bound_of_the_gap_follows_the_precision_unless_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, given: float | None, bound: float
) -> None:
    """A sampler that notes its bound, and asks no server."""
    found: list[float] = []
    monkeypatch.setattr(engine, "VllmSampler", lambda *_, most_gap: found.append(most_gap))
    policy = tied()
    policy.model.to(dtype)
    with vllm_sampler(settings(vllm_url="http://a:1", most_gap=given), tmp_path) as make:
        make(policy)
    assert found == [bound]


def test_a_dtype_that_vllm_lacks_is_refused(tmp_path: Path) -> None:
    policy = tied()
    policy.model.double()
    with (
        vllm_sampler(settings(), tmp_path) as make,
        pytest.raises(UserError, match=r"does not compute in torch\.float64"),
    ):
        make(policy)


def test_a_server_that_is_there_and_one_to_start_are_not_both_taken(tmp_path: Path) -> None:
    both = settings("python", vllm_url="http://a:1")
    with vllm_sampler(both, tmp_path) as make, pytest.raises(UserError, match="leave one out"):
        make(tied())
