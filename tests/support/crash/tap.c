/* Stands between a process and the system (LD_PRELOAD), and sees whatever it changes below one folder, whoever asks:
 * Python, or the Rust and C++ of the libraries. At the n-th change it ends the process, or says that the disk is full.
 *
 * A change is a file or folder made, emptied, written to, renamed or deleted. Calls that change nothing (a file opened
 * again, a folder that is there) are not counted. Where the disk is full, what needs room counts, and a flush does too:
 * some file systems say only then that there was none. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, KILL, HALF, FULL, FULL_ONCE };  /* forks.py has the same */
enum { GO_ON, FAIL, PART };
enum { CHANGES = 1, NEEDS_ROOM = 2 };

static char below[PATH_MAX];
static size_t length;
static int mode = OFF, journal = -1;
static long wanted;
static atomic_long seen;

void tap_arm(const char *folder, int what, long at, const char *log) {
    snprintf(below, sizeof below, "%s", folder);
    length = strlen(below);
    wanted = at;
    if (*log) journal = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    mode = what;
}

static int is_below(const char *path) {
    return strncmp(path, below, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static void place_of(int fd, char *into) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long got = syscall(SYS_readlinkat, AT_FDCWD, link, into, PATH_MAX - 1);
    into[got < 0 ? 0 : got] = 0;
}

static void resolve(int at, const char *path, char *into) {
    char start[PATH_MAX];
    if (*path == '/') { snprintf(into, PATH_MAX, "%s", path); return; }
    if (at != AT_FDCWD) place_of(at, start);
    else if (!getcwd(start, sizeof start)) *start = 0;
    if (snprintf(into, PATH_MAX, "%s/%s", start, path) >= PATH_MAX) *into = 0;
}

/* Whether the call goes on, fails, or does a part of its work: for one that `does` this to `path`. */
static int met(const char *call, const char *path, int does) {
    int counted = mode == KILL || mode == HALF ? CHANGES : NEEDS_ROOM;
    if (mode == OFF || !(does & counted) || !is_below(path)) return GO_ON;
    long now = atomic_fetch_add(&seen, 1) + 1;
    if (journal >= 0) dprintf(journal, "%ld %s %s\n", now, call, path + length);
    if (now < wanted || wanted == 0) return GO_ON;
    if (mode == FULL_ONCE) return now == wanted ? FAIL : GO_ON;
    if (mode == FULL) return now == wanted ? PART : FAIL;
    if (mode == HALF && !strcmp(call, "write")) return PART;
    syscall(SYS_kill, getpid(), SIGKILL);
    return FAIL;
}

static int met_at(const char *call, int at, const char *path, int does) {
    char full[PATH_MAX];
    int before = errno;
    if (mode == OFF) return GO_ON;
    resolve(at, path, full);
    errno = before;
    return met(call, full, does);
}

static int met_by(const char *call, int fd, int does) {
    char full[PATH_MAX];
    int before = errno;
    if (mode == OFF) return GO_ON;
    place_of(fd, full);
    errno = before;
    return met(call, full, does);
}

static int full(void) { errno = ENOSPC; return -1; }
static int is_there(int at, const char *path) {
    int before = errno, found = syscall(SYS_faccessat, at, path, F_OK) == 0;
    errno = before;
    return found;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int opening(int at, const char *path, int flags) {
    int makes = (flags & O_CREAT) && !is_there(at, path);
    int does = (makes ? CHANGES | NEEDS_ROOM : 0) | (flags & O_TRUNC ? CHANGES : 0);
    return does ? met_at("open", at, path, does) : GO_ON;
}
#define MODE(flags) \
    mode_t mode_of_file = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list more; va_start(more, flags); mode_of_file = va_arg(more, mode_t); va_end(more); }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return opening(AT_FDCWD, path, flags) != GO_ON ? full() : REAL(open)(path, flags, mode_of_file);
}
int open64(const char *path, int flags, ...) {
    MODE(flags)
    return opening(AT_FDCWD, path, flags) != GO_ON ? full() : REAL(open64)(path, flags, mode_of_file);
}
int openat(int at, const char *path, int flags, ...) {
    MODE(flags)
    return opening(at, path, flags) != GO_ON ? full() : REAL(openat)(at, path, flags, mode_of_file);
}
int openat64(int at, const char *path, int flags, ...) {
    MODE(flags)
    return opening(at, path, flags) != GO_ON ? full() : REAL(openat64)(at, path, flags, mode_of_file);
}

ssize_t write(int fd, const void *data, size_t size) {
    int found = met_by("write", fd, CHANGES | NEEDS_ROOM);
    if (found == FAIL) return full();
    if (found == GO_ON) return REAL(write)(fd, data, size);
    ssize_t done = REAL(write)(fd, data, size / 2);
    if (mode == HALF) syscall(SYS_kill, getpid(), SIGKILL);
    return size < 2 ? full() : done;
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    return met_by("writev", fd, CHANGES | NEEDS_ROOM) != GO_ON ? full() : REAL(writev)(fd, parts, count);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t from) {
    return met_by("pwrite", fd, CHANGES | NEEDS_ROOM) != GO_ON ? full() : REAL(pwrite64)(fd, data, size, from);
}
int ftruncate64(int fd, off64_t size) {
    return met_by("truncate", fd, CHANGES) != GO_ON ? full() : REAL(ftruncate64)(fd, size);
}
int fsync(int fd) { return met_by("flush", fd, NEEDS_ROOM) != GO_ON ? full() : REAL(fsync)(fd); }

int mkdir(const char *path, mode_t mode_of_folder) {
    int does = is_there(AT_FDCWD, path) ? 0 : CHANGES | NEEDS_ROOM;
    return met_at("mkdir", AT_FDCWD, path, does) != GO_ON ? full() : REAL(mkdir)(path, mode_of_folder);
}
int rename(const char *from, const char *to) {
    return met_at("rename", AT_FDCWD, to, CHANGES) != GO_ON ? full() : REAL(rename)(from, to);
}
int renameat(int at, const char *from, int into, const char *to) {
    return met_at("rename", into, to, CHANGES) != GO_ON ? full() : REAL(renameat)(at, from, into, to);
}
int unlink(const char *path) {
    return met_at("unlink", AT_FDCWD, path, CHANGES) != GO_ON ? full() : REAL(unlink)(path);
}
int unlinkat(int at, const char *path, int flags) {
    return met_at("unlink", at, path, CHANGES) != GO_ON ? full() : REAL(unlinkat)(at, path, flags);
}
int rmdir(const char *path) {
    return met_at("rmdir", AT_FDCWD, path, CHANGES) != GO_ON ? full() : REAL(rmdir)(path);
}
