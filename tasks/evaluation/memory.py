"""Peak memory of a piece of work in this process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class PeakMemory:
    """Resident memory at the start, and the highest since.

    Freed memory is handed back to the system first, so that work cannot hide in what an earlier
    model left behind. Where the system cannot reset its peak (anything but Linux), `peak_bytes` is
    the highest since the process started, and `exact` is False.
    """

    def __init__(self) -> None:
        _release_freed_memory()
        self.exact = _reset_peak()
        self.start_bytes = int(psutil.Process().memory_info().rss)

    def peak_bytes(self) -> int:
        """Highest resident set size of the process."""
        try:
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        # Kilobytes on Linux, bytes on macOS.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def added_bytes(self) -> int:
        """How far the peak rose above the start."""
        return max(0, self.peak_bytes() - self.start_bytes)


def _release_freed_memory() -> None:
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed blocks for itself otherwise


def _reset_peak() -> bool:
    try:
        _CLEAR_REFS.write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        return False
    return True
