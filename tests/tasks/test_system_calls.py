"""The filter of system calls, run by a small interpreter: what it says of every call, on both architectures."""

from __future__ import annotations

import struct

import pytest

from upslope.tasks.sandbox.system_calls import ALLOWED_IF, ANYHOW, filter_code

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED, KILLED, FAILS = 0x7FFF0000, 0x80000000, 0x00050001


def verdict(code: bytes, number: int, arguments: tuple[int, ...] = (), architecture: int = 0) -> int:
    """What the filter returns, by the rules of BPF."""
    data = struct.pack("IIQ6Q", number, architecture, 0, *(arguments + (0,) * 6)[:6])
    steps = [struct.unpack_from("HBBI", code, place) for place in range(0, len(code), 8)]
    accumulator = place = 0
    while True:
        operation, if_true, if_false, value = steps[place]
        place += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("I", data, value)
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x15:
            place += if_true if accumulator == value else if_false
        elif operation == 0x35:
            place += if_true if accumulator >= value else if_false
        else:
            assert operation == 0x06
            return value


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_what_is_listed_is_allowed_and_all_else_fails(machine: str) -> None:
    which, code = list(ARCHITECTURES).index(machine), filter_code(machine)
    listed = {numbers[which] for numbers in ANYHOW.values()} - {None}
    conditional = {condition.numbers[which] for condition in ALLOWED_IF.values()}
    assert not listed & conditional
    for number in range(1000):
        expected = ALLOWED if number in listed else FAILS
        if number not in conditional:
            assert verdict(code, number, architecture=ARCHITECTURES[machine]) == expected


def test_calls_of_another_architecture_kill() -> None:
    for machine, own in ARCHITECTURES.items():
        code = filter_code(machine)
        for architecture in (0x40000003, 0x40000028, *ARCHITECTURES.values()):
            if architecture != own:
                assert verdict(code, 0, architecture=architecture) == KILLED
    x86 = filter_code("x86_64")
    for number in (0x40000000, 0x40000000 + 39, 2**32 - 1):
        assert verdict(x86, number, architecture=ARCHITECTURES["x86_64"]) == KILLED


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize(
    ("name", "arguments", "allowed"),
    [
        ("openat", (3, 0, 0), True),
        ("openat", (3, 0, 0o2000000), True),  # O_CLOEXEC
        ("openat", (3, 0, 0o1), False),
        ("openat", (3, 0, 0o2), False),
        ("openat", (3, 0, 0o3), False),
        ("openat", (3, 0, 0o100), False),  # O_CREAT
        ("openat", (3, 0, 0o1000), False),  # O_TRUNC
        ("openat", (3, 0, 2**32), True),  # the kernel reads an int
        ("openat", (3, 0, 2**32 + 1), False),
        ("fcntl", (0, 3), True),
        ("fcntl", (0, 1030), True),
        ("fcntl", (0, 8), False),  # F_SETOWN
        ("fcntl", (0, 10), False),  # F_SETSIG
        ("fcntl", (0, 1031), False),  # F_SETPIPE_SZ
        ("ioctl", (0, 0x5401), True),
        ("ioctl", (0, 0x5412), False),  # TIOCSTI
        ("ioctl", (0, 2**32 + 0x5412), False),
        ("socketpair", (1, 1, 0), True),
        ("socketpair", (1, 0o2000001, 0), True),  # SOCK_CLOEXEC
        ("socketpair", (1, 2, 0), False),  # datagrams
        ("socketpair", (1, 5, 0), False),
        ("socketpair", (2, 1, 0), False),  # of another family
        ("sched_getaffinity", (0,), True),
        ("sched_getaffinity", (2**32,), True),  # the kernel reads an int
        ("sched_getaffinity", (1,), False),
        ("clock_gettime", (7,), True),  # CLOCK_BOOTTIME
        ("clock_gettime", (2**32 - 14,), False),  # -14, the CPU clock of process 1
        ("clock_gettime", (2**64 - 14,), False),
    ],
)
def test_some_are_allowed_with_certain_arguments(
    machine: str, name: str, arguments: tuple[int, ...], allowed: bool
) -> None:
    number = ALLOWED_IF[name].numbers[list(ARCHITECTURES).index(machine)]
    found = verdict(filter_code(machine), number, arguments, ARCHITECTURES[machine])
    assert found == (ALLOWED if allowed else FAILS)
