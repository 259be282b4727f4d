"""Programs that try to get out of the sandbox. Each prints ESCAPED if it got what it wanted; ``{...}`` are places that
a test prepares outside.

They run as root too, and in a sandbox that a mistake has opened. So they write, shorten and kill nothing but what the
test made to be hit."""

from __future__ import annotations

PRELUDE = """
import ctypes, os, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
def escaped(*what):
    print("ESCAPED", *what, flush=True)
def attempt(function, *arguments):
    try:
        got = function(*arguments)
    except (OSError, RuntimeError, MemoryError, ValueError):
        return
    escaped(function, arguments, repr(got)[:80])
def call(x86, arm, *arguments):
    number = x86 if X86 else arm
    if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) != -1:
        escaped("system call", number)
"""

ESCAPES: dict[str, str] = {
    "read the users": 'attempt(lambda: open("/etc/passwd").read())',
    "read the repository": 'attempt(lambda: open("{repository}/pyproject.toml").read())',
    "read a secret": 'attempt(lambda: open("{secret}").read())',
    "read through a descriptor of a folder": 'attempt(lambda: os.open("passwd", 0, dir_fd=os.open("/etc", 0)))',
    "list folders": 'for folder in ("/", "/tmp", "/home", "{folder}", "."): attempt(os.listdir, folder)',
    "leave the folder by dots": """
library = os.path.dirname(os.__file__)
attempt(lambda: open(library + "/../../../../../../../../etc/passwd").read())
attempt(lambda: open(library + "/site-packages/../../../../../../../../../etc/passwd").read())""",
    "read what was installed": """
for name in ("site-packages", "dist-packages"):
    folder = os.path.join(os.path.dirname(os.__file__), name)
    for package in ("pip", "setuptools", *(os.listdir(folder)[:30] if os.path.isdir(folder) else ())):
        for file in ("", "/__init__.py", "/METADATA", "/RECORD"):
            attempt(open, os.path.join(folder, package + file))
try:
    sys.path.append(os.path.join(os.path.dirname(os.__file__), "site-packages"))
    import pip
    escaped("pip")
except (ImportError, OSError):
    pass""",
    "read the environment of the parent": """
for pid in (os.getppid(), {pid}, 1):
    for name in ("environ", "cmdline", "mem", "maps", "status"):
        attempt(lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
    for name in ("cwd", "exe", "root"):
        attempt(os.readlink, f"/proc/{pid}/{name}")""".replace("{pid}/", "{{pid}}/").replace("{name}", "{{name}}"),
    "ask for the cores and the clock of another": """
for pid in (os.getppid(), {pid}, 1):
    attempt(os.sched_getaffinity, pid)
    attempt(time.clock_gettime, (~pid << 3) | 2)""",
    "read its own process": 'for name in ("environ", "mem", "maps", "fd"): attempt(os.open, "/proc/self/" + name, 0)',
    "connect to a port": 'attempt(lambda: socket.create_connection(("127.0.0.1", {tcp}), 1))',
    "listen on a port": 'attempt(lambda: socket.create_server(("127.0.0.1", 0)))',
    "send a datagram": 'attempt(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", {udp})))',
    "connect to a unix socket": 'attempt(lambda: socket.socket(socket.AF_UNIX).connect("{unix}"))',
    "connect to an abstract socket": 'attempt(lambda: socket.socket(socket.AF_UNIX).connect("\\0{abstract}"))',
    "send from a pair of sockets": """
attempt(lambda: socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b"x", "\\0{abstract}"))
attempt(lambda: socket.socketpair(type=socket.SOCK_STREAM)[0].sendto(b"x", "\\0{abstract}"))""",
    "other sockets": """
for family in (socket.AF_INET6, 16, 17, 38, 40): attempt(socket.socket, family, socket.SOCK_RAW)
for family in (16, 29, 38, 40): attempt(socket.socket, family, socket.SOCK_DGRAM)""",
    "fork bomb": """
for _ in range(100):
    attempt(os.fork)""",
    "other ways to fork": """
import subprocess
attempt(os.posix_spawn, "/bin/true", ["true"], {{}})
attempt(subprocess.run, ["/bin/true"])
attempt(os.forkpty)
call(56, 220, 17, 0, 0, 0, 0)
call(435, 435, 0, 88)
if X86: call(58, 0)""",
    "threads": """
import threading
attempt(threading.Thread(target=escaped).start)""",
    "another program": """
attempt(os.execv, "/bin/echo", ["echo", "ESCAPED"])
attempt(os.execv, sys.executable, [sys.executable, "-c", "print('ESCAPED')"])
attempt(os.system, "echo ESCAPED") if os.system("exit 7") == 7 << 8 else None""",
    "kill others": """
for pid in (os.getppid(), {pid}, {victim}, 1):
    attempt(os.kill, pid, 0)
for number in (9, 15):
    attempt(os.kill, {victim}, number)
attempt(os.killpg, {victim}, 9)""",
    "kill by other calls": """
call(234, 131, {victim}, {victim}, 9)
call(200, 130, {victim}, 9)
call(129, 138, {victim}, 9, 0)
call(434, 434, {victim}, 0)
attempt(os.pidfd_open, os.getppid())""",
    "signals by way of a descriptor": """
import fcntl
r, w = os.pipe()
attempt(fcntl.fcntl, r, fcntl.F_SETOWN, {pid})
attempt(fcntl.fcntl, r, 10, 9)
attempt(fcntl.fcntl, r, 15, b"\\0" * 8)""",
    "trace the parent": """
for request in (0, 16, 0x4206):
    for pid in (0, os.getppid(), {pid}):
        call(101, 117, request, pid, 0, 0)""",
    "memory of other processes": """
space = ctypes.create_string_buffer(64)
call(310, 270, os.getppid(), ctypes.addressof(space), 1, ctypes.addressof(space), 1, 0)
call(311, 271, {pid}, ctypes.addressof(space), 1, ctypes.addressof(space), 1, 0)
call(312, 272, {pid}, os.getpid(), 0, 0, 0)
call(438, 438, 3, 0, 0)""",
    "write files": """
for place in ("{folder}/new", "{secret}", "{folder}/empty/new"):
    for mode in ("w", "a", "r+", "x"):
        attempt(open, place, mode)""",
    "shorten files": """
attempt(os.open, "{secret}", os.O_RDONLY | os.O_TRUNC)
attempt(os.truncate, "{secret}", 0)
attempt(lambda: os.truncate(os.open("{secret}", os.O_RDONLY), 0))""",
    "links": """
attempt(os.symlink, "/etc/passwd", "{folder}/link")
attempt(os.link, "{secret}", "{folder}/link")
attempt(os.link, os.__file__, "{folder}/library")
attempt(lambda: open("{folder}/to-secret").read())""",
    "rename, remove, change": """
attempt(os.rename, "{secret}", "{folder}/moved")
attempt(os.unlink, "{secret}")
attempt(os.rmdir, "{folder}/empty")
attempt(os.mkdir, "{folder}/made")
attempt(os.chmod, "{secret}", 0o777)
attempt(os.chown, "{secret}", os.getuid(), os.getgid())
attempt(os.utime, "{secret}", (0, 0))
attempt(os.setxattr, "{secret}", "user.x", b"x")""",
    "fill the disk": """
import tempfile
attempt(lambda: tempfile.TemporaryFile(dir="{folder}"))
attempt(lambda: tempfile.TemporaryFile(dir="/dev/shm"))
attempt(os.open, "{folder}", os.O_RDWR | getattr(os, "O_TMPFILE", 0))
attempt(lambda: os.write(0, b"x"))
attempt(os.ftruncate, 0, 2**40)
attempt(os.posix_fallocate, 0, 0, 2**30)""",
    "thousands of files": """
for i in range(3000):
    attempt(os.mknod, "{folder}/%d" % i)
    attempt(os.mkfifo, "{folder}/pipe-%d" % i)""",
    "a huge sparse file": """
attempt(lambda: os.lseek(os.open("{folder}/sparse", os.O_CREAT | os.O_WRONLY), 2**50, 0))""",
    "a file in memory, run": """
attempt(lambda: os.memfd_create("x"))
attempt(os.execve, 0, ["x"], {{}})
call(322, 281, 0, 0, 0, 0, 0x1000)""",
    "shared memory": """
call(29, 194, 0, 4096, 0o1600)
call(64, 190, 0, 1, 0o1600)
call(68, 186, 0, 0o1600)
call(240, 180, 0, 0, 0, 0)
import _posixshmem
attempt(_posixshmem.shm_open, "/upslope-none", os.O_RDWR)
attempt(os.listdir, "/dev/shm")""",
    "exhaust the memory": """
try:
    kept = [bytearray(2**24) for _ in range(1000)]
    escaped("memory")
except MemoryError:
    pass
attempt(lambda: __import__("mmap").mmap(-1, 2**32))""",
    "mount": """
if libc.mount(b"none", b"{folder}/empty", b"tmpfs", 0, None) != -1: escaped("mount")
call(166, 39, 0, 0)
call(155, 41, 0, 0)
call(428, 428, -100, 0, 1)
call(430, 430, 0, 0)""",
    "become root": """
for function in (os.setuid, os.setgid, os.seteuid): attempt(function, 0)
attempt(os.setgroups, [0])
call(126, 91, 0, 0)
if os.geteuid() == 0:
    attempt(os.setuid, 1)""",
    "another root folder": 'attempt(os.chroot, "{folder}")\nattempt(os.fchdir, 0)\nattempt(os.chdir, "/tmp")',
    "namespaces": """
for flag in (0x10000000, 0x20000000, 0x40000000, 0x20000, 0x8000000, 0x400):
    call(272, 97, flag)
call(308, 268, 0, 0)""",
    "rings": "call(425, 425, 8, 0)\ncall(426, 426, 0, 0, 0, 0)\ncall(427, 427, 0, 0, 0, 0)",
    "rare calls": """
for x86, arm in ((321, 280), (298, 241), (250, 219), (248, 217), (323, 282), (303, 264), (304, 265), (300, 262),
                 (246, 104), (175, 105), (313, 273), (169, 142), (164, 170), (159, 171), (170, 161), (179, 60),
                 (317, 277), (444, 444), (206, 0), (205, 0), (154, 0), (173, 0), (272, 97), (237, 235), (256, 238)):
    if X86 or arm: call(x86, arm, 0, 0, 0, 0, 0)""",
    "raise the limits": """
import resource
for what in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
    attempt(resource.setrlimit, what, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    space = ctypes.create_string_buffer(b"\\xff" * 16)
    call(302, 261, 0, what, ctypes.addressof(space), 0)""",
    "type into the terminal": """
import fcntl
for fd in (0, 1, 2):
    attempt(fcntl.ioctl, fd, 0x5412, b"x")
    attempt(fcntl.ioctl, fd, 0x541C, b"\\x03")
attempt(os.open, "/dev/tty", os.O_RDONLY)""",
    "priority": """
attempt(os.nice, -5)
attempt(os.setpriority, os.PRIO_PROCESS, 0, -20)
attempt(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))
attempt(os.sched_setaffinity, 0, {{0}})
call(251, 30, 1, 0, 0)""",
    "outlive the parent": "call(157, 167, 1, 0, 0, 0, 0)\nattempt(os.setsid)\nattempt(os.setpgid, 0, 0)",
    "descriptors that were left open": """
for fd in range(3, 5000):
    attempt(os.fstat, fd)""",
    "calls of another kind (x32)": """
if X86:
    got = libc.syscall(ctypes.c_long(0x40000000 + 39))
    escaped("x32", got)""",
    "calls of another kind (32 bits)": """
import mmap
if X86:
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))
    got = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    escaped("32 bits", got)""",
    "devices": """
for name in ("mem", "kmsg", "null", "zero", "full", "fuse", "kvm", "ptmx"):
    attempt(os.open, "/dev/" + name, os.O_RDONLY)""",
    "traces in the kernel": """
for name in ("/proc/sysrq-trigger", "/proc/kallsyms", "/sys/kernel", "/sys/fs/cgroup", "/proc/net/tcp"):
    attempt(os.open, name, os.O_RDONLY)""",
}

ENDLESS: dict[str, str] = {
    "computes and ignores signals": """
for number in (signal.SIGTERM, signal.SIGXCPU, signal.SIGALRM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
    signal.signal(number, signal.SIG_IGN)
while True: pass""",
    "sleeps": "time.sleep(1000)",
    "sleeps in pieces and blocks signals": """
signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 32)))
while True: time.sleep(0.01)""",
    "writes": 'while True:\n    try: os.write(1, b"x" * 65536)\n    except OSError: pass',
    "calculates in C": "10 ** 10 ** 10 ** 10",
    "recurses": "import sys\nsys.setrecursionlimit(10**9)\nf = lambda: f()\nf()",
    "crashes": "ctypes.string_at(0)",
    "reads what never comes": "r, w = os.pipe()\nos.read(r, 1)",
}
"""Programs that have to be ended."""
