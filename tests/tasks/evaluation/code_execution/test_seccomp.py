"""The filter of either architecture, run by an interpreter of classic BPF in plain code."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from tasks.evaluation.code_execution.seccomp import filter_program
from tasks.evaluation.code_execution.system_calls import MACHINES

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
#: What makes processes, runs programs, talks, signals, changes files or rights. Numbers: x86_64, aarch64.
DANGEROUS = {
    "clone": (56, 220), "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "sendto": (44, 206),
    "io_uring_setup": (425, 425), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138), "ptrace": (101, 117),
    "process_vm_writev": (311, 271), "unlinkat": (263, 35), "renameat2": (316, 276), "mkdirat": (258, 34),
    "linkat": (265, 37), "symlinkat": (266, 36), "mknodat": (259, 33), "truncate": (76, 45), "ftruncate": (77, 46),
    "fallocate": (285, 47), "fchmod": (91, 52), "fchownat": (260, 54), "utimensat": (280, 88), "setxattr": (188, 5),
    "memfd_create": (319, 279), "mount": (165, 40), "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51),
    "setsid": (112, 157), "setpgid": (109, 154), "prctl": (157, 167), "seccomp": (317, 277), "bpf": (321, 280),
    "keyctl": (250, 219), "setuid": (105, 146), "setrlimit": (160, 164), "open_by_handle_at": (304, 265),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "flock": (73, 32), "sched_setaffinity": (203, 122),
    "setpriority": (141, 140), "reboot": (169, 142), "pwrite64": (18, 68),
}  # fmt: skip


def answer(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel would do: its interpreter's four instructions that the filter uses."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    accumulator, place = 0, 0
    while True:
        code, when_true, when_false, operand = struct.unpack_from("<HBBI", program, 8 * place)
        place += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x15:
            place += when_true if accumulator == operand else when_false
        elif code == 0x45:
            place += when_true if accumulator & operand else when_false
        else:
            assert code == 0x06
            return int(operand)


@pytest.fixture(params=MACHINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(name: str, call: str | int, *arguments: int) -> int:
    machine = MACHINES[name]
    number = machine.numbers[call] if isinstance(call, str) else call
    return answer(filter_program(machine), machine.audit_architecture, number, arguments)


def test_every_listed_call_has_an_answer_and_every_other_number_is_refused(name: str) -> None:
    numbers = set(MACHINES[name].numbers.values())
    assert len(numbers) == len(MACHINES[name].numbers)
    for number in set(range(600)) - numbers:
        assert ask(name, number) == EPERM
    for call in ("read", "write", "mmap", "exit_group", "newfstatat", "fcntl", "openat", "prlimit64"):
        assert ask(name, call) == ALLOW


def test_dangerous_calls_are_refused(name: str) -> None:
    column = list(MACHINES).index(name)
    for call, numbers in DANGEROUS.items():
        if numbers[column] is not None:
            assert ask(name, numbers[column]) == EPERM, call
            assert call not in MACHINES[name].numbers


def test_files_are_opened_for_reading_only(name: str) -> None:
    close_on_exec, directory = 0o2000000, 0o200000
    for flags in (0, close_on_exec, close_on_exec | directory):
        assert ask(name, "openat", 0, 0, flags) == ALLOW
    for flags in (0o1, 0o2, 0o3, 0o100, 0o1000, 0o2000, 0o20200000, close_on_exec | 0o101):
        assert ask(name, "openat", 0, 0, flags) == EPERM
    if name == "x86_64":
        assert (ask(name, "open", 0, 0), ask(name, "open", 0, 0o100)) == (ALLOW, EPERM)


def test_commands_are_chosen_one_by_one(name: str) -> None:
    assert [ask(name, "fcntl", 3, command) for command in (0, 1, 2, 3, 1030)] == [ALLOW] * 5
    assert {ask(name, "fcntl", 3, command) for command in (4, 5, 6, 7, 8, 10, 1024, 1031, 2**31)} == {EPERM}
    assert [ask(name, "ioctl", 3, request) for request in (0x5401, 0x5451)] == [ALLOW] * 2
    assert {ask(name, "ioctl", 3, request) for request in (0, 0x5412, 0x40086602, 0x8901)} == {EPERM}
    # The kernel looks at 32 bits of a command: whatever is above them neither helps nor harms.
    assert (ask(name, "fcntl", 3, 2**32 + 8), ask(name, "fcntl", 3, 2**32 + 3)) == (EPERM, ALLOW)


def test_limits_are_read_of_itself_only(name: str) -> None:
    assert ask(name, "prlimit64", 0, 7, 0, 2**47 - 8) == ALLOW
    for arguments in ((1, 7, 0), (0, 7, 8), (0, 7, 2**40), (2**32, 7, 0)):
        assert ask(name, "prlimit64", *arguments) == EPERM


def test_the_c_library_is_told_to_use_the_elder_calls(name: str) -> None:
    assert ask(name, "clone3") == ask(name, "openat2") == ENOSYS


def test_another_convention_ends_the_process(name: str) -> None:
    program = filter_program(MACHINES[name])
    for architecture in (0x40000003, 0x40000028, 0):  # i386, arm
        assert answer(program, architecture, 0) == KILL
    assert ask(name, 0x40000000 | MACHINES[name].numbers["read"]) == EPERM  # x32


def test_the_kernel_takes_it(name: str) -> None:
    program = filter_program(MACHINES[name])
    assert len(program) % 8 == 0
    assert len(program) // 8 <= 4096  # BPF_MAXINSNS


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")],
)
def test_numbers_are_the_kernels(machine: str, header: str) -> None:
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip(f"no {path}: the kernel's headers are not installed")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text())
    numbers = {name: int(number) for name, number in defined}
    numbers.setdefault("newfstatat", numbers.get("fstatat", -1))
    column = list(MACHINES).index(machine)
    listed = dict(MACHINES[machine].numbers)
    listed |= {call: both[column] for call, both in DANGEROUS.items() if both[column] is not None}
    assert {call: numbers.get(call) for call in listed} == listed
