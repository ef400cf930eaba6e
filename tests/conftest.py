"""Settings for every test: no telemetry, no colours, plots without a display."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import hypothesis
import psutil
import pytest

os.environ.update(
    {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "Agg",
        # As in production (infra/quiet.py): tests share the cores with whatever else runs.
        "GOMP_SPINCOUNT": "1000",
    }
)

# Where bytecode is forbidden (many containers), every process that a test starts would compile our modules anew, and
# every stack all of Prefect, MLflow and torch besides: 25 seconds of computing where 12 do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A first example may compile a kernel or load a model: how long one takes says nothing.
# The same examples every time, so that a change is judged by what it changed; `make explore` draws new ones.
hypothesis.settings.register_profile("pipeline", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "pipeline"))


def _serves_as_disk(directory: Path) -> bool:
    """Whether it is a file system in memory with room for all that tests write, and can do what they ask of a disk."""
    if not os.access(directory, os.W_OK) or os.statvfs(directory).f_flag & os.ST_NOEXEC:
        return False
    if min(shutil.disk_usage(directory).free, psutil.virtual_memory().available / 2) < _ROOM_BYTES:
        return False
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=directory) as probe:
        os.setxattr(probe.name, "user.probe", b"x")  # OpenStack Swift keeps its metadata so
        return True
    return False


_ROOM_BYTES = 4 << 30
_MEMORY = Path("/dev/shm")
# A disk takes milliseconds for each fsync, and tests make tens of thousands; only a power cut tells the difference.
if sys.platform == "linux" and _serves_as_disk(_MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long begin, so that the last minutes are filled with short ones (`--no-loadscope-reorder`)."""
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow_files)
