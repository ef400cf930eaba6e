"""Metrics are gathered and sent in batches: one `log_batch` of a thousand costs what one `log_metric` does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

FLUSH_SECONDS = 2.0
_BATCH = 1000
_LAST_TRIES = 5
_log = logging.getLogger("sam2.tracking")


class MetricBuffer:
    """Sends metrics of one run from a background thread while the stage works.

    When the server cannot be reached the metrics stay here and are sent later; `close` tries for
    some seconds and then raises, so that nothing is lost in silence.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._pending: list[Metric] = []
        self._guard = threading.Lock()
        self._sending = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow metrics", daemon=True)
        self._thread.start()

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue metrics of one step; non-finite values are sent as they are (MLflow shows them)."""
        now = int(time.time() * 1000)
        with self._guard:
            self._pending.extend(Metric(key, float(value), now, step) for key, value in metrics.items())

    def close(self) -> None:
        """Send what is left; raises MlflowException when the server stays unreachable."""
        self._closed.set()
        self._thread.join()
        for attempt in range(_LAST_TRIES):
            try:
                return self._flush()
            except MlflowException:
                if attempt == _LAST_TRIES - 1:
                    raise
                time.sleep(2**attempt)

    def _work(self) -> None:
        while not self._closed.wait(FLUSH_SECONDS):
            try:
                self._flush()
            except MlflowException as error:
                _log.warning("MLflow did not take %d metrics, they are kept: %s", len(self._pending), error)

    def _flush(self) -> None:
        with self._sending:
            with self._guard:
                batch = self._pending[:_BATCH]
            while batch:
                self._client.log_batch(self._run_id, metrics=batch)
                with self._guard:
                    del self._pending[: len(batch)]
                    batch = self._pending[:_BATCH]
