"""The system calls that are left to a program: an allowlist, as a seccomp filter.

What is not listed fails with EPERM. So there are no sockets but a pair connected to itself, no second process or
thread, no exec, no signal to anybody (a filter cannot see whose a process id is), no ptrace, no mount or namespace, no
io_uring, bpf, keyctl, perf or memfd, and no file is opened for writing, created, shortened, linked, renamed, removed or
changed. A call of another architecture (32-bit, x32) kills: its numbers mean other things. Some calls are allowed only
with certain arguments; all of these are ints, of which the kernel itself reads the lower 32 bits.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Mapping
from typing import NamedTuple

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_LOAD, _EQUALS, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06  # BPF instructions, on 32-bit words
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # where they stand in struct seccomp_data
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # the last with EPERM
_X32 = 0x40000000

ANYHOW: Mapping[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, None), "fstat": (5, 80), "lstat": (6, None),
    "poll": (7, None), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215),
    "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "pread64": (17, 67), "readv": (19, 65), "writev": (20, 66), "access": (21, None), "pipe": (22, None),
    "select": (23, None), "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233), "dup": (32, 23),
    "dup2": (33, None), "pause": (34, None), "nanosleep": (35, 101), "getitimer": (36, 102), "alarm": (37, None),
    "setitimer": (38, 103), "getpid": (39, 172), "exit": (60, 93), "uname": (63, 160), "getcwd": (79, 17),
    "umask": (95, 166), "gettimeofday": (96, 169), 
    "getrusage": (98, 165), "sysinfo": (99, 179), "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176),
    "geteuid": (107, 175), "getegid": (108, 177), "getppid": (110, 173), "rt_sigpending": (127, 136),
    "sigaltstack": (131, 132), "gettid": (186, 178), "time": (201, None), "futex": (202, 98),
    "getdents64": (217, 61), "set_tid_address": (218, 96),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "exit_group": (231, 94),
    "epoll_wait": (232, None), "epoll_ctl": (233, 21), "newfstatat": (262, 79), 
    "faccessat": (269, 48), "pselect6": (270, 72), "ppoll": (271, 73), "set_robust_list": (273, 99),
    "epoll_pwait": (281, 22), "eventfd2": (290, 19), "epoll_create1": (291, 20), "dup3": (292, 24), "pipe2": (293, 59),
    "getrandom": (318, 278), "statx": (332, 291), "rseq": (334, 293), "close_range": (436, 436),
    "faccessat2": (439, 439),
}  # fmt: skip
"""Allowed whatever the arguments: the numbers on x86-64 and on aarch64 (None: it has no such call)."""


class CallCondition(NamedTuple):
    """A call that is allowed where one argument, of which only ``mask`` counts, is one of ``values``."""

    numbers: tuple[int, int]
    argument: int
    mask: int
    values: tuple[int, ...]
    also: tuple[int, int] | None = None
    """A further argument, and what it must be."""


ALLOWED_IF: Mapping[str, CallCondition] = {
    # For reading only: neither O_WRONLY nor O_RDWR, O_CREAT, O_TRUNC.
    "openat": CallCondition((257, 56), 2, 0o3 | 0o100 | 0o1000, (0,)),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; F_SETOWN would aim signals at others.
    "fcntl": CallCondition((72, 25), 1, 0xFFFFFFFF, (0, 1, 2, 3, 4, 1030)),
    # TCGETS (isatty), TIOCGWINSZ, FIONBIO, FIONCLEX, FIOCLEX.
    "ioctl": CallCondition((16, 29), 1, 0xFFFFFFFF, (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)),
    # SOCK_STREAM, which asyncio opens at its start; one of datagrams could be sent anywhere.
    "socketpair": CallCondition((53, 199), 1, 0xF, (1,), also=(0, 1)),
    # Of this process; of another, whether it exists is nobody's business.
    "sched_getaffinity": CallCondition((204, 123), 0, 0xFFFFFFFF, (0,)),
    # A negative number is the clock of another process.
    "clock_gettime": CallCondition((228, 113), 0, 0x80000000, (0,)),
}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Which of the two numbers is meant, and what the kernel calls the architecture."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def is_known_machine() -> bool:
    """Whether the numbers of this machine's system calls stand here."""
    return platform.machine() in _ARCHITECTURES and struct.calcsize("P") == 8


def filter_code(machine: str) -> bytes:
    """The filter for one of the two architectures, as the kernel reads it."""
    which, name = _ARCHITECTURES[machine]
    code = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUALS, name, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        code += [_step(_AT_LEAST, _X32, 0, 1), _step(_RETURN, _KILL)]
    for numbers in ANYHOW.values():
        number = numbers[which]
        if number is not None:
            code += [_step(_EQUALS, number, 0, 1), _step(_RETURN, _ALLOW)]
    for condition in ALLOWED_IF.values():
        code += _conditional(condition, condition.numbers[which])
    return b"".join([*code, _step(_RETURN, _FAIL)])


def leave_few_calls(code: bytes) -> None:
    """Bind this process to a filter, for good. Raises OSError where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(code) // 8, code)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp filter")


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _conditional(condition: CallCondition, number: int) -> list[bytes]:
    """All of it is skipped for other calls; a call that it is about ends in it."""
    tail: list[bytes] = []
    if condition.also is not None:
        argument, value = condition.also
        tail += [_step(_LOAD, _ARGUMENTS + 8 * argument), _step(_EQUALS, value, 1, 0), _step(_RETURN, _FAIL)]
    tail += [_step(_LOAD, _ARGUMENTS + 8 * condition.argument), _step(_AND, condition.mask)]
    for value in condition.values:
        tail += [_step(_EQUALS, value, 0, 1), _step(_RETURN, _ALLOW)]
    tail.append(_step(_RETURN, _FAIL))
    return [_step(_EQUALS, number, 0, len(tail)), *tail]
