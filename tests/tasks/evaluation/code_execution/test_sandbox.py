"""What passes and what does not, what a program finds in its process, and machines that cannot shut it in."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.evaluation.code_execution import (
    Limits,
    SandboxError,
    Verdict,
    landlock,
    run_program,
    run_programs,
    sandbox,
    sandbox_problem,
)

BIG_ENOUGH = 2**20


@pytest.mark.usefixtures("sandboxed")
@pytest.mark.parametrize(
    "source",
    [
        "",
        "assert 1 + 1 == 2",
        "# no line end",
        "import sys\ntry:\n    sys.exit(0)\nexcept SystemExit:\n    pass",
        "print('ä' * 1000)",
        "import sys; sys.stdout.close()",
        "import re, json, math, heapq, random, hashlib, decimal, datetime, itertools, functools, statistics, typing",
        "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int = 0\nassert Point(1) == Point(1)",
        "import time; time.sleep(0.01); assert time.localtime()",
        "import copy, pickle\nclass Thing: pass\npickle.loads(pickle.dumps(copy.deepcopy(Thing())))",
        "def deep(n): return 0 if n == 0 else 1 + deep(n - 1)\nassert deep(900) == 900",
        "text = '''" + "x" * BIG_ENOUGH + f"'''\nassert len(text) == {BIG_ENOUGH}",
        "if __name__ == '__main__': raise SystemExit('not in the reference either')",
    ],
)
def test_a_program_that_runs_to_its_end_passes(source: str) -> None:
    outcome = run_program(source)
    assert (outcome.verdict, outcome.detail) == (Verdict.PASSED, "")
    assert outcome.passed
    assert outcome.seconds > 0


@pytest.mark.usefixtures("sandboxed")
@pytest.mark.parametrize(
    ("source", "verdict", "detail"),
    [
        ("x = 1\nassert x == 2", Verdict.FAILED, "AssertionError at line 2"),
        ("def f(:\n  pass", Verdict.FAILED, "SyntaxError: invalid syntax (program.py, line 1)"),
        ("raise ValueError('one\\ntwo')", Verdict.FAILED, "ValueError at line 1: one"),
        ("import numpy", Verdict.FAILED, "ModuleNotFoundError at line 1: No module named 'numpy'"),
        ("import tasks", Verdict.FAILED, "ModuleNotFoundError at line 1: No module named 'tasks'"),
        ("input()", Verdict.FAILED, "EOFError at line 1: EOF when reading a line"),
        ("def f(): return f()\nf()", Verdict.FAILED, "RecursionError at line 1: maximum recursion depth exceeded"),
        ("import sys; sys.exit(0)", Verdict.FAILED, "SystemExit at line 1: 0"),
        ("exit()", Verdict.FAILED, "NameError at line 1: name 'exit' is not defined"),
        ("raise KeyboardInterrupt", Verdict.FAILED, "KeyboardInterrupt at line 1"),
        ("import os; os._exit(0)", Verdict.FAILED, "ended with status 0 before its last statement"),
        ("import os; os._exit(7)", Verdict.FAILED, "ended with status 7 before its last statement"),
        (
            "import os; print('no\\nmore', flush=True); os._exit(7)",
            Verdict.FAILED,
            "ended with status 7 before its last statement: more",
        ),
        (
            "import atexit, os; atexit.register(os._exit, 3)",
            Verdict.FAILED,
            "ended with status 3 after its last statement",
        ),
        ("import sys; sys.excepthook = print\nassert False", Verdict.FAILED, "AssertionError at line 2"),
        (
            "class Odd(Exception):\n    def __str__(self): raise SystemExit(0)\nraise Odd",
            Verdict.FAILED,
            "Odd at line 3",
        ),
        ("\0", Verdict.FAILED, ""),  # a ValueError or a SyntaxError, by Python's version
        ("x = '\ud800'", Verdict.FAILED, "UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud800'"),
        ("import os; os.abort()", Verdict.CRASHED, "ended by SIG"),
        ("import ctypes; ctypes.string_at(0)", Verdict.CRASHED, "ended by SIGSEGV"),
        ("import signal, time; signal.alarm(1); time.sleep(9)", Verdict.CRASHED, "ended by SIGALRM"),
        ("open('here', 'w')", Verdict.BLOCKED, "PermissionError at line 1: [Errno 1] Operation not permitted: 'here'"),
        (
            "try:\n    open('here', 'w')\nexcept OSError:\n    assert False, 'not writable'",
            Verdict.BLOCKED,
            "AssertionError at line 4: not writable",
        ),
        (
            "import threading; threading.Thread(target=print).start()",
            Verdict.BLOCKED,
            "RuntimeError at line 1: can't start new thread",
        ),
        ("bytearray(10**10)", Verdict.OUT_OF_MEMORY, "MemoryError"),
    ],
)
def test_a_program_that_does_not_is_told_apart(source: str, verdict: Verdict, detail: str) -> None:
    outcome = run_program(source)
    assert outcome.verdict is verdict, outcome
    assert outcome.detail.startswith(detail)
    assert "\n" not in outcome.detail
    assert not outcome.passed


@pytest.mark.usefixtures("sandboxed")
@pytest.mark.parametrize("said", [b"passed ", b"passed 0123456789abcdef", b"\xff\xfe", b"ready\npassed x"])
def test_a_forged_report_does_not_pass(said: bytes) -> None:
    source = (
        "import os\nfor number in range(3, 9999):\n"
        f"    try: os.write(number, {said!r})\n    except OSError: pass\nos._exit(0)"
    )
    outcome = run_program(source)
    assert (outcome.verdict, outcome.detail) == (Verdict.FAILED, "wrote to the pipe of its wrapper")


@pytest.mark.usefixtures("sandboxed")
def test_a_program_finds_an_empty_place_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do not tell")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    source = """
import os, sys, resource
assert set(os.environ) <= {"PYTHONHASHSEED", "LC_CTYPE"}, os.environ
assert os.path.basename(os.getcwd()).startswith("sam2-program-")
assert sys.argv == ["program.py"]
assert os.read(0, 1) == b""
assert not [path for path in sys.path if "site-packages" in path or not path], sys.path
assert resource.getrlimit(resource.RLIMIT_CORE) == resource.getrlimit(resource.RLIMIT_FSIZE) == (0, 0)
opened = [number for number in range(3, 9999) if _is_open(number)]
assert len(opened) == 1, opened  # the pipe of its wrapper
"""
    is_open = "def _is_open(number):\n    try: return bool(os.fstat(number))\n    except OSError: return False\n"
    outcome = run_program(is_open + source)
    assert outcome.passed, outcome.detail


@pytest.mark.usefixtures("sandboxed")
def test_its_directory_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outcome = run_program("import os; raise ValueError(os.getcwd())")
    assert str(tmp_path) in outcome.detail
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("sandboxed")
def test_the_order_of_a_set_is_the_same_every_time() -> None:
    source = "raise ValueError({str(number) for number in range(20)})"
    assert run_program(source).detail == run_program(source).detail


@pytest.mark.usefixtures("sandboxed")
def test_many_keep_their_order_and_nothing_stays_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    sources = [f"import time; time.sleep({(7 - number) / 100}); raise ValueError({number})" for number in range(8)]
    details = [outcome.detail for outcome in run_programs(sources, workers=4)]
    assert details == [f"ValueError at line 1: {number}" for number in range(8)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.usefixtures("sandboxed")
def test_output_up_to_the_limit_passes() -> None:
    limits = Limits(output_bytes=100_000)
    assert run_program("import os; print('x' * 99_999)", limits).passed
    outcome = run_program("import os; print('x' * 100_000)", limits)
    assert (outcome.verdict, outcome.detail) == (Verdict.TOO_MUCH_OUTPUT, "printed more than 100000 bytes")


def test_limits_that_cannot_work_are_refused() -> None:
    for wrong in ({"seconds": 0}, {"cpu_seconds": 0}, {"memory_bytes": 1000}, {"output_bytes": -1}, {"threads": 4}):
        with pytest.raises(ValidationError):
            Limits.model_validate(wrong)


@pytest.fixture
def _unknown() -> Iterator[None]:
    """The machine is looked at again, before and after."""
    sandbox_problem.cache_clear()
    yield
    sandbox_problem.cache_clear()


@pytest.mark.usefixtures("_unknown")
def test_an_architecture_without_a_filter_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "riscv64" in str(sandbox_problem())
    with pytest.raises(SandboxError, match="no filter is written for riscv64"):
        run_program("pass")
    with pytest.raises(SandboxError, match="no filter is written for riscv64"):
        list(run_programs(["pass"]))


@pytest.mark.usefixtures("_unknown", "sandboxed")
def test_a_filter_that_the_kernel_refuses_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox_problem.cache_clear()
    monkeypatch.setattr(sandbox, "filter_program", lambda machine: bytes(8))
    assert "prctl(22): Invalid argument" in str(sandbox_problem())
    with pytest.raises(SandboxError, match="Invalid argument"):
        run_program("pass")


@pytest.mark.usefixtures("_unknown", "sandboxed")
def test_a_filter_that_lets_files_be_written_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox_problem.cache_clear()
    allow_everything = b"\x06\0\0\0\0\0\xff\x7f"
    monkeypatch.setattr(sandbox, "filter_program", lambda machine: allow_everything)
    monkeypatch.setattr(landlock, "landlock_version", lambda: 0)
    assert "a file could be written" in str(sandbox_problem())


@pytest.mark.usefixtures("_unknown", "sandboxed")
def test_an_interpreter_that_does_not_start_is_no_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert sandbox_problem() is None
    broken = tmp_path / "start.py"
    broken.write_text("raise SystemExit('no such thing')")
    monkeypatch.setattr(sandbox, "_WRAPPER", broken)
    with pytest.raises(SandboxError, match="status 1: no such thing"):
        run_program("pass")
    broken.write_text("import time; time.sleep(600)")
    monkeypatch.setattr(sandbox, "_START_SECONDS", 0.2)
    with pytest.raises(SandboxError, match=r"still running after 0\.2 seconds"):
        run_program("pass")
