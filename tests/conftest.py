"""Settings for every test: no telemetry, no colours, plots without a display."""

from __future__ import annotations

import os

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

# A first example may compile a kernel or load a model: how long one takes says nothing.
# The same examples every time, so that a change is judged by what it changed; `make explore` draws new ones.
hypothesis.settings.register_profile("pipeline", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "pipeline"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file stay together on one worker, because they share fixtures; files that take long begin."""
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    for item in items:
        item.add_marker(pytest.mark.xdist_group(str(item.path)))
    items.sort(key=lambda item: item.path not in slow_files)
