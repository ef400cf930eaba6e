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
        # Waiting OpenMP threads sleep instead of spinning: with one other busy program on two cores, a spinning
        # training step is thirty times slower, a sleeping one loses nothing on an idle machine (docs/benchmarks.md).
        "OMP_WAIT_POLICY": "PASSIVE",
        "RAY_USAGE_STATS_ENABLED": "0",
        "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
    }
)


def apply_quiet_environment() -> None:
    """Set each quiet variable that the user has not set: whoever wants the Hub sets `HF_HUB_OFFLINE=0`."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
