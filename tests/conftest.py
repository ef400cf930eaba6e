"""Settings for every test: no telemetry, no colours, plots without a display."""

from __future__ import annotations

import os
import sys

import hypothesis
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

# A console takes its width when it is made, with the module that it is in: that of whoever runs the tests says nothing.
os.environ.pop("COLUMNS", None)

# Where bytecode is forbidden (many containers), every process that a test starts would compile our modules anew, and
# every stack all of Prefect, MLflow and torch besides: 25 seconds of computing where 12 do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A first example may compile a kernel or load a model: how long one takes says nothing.
# The same examples every time, so that a change is judged by what it changed; `make explore` draws new ones.
hypothesis.settings.register_profile("pipeline", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "pipeline"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long begin, so that the last minutes are filled with short ones (`--no-loadscope-reorder`)."""
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow_files)
