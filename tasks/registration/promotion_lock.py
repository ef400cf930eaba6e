"""One mover of a model's aliases at a time, on whatever machines they are.

MLflow's registry has no conditional write. A holder writes a tag of its own on the registered model and then reads all
tags: of two that come at once, at least one sees the other, and whoever sees another withdraws and tries again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import uuid4

from mlflow import MlflowClient

from infra.errors import LeaseLost

_PREFIX = "sam2.lock."
#: A holder needs a few requests. One that has been there this long by our own clock has died.
PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = (0.05, 0.4)


@contextmanager
def promotion_lock(
    client: MlflowClient, name: str, patience_seconds: float = PATIENCE_SECONDS
) -> Iterator[Callable[[], None]]:
    """Hold the model's aliases. Yields a check that raises LeaseLost when another took the lock for abandoned."""
    mine = f"{_PREFIX}{uuid4().hex}"
    first_seen: dict[str, float] = {}
    while True:
        client.set_registered_model_tag(name, mine, datetime.now(UTC).isoformat(timespec="seconds"))
        others = _locks(client, name) - {mine}
        if not others:
            break
        client.delete_registered_model_tag(name, mine)
        first_seen = {key: first_seen.get(key, time.monotonic()) for key in others}
        for key, seen in first_seen.items():
            if time.monotonic() - seen > patience_seconds:
                client.delete_registered_model_tag(name, key)
        time.sleep(random.uniform(*_PAUSE_SECONDS))  # noqa: S311 - spreads attempts, keeps no secret

    def check() -> None:
        if mine not in _locks(client, name):
            raise LeaseLost(
                f"another process took over the aliases of model '{name}' while this one was stopped.",
                "run again: the registry is brought in line.",
            )

    try:
        yield check
    finally:
        client.delete_registered_model_tag(name, mine)


def _locks(client: MlflowClient, name: str) -> set[str]:
    return {key for key in client.get_registered_model(name).tags if key.startswith(_PREFIX)}
