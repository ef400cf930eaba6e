"""Keeps every tool of the pipeline from phoning home, and a waiting thread from spinning.

Imported first by every entry point.
It needs nothing outside the standard library, so it is free and can run before anything reads its settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

QUIET_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # MLflow accepts only the word; Prefect and huggingface_hub accept the word too.
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Not telemetry, but noise: a progress bar for each copied file in the middle of a log.
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Waiting OpenMP threads soon sleep instead of spinning on: beside one other busy program on two cores a
        # training step was forty times slower with the default, and is twice as slow with this; on an idle
        # machine it costs nothing (docs/benchmarks.md).
        "GOMP_SPINCOUNT": "1000",
        "RAY_USAGE_STATS_ENABLED": "0",
        "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
    }
)


def apply_quiet_environment() -> None:
    """Set each quiet variable that the user has not set: whoever wants the Hub sets `HF_HUB_OFFLINE=0`."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
