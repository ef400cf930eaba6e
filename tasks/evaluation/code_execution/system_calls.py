"""The system calls a shut-in interpreter may make; every other one fails with EPERM.

An allow-list: a call that a future kernel adds is refused until someone has thought about it. What is here reads,
computes, sleeps or ends. Nothing makes a process or a thread, starts a program, opens a socket, signals,
writes or changes a file, or changes what the process may do.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Allowed:
    """Always."""


@dataclass(frozen=True)
class WithoutFlags:
    """When none of these bits is set in the argument (an int)."""

    argument: int
    flags: int


@dataclass(frozen=True)
class OneOf:
    """When the argument (an int) has one of these values."""

    argument: int
    values: tuple[int, ...]


@dataclass(frozen=True)
class AllZero:
    """When these arguments are 0 (in all 64 bits)."""

    arguments: tuple[int, ...]


@dataclass(frozen=True)
class Refused:
    """Never, with another error than EPERM."""

    error: int


Rule = Allowed | WithoutFlags | OneOf | AllZero | Refused

# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND and __O_TMPFILE, the same on both machines.
_WRITING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC. Not F_SETOWN and F_SETSIG, by which the kernel sends any
# signal to any process of this user, nor the locks and leases that others would wait for.
_FCNTL = (0, 1, 2, 3, 1030)
# TCGETS (is it a terminal?), TIOCGWINSZ, FIONCLEX, FIOCLEX. Not FS_IOC_SETFLAGS, which needs no open for writing.
_IOCTL = (0x5401, 0x5413, 0x5450, 0x5451)

_RULES: Mapping[str, Rule] = {
    "open": WithoutFlags(1, _WRITING),
    "openat": WithoutFlags(2, _WRITING),
    "fcntl": OneOf(1, _FCNTL),
    "ioctl": OneOf(1, _IOCTL),
    "prlimit64": AllZero((0, 2)),  # reads this process's own limits
    # The C library tries these first and falls back to their elders only when they do not exist.
    "clone3": Refused(errno.ENOSYS),
    "openat2": Refused(errno.ENOSYS),
}

_X86_64 = {
    # open files: pipes, directories and files opened for reading
    "read": 0, "write": 1, "open": 2, "close": 3, "lseek": 8, "ioctl": 16, "pread64": 17, "readv": 19, "writev": 20,
    "dup": 32, "dup2": 33, "dup3": 292, "fcntl": 72, "getdents64": 217, "openat": 257, "pipe": 22, "pipe2": 293,
    "close_range": 436, "openat2": 437,
    # what is there
    "stat": 4, "fstat": 5, "lstat": 6, "access": 21, "getcwd": 79, "readlink": 89, "newfstatat": 262,
    "readlinkat": 267, "faccessat": 269, "statx": 332, "faccessat2": 439,
    # waiting
    "poll": 7, "select": 23, "pselect6": 270, "ppoll": 271, "nanosleep": 35, "clock_nanosleep": 230,
    "sched_yield": 24, "futex": 202, "restart_syscall": 219,
    # memory, within RLIMIT_AS
    "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "mremap": 25, "madvise": 28,
    # its own signal handlers and timers, which reach nobody else
    "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "sigaltstack": 131,
    "getitimer": 36, "alarm": 37, "setitimer": 38,
    # time, randomness and who am I
    "gettimeofday": 96, "time": 201, "clock_gettime": 228, "clock_getres": 229, "times": 100, "getrusage": 98,
    "getrandom": 318, "getpid": 39, "getppid": 110, "gettid": 186, "getuid": 102, "getgid": 104, "geteuid": 107,
    "getegid": 108, "uname": 63, "sysinfo": 99, "sched_getaffinity": 204, "getrlimit": 97, "prlimit64": 302,
    # the C library's own housekeeping, and the end
    "set_tid_address": 218, "set_robust_list": 273, "rseq": 334, "clone3": 435, "exit": 60, "exit_group": 231,
}  # fmt: skip

_AARCH64 = {
    "read": 63, "write": 64, "close": 57, "lseek": 62, "ioctl": 29, "pread64": 67, "readv": 65, "writev": 66,
    "dup": 23, "dup3": 24, "fcntl": 25, "getdents64": 61, "openat": 56, "pipe2": 59, "close_range": 436, "openat2": 437,
    "fstat": 80, "getcwd": 17, "newfstatat": 79, "readlinkat": 78, "faccessat": 48, "statx": 291, "faccessat2": 439,
    "pselect6": 72, "ppoll": 73, "nanosleep": 101, "clock_nanosleep": 115, "sched_yield": 124, "futex": 98,
    "restart_syscall": 128,
    "mmap": 222, "mprotect": 226, "munmap": 215, "brk": 214, "mremap": 216, "madvise": 233,
    "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "sigaltstack": 132,
    "getitimer": 102, "setitimer": 103,
    "gettimeofday": 169, "clock_gettime": 113, "clock_getres": 114, "times": 153, "getrusage": 165, "getrandom": 278,
    "getpid": 172, "getppid": 173, "gettid": 178, "getuid": 174, "getgid": 176, "geteuid": 175, "getegid": 177,
    "uname": 160, "sysinfo": 179, "sched_getaffinity": 123, "getrlimit": 163, "prlimit64": 261,
    "set_tid_address": 96, "set_robust_list": 99, "rseq": 293, "clone3": 435, "exit": 93, "exit_group": 94,
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """One architecture's calling convention, as the kernel's filter sees it."""

    audit_architecture: int  # AUDIT_ARCH_* of linux/audit.h
    numbers: Mapping[str, int]

    def rules(self) -> dict[int, Rule]:
        """The rule of each allowed system call, by its number."""
        return {number: _RULES.get(name, Allowed()) for name, number in self.numbers.items()}


#: By `platform.machine()`.
MACHINES = {"x86_64": Machine(0xC000003E, _X86_64), "aarch64": Machine(0xC00000B7, _AARCH64)}
