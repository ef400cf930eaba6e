"""Settings for every test: no telemetry, no colours, plots without a display."""

from __future__ import annotations

import os

import hypothesis

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
