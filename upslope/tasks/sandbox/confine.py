"""The walls that a process puts around itself and its children, in an order that leaves no gap: files, identity,
limits. The system calls that are left (``upslope.tasks.sandbox.system_calls``) come last.

Landlock of any version (Linux 5.13 and newer) will do. What later versions added is held by the filter of system calls
in any case, and asked of Landlock as well where it has it: links between folders (2), shortening of files (3), TCP (4),
ioctl on devices (5), signals and abstract sockets (6).
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

NOBODY = 65534
STACK = 64 * 2**20
"""Bytes of stack, all within the limit of memory: deep recursions of C code end in a crash later than by default."""
OPEN_FILES = 64

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _SIGKILL = 1, 38, 9
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_FOLDER, _MAKE_SOCKET = 1 << 2, 1 << 3, 1 << 9
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITIES_V3 = 0x20080522
_NOT_OF_PYTHON = ("site-packages", "dist-packages")
_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo")


def landlock_version() -> int:
    """The version of Landlock's interface, 0 where there is none."""
    version = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(int(version), 0)


def forbid_files() -> None:
    """From now on this process and its children read nothing but Python's own library and the system's shared ones,
    and write, make, remove or run no file at all. Raises OSError where the kernel refuses."""
    _libc("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    version = landlock_version()
    if not version:
        raise OSError(38, "Landlock")
    rights = 13 + (version >= 2) + (version >= 3) + (version >= 5)  # they come one a bit, in this order
    _restrict(_ruleset(version, files=(1 << rights) - 1), _readable())


def stand_apart() -> None:
    """Put a child into a domain of its own: it cannot look into its parent or its siblings, as these have the same
    name."""
    version = landlock_version()
    _restrict(_ruleset(version, files=_MAKE_SOCKET))


def become_nobody() -> None:
    """Give up every capability, and as root the name too, if Python's library can still be read without it."""
    if os.geteuid() == 0 and _nobody_can_read():
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITIES_V3, 0))
    _syscall(_CAPSET[os.uname().machine], header, ctypes.create_string_buffer(24))


def limit(seconds: int, memory: int) -> None:
    """Limit what a child uses: seconds of one core, bytes of memory; and let it end with its parent."""
    parent = os.getppid()
    _libc("prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_STACK, STACK),
    ):
        _, highest = resource.getrlimit(what)
        most = most if highest == resource.RLIM_INFINITY else min(most, highest)
        resource.setrlimit(what, (most, most))


def _nobody_can_read() -> bool:
    try:
        os.setgroups([])
        os.setresgid(-1, NOBODY, 0)
        os.setresuid(-1, NOBODY, 0)
    except PermissionError:  # a container may take root the right to be somebody else
        return False
    library = Path(os.__file__)
    try:
        return bool(next(library.parent.iterdir())) and bool(library.read_bytes())
    except OSError:
        return False
    finally:
        os.setresuid(-1, 0, 0)
        os.setresgid(-1, 0, 0)


def _ruleset(version: int, files: int) -> bytes:
    """What is forbidden unless a rule allows it: rights of files, and all the rest that this version can forbid."""
    words = [files]
    if version >= 4:
        words.append(0b11)  # bind and connect of TCP
    if version >= 6:
        words.append(0b11)  # abstract sockets, signals
    return struct.pack(f"{len(words)}Q", *words)


def _restrict(ruleset: bytes, allowed: Iterable[tuple[Path, int]] = ()) -> None:
    rules = _syscall(_CREATE_RULESET, ctypes.create_string_buffer(ruleset, len(ruleset)), len(ruleset), 0)
    try:
        for path, access in allowed:
            _allow(rules, path, access)
        _syscall(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _readable() -> Iterator[tuple[Path, int]]:
    """Python's library without what was installed into it, and shared libraries."""
    for folder in map(Path, filter(None, sys.path)):
        yield folder, _READ_FOLDER
        yield from _entries(folder)
    for path in map(Path, _SYSTEM_LIBRARIES):
        yield from _entries(path)
    yield from ((path, _READ_FILE) for path in Path(sys.base_prefix, "lib").glob("*.so*"))
    yield from ((Path(path), _READ_FILE | _READ_FOLDER) for path in _SYSTEM_FILES)


def _entries(folder: Path) -> Iterator[tuple[Path, int]]:
    if not folder.is_dir():
        yield folder, _READ_FILE  # the library as an archive
        return
    for path in folder.iterdir():
        if path.name not in _NOT_OF_PYTHON and not (folder.name == "lib" and path.name.startswith("python")):
            yield path, _READ_FILE | _READ_FOLDER


def _allow(rules: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there on this machine
        return
    try:
        if not path.is_dir():
            access &= _READ_FILE
        rule = ctypes.create_string_buffer(struct.pack("=Qi", access, descriptor), 12)
        if access:
            _syscall(_ADD_RULE, rules, 1, rule, 0)
    finally:
        os.close(descriptor)


def _libc(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*map(ctypes.c_ulong, arguments)):
        raise OSError(ctypes.get_errno(), name)


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    whole = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *whole)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return int(result)
