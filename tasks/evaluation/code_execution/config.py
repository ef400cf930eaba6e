"""What one program may use, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """What one program may use.

    HumanEval's slowest canonical solution takes 0.2 seconds of processor time, and its authors allow
    3 seconds by the clock. The clock here is generous, because it also counts the time in which other
    programs have the processor; an endless loop is ended by its processor time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    seconds: float = Field(default=10.0, gt=0, description="time by the clock, after the interpreter's start")
    cpu_seconds: int = Field(default=5, ge=1, description="processor time")
    memory_bytes: int = Field(default=2**30, ge=2**26, description="address space, about 30 MB of it the interpreter's")
    output_bytes: int = Field(default=2**20, ge=0, description="what it may print, to both streams together")


class Verdict(StrEnum):
    """How a program ended; only `PASSED` counts for it."""

    PASSED = "passed"
    FAILED = "failed"  # an exception, a wrong exit status, or an end before the last statement
    TIMED_OUT = "timed_out"  # by the clock or by processor time
    OUT_OF_MEMORY = "out_of_memory"
    BLOCKED = "blocked"  # it asked for something the sandbox refuses, and did not go on without it
    TOO_MUCH_OUTPUT = "too_much_output"
    CRASHED = "crashed"  # ended by a signal of its own making, such as a segmentation fault


@dataclass(frozen=True)
class Outcome:
    """What came of one program."""

    verdict: Verdict
    detail: str  # the error in one line, at most `DETAIL_CHARACTERS`; empty when it passed
    seconds: float  # by the clock, from before the start to after the end

    @property
    def passed(self) -> bool:
        return self.verdict is Verdict.PASSED


DETAIL_CHARACTERS = 300
