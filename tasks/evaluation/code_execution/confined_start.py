"""Shuts its own process in, then runs the program it was given. Started by `sandbox.py`, as a script of its own.

It imports nothing of this project, and the program is not read as code before the last door is closed. Every
program pays for its imports: `signal`, `typing` and `contextlib` alone would double the start.
"""

import ctypes
import os
import resource
import struct
import sys
from types import ModuleType

_SIGKILL = 9
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_PATH_BENEATH = 1
_PROGRAM_NAME = "program.py"

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    job_descriptor, report_descriptor = map(int, sys.argv[1:])
    sys.argv = [_PROGRAM_NAME]
    with os.fdopen(job_descriptor, "rb") as job:
        header, _, source = job.read().partition(b"\n\n")
    lines = [line.split("=", 1) for line in os.fsdecode(header).split("\n")]
    settings = dict(lines)
    try:
        _die_with(int(settings["parent"]))
        _give_up_privileges()
        if "landlock" in settings:
            readable = [value for name, value in lines if name == "readable"]
            _confine_reading(bytes.fromhex(settings["landlock"]), readable)
        _limit(int(settings["cpu_seconds"]), int(settings["memory_bytes"]))
        _filter_system_calls(bytes.fromhex(settings["filter"]))
    except (OSError, ValueError) as error:
        os.write(report_descriptor, f"refused {error}".encode())
        os._exit(1)
    os.write(report_descriptor, b"ready\n")
    _run(source.decode("utf-8", "surrogatepass"), settings["token"], report_descriptor)


def _die_with(parent: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:  # it died before the call above: nobody would end us
        os._exit(1)


def _give_up_privileges() -> None:
    """No way to gain privileges, and none left, not even root's."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, bytes(24)) != 0:  # two times effective, permitted, inheritable: all empty
        raise _error("capset")


def _confine_reading(attributes: bytes, readable: list[str]) -> None:
    """`readable`: "access:path" each."""
    ruleset = _system_call(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    for place in readable:
        access, _, path = place.partition(":")
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", int(access), descriptor)
        _system_call(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_PATH_BENEATH, rule, 0)
        os.close(descriptor)
    _system_call(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _limit(cpu_seconds: int, memory_bytes: int) -> None:
    """Past `cpu_seconds` SIGXCPU, which can be ignored, and a second later SIGKILL, which cannot."""
    for limit, soft, hard in (
        (resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NPROC, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
    ):
        _, present = resource.getrlimit(limit)
        if present != resource.RLIM_INFINITY:  # a limit can only be lowered
            soft, hard = min(soft, present), min(hard, present)
        resource.setrlimit(limit, (soft, hard))


def _filter_system_calls(instructions: bytes) -> None:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    program = struct.pack("@HP", len(instructions) // 8, ctypes.addressof(code))  # struct sock_fprog
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program)


def _prctl(option: int, argument: int, pointer: bytes | None = None) -> None:
    if _libc.prctl(option, ctypes.c_ulong(argument), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise _error(f"prctl({option})")


def _system_call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise _error(f"system call {number}")
    return result


def _error(name: str) -> OSError:
    return OSError(f"{name}: {os.strerror(ctypes.get_errno())}")


def _run(source: str, token: str, report_descriptor: int) -> None:
    """Run the program and report the token when its last statement is done, or the error that ended it."""
    module = ModuleType("program")
    sys.modules["program"] = module
    try:
        exec(compile(source, _PROGRAM_NAME, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the purpose
    except MemoryError as error:
        error.__traceback__ = None
        module.__dict__.clear()
        os.write(report_descriptor, b"out_of_memory MemoryError")
        os._exit(1)
    except BaseException as error:  # noqa: BLE001 - whatever generated code raises, SystemExit too, is its failure
        os.write(report_descriptor, _describe(error).encode("utf-8", "backslashreplace"))
        os._exit(1)
    os.write(report_descriptor, b"passed " + token.encode())


def _describe(error: BaseException) -> str:
    name, message = type(error).__name__, ""
    try:  # noqa: SIM105 - contextlib costs too much
        message = str(error).strip()
    except BaseException:  # noqa: BLE001, S110 - `__str__` may be generated code
        pass
    first_line = message.split("\n", 1)[0][:1000]
    line = _line_number(error)
    verdict = "blocked" if _was_refused(error) else "failed"
    return f"{verdict} {name}{f' at line {line}' if line else ''}{f': {first_line}' if first_line else ''}"


def _line_number(error: BaseException) -> int | None:
    """The innermost line of the program itself on the way to the error."""
    number, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _PROGRAM_NAME:
            number = trace.tb_lineno
        trace = trace.tb_next
    return number


def _was_refused(error: BaseException | None) -> bool:
    """Whether the error, or one it was raised from or while handling, is the sandbox's."""
    for _ in range(16):  # a chain may be a ring
        if isinstance(error, PermissionError) or (
            isinstance(error, RuntimeError) and error.args == ("can't start new thread",)
        ):
            return True
        if error is None:
            return False
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    main()
