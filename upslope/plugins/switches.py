"""What a process has one of and any code may set for everybody: how each is read, and how it is put back.

Whoever sets such a switch in a reward means that reward. Nothing of torch, numpy and so on is loaded here: what nobody
has loaded, nobody has set.
"""

from __future__ import annotations

import contextlib
import gc
import operator
import os
import pickle
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

ABSENT = object()
"""A switch that is not there, or cannot be read now."""
LIMITS = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_STACK")
ENDING = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGUSR1", "SIGUSR2")


class Switch(NamedTuple):
    """One of them."""

    name: str
    read: Callable[[], Any]
    put: Callable[[Any], object]
    lasts: bool = False
    """Whether code that set it finds it so at its next call: a stream of random numbers goes on, a folder does not."""
    same: Callable[[Any, Any], bool] = operator.eq
    again: Callable[[Any, Any, Any], Any] = lambda now, ours, theirs: theirs
    """What to set when the code is called next: of how it is then, and how it was before and after the code set it."""


def _module(name: str) -> Any:
    return sys.modules.get(name)


def _attribute(module: str, name: str, *, of: Callable[[Any], Any] = lambda module: module) -> Switch:
    """An attribute of a module that is loaded, or of something in it."""

    def read() -> Any:
        return getattr(of(_module(module)), name)

    return Switch(f"{module}.{name}", read, lambda value: setattr(of(_module(module)), name, value))


def _of_torch(name: str, read: Callable[[Any], Any], put: Callable[[Any, Any], object]) -> Switch:
    return Switch(f"torch.{name}", lambda: read(_module("torch")), lambda value: put(_module("torch"), value))


def _put_environment(value: dict[str, str]) -> None:
    for name in os.environ.keys() - value.keys():
        del os.environ[name]
    for name, text in value.items():
        if os.environ.get(name) != text:
            os.environ[name] = text


def _changed(now: dict[str, str], ours: dict[str, str], theirs: dict[str, str]) -> dict[str, str]:
    """``now``, with the changes from ``ours`` to ``theirs``."""
    changes = {name: text for name, text in theirs.items() if ours.get(name) != text}
    return {name: text for name, text in now.items() if name in theirs or name not in ours} | changes


def _own_handlers(now: Any, ours: Any, theirs: Any) -> Any:
    """With the handlers that the code has set, but for those of signals that end a run."""
    own = {n: handler for n, handler in theirs[0].items() if handler is not ours[0][n] and n not in ENDING}
    return {**now[0], **own}, now[1]


def _read_signals() -> Any:
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    return {number: signal.getsignal(number) for number in numbers}, signal.getitimer(signal.ITIMER_REAL)[0] > 0


def _put_signals(value: Any) -> None:
    """An alarm that nobody has stopped is stopped first: without its handler it would end the process."""
    handlers, ticking = value
    if not ticking:
        signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:  # None: set by something that is not Python
            signal.signal(number, handler)


def _put_filters(value: Any) -> None:
    warnings.resetwarnings()  # tells the warnings that are known already, too, that they are to be asked again
    warnings.filters[:] = value  # type: ignore[index]


def _read_limits() -> Any:
    import resource  # not on every system

    return {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS if hasattr(resource, name)}


def _put_limits(value: Any) -> None:
    import resource

    for name, limit in value.items():
        with contextlib.suppress(ValueError, OSError):  # a hard one that was lowered stays so
            resource.setrlimit(getattr(resource, name), limit)


def _put_default_device(torch: Any, value: Any) -> None:
    torch.set_default_device(None if value.type == "cpu" else value)


def _read_cuda(torch: Any) -> Any:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _same_states(one: Any, other: Any) -> bool:
    torch = _module("torch")
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _put_deterministic(torch: Any, value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


SWITCHES = (
    Switch("folder", os.getcwd, os.chdir),
    Switch("environment", lambda: dict(os.environ), _put_environment, lasts=True, again=_changed),
    *(_attribute("sys", name) for name in ("stdin", "stdout", "stderr", "argv", "excepthook")),
    Switch("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Switch("digits", sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    Switch("signals", _read_signals, _put_signals, again=_own_handlers),
    Switch("warnings", lambda: list(warnings.filters), _put_filters, lasts=True),
    *(_attribute("warnings", name) for name in ("showwarning", "formatwarning")),
    Switch("collector", gc.isenabled, lambda value: gc.enable() if value else gc.disable()),
    Switch("timeout of sockets", socket.getdefaulttimeout, socket.setdefaulttimeout),
    Switch("limits", _read_limits, _put_limits),
    Switch(
        "decimal",
        lambda: _module("decimal").getcontext().copy(),
        lambda value: _module("decimal").setcontext(value),
        same=lambda one, other: repr(one) == repr(other),
    ),
    Switch(
        "locale",
        lambda: _module("locale").setlocale(_module("locale").LC_ALL),
        lambda value: _module("locale").setlocale(_module("locale").LC_ALL, value),
    ),
    Switch("random", lambda: _module("random").getstate(), lambda value: _module("random").setstate(value), lasts=True),
    Switch(
        "numpy.random",
        lambda: pickle.dumps(_module("numpy").random.get_state(legacy=False)),
        lambda value: _module("numpy").random.set_state(pickle.loads(value)),
        lasts=True,
    ),
    Switch("numpy.errors", lambda: _module("numpy").geterr(), lambda value: _module("numpy").seterr(**value)),
    Switch(
        "torch.random",
        lambda: [_module("torch").get_rng_state()],
        lambda value: _module("torch").set_rng_state(value[0]),
        lasts=True,
        same=_same_states,
    ),
    Switch(
        "torch.cuda.random",
        lambda: _read_cuda(_module("torch")),
        lambda value: _module("torch").cuda.set_rng_state_all(value),
        lasts=True,
        same=_same_states,
    ),
    _of_torch("grad", lambda torch: torch.is_grad_enabled(), lambda torch, value: torch.set_grad_enabled(value)),
    _of_torch("dtype", lambda torch: torch.get_default_dtype(), lambda torch, value: torch.set_default_dtype(value)),
    _of_torch("device", lambda torch: torch.get_default_device(), _put_default_device),
    _of_torch("threads", lambda torch: torch.get_num_threads(), lambda torch, value: torch.set_num_threads(value)),
    _of_torch(
        "algorithms",
        lambda torch: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        _put_deterministic,
    ),
    _of_torch(
        "precision",
        lambda torch: torch.get_float32_matmul_precision(),
        lambda torch, value: torch.set_float32_matmul_precision(value),
    ),
    _of_torch(
        "anomaly",
        lambda torch: torch.is_anomaly_enabled(),
        lambda torch, value: torch.autograd.set_detect_anomaly(value),
    ),
    *(_attribute("torch", name, of=lambda torch: torch.backends.cudnn) for name in ("benchmark", "deterministic")),
)
"""All of them. The folder is the first that is put back, so that nothing else is looked for in another one."""


def read(switch: Switch) -> Any:
    """How it is set now; ``ABSENT`` where there is no such thing (a module that nobody has loaded, a folder that is
    gone)."""
    try:
        return switch.read()
    except Exception:
        return ABSENT


def put(switch: Switch, value: Any) -> None:
    """Set it so, unless it is, or it was not there."""
    if value is ABSENT:
        return
    now = read(switch)
    if now is ABSENT or not switch.same(now, value):
        with contextlib.suppress(Exception):  # what cannot be put back (a folder that is gone) stays as it is
            switch.put(value)
