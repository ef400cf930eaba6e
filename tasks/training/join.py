"""What `sam2 join` does on every machine but the first: runs its share of the ranks, attempt after attempt.

The first machine's supervisor leaves the number of each attempt beside the job, on a file system that all machines
share. A machine that joins starts its ranks for that attempt; when they end it waits for the next one, until the
stage is finished. Credentials, data and code must be on every machine, as for any torchrun job.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.errors import ConfigurationError
from infra.processes import ChildFailed, ChildStalled, run_streaming
from tasks.training.job import TrainingJob
from tasks.training.launch import TRAINER_MODULE, Attempt, trainer_command, trainer_environment, word_path
from tasks.training.supervision import RankHung, Watch

_POLL_SECONDS = 1.0
#: What the first machine needs to know to decide what comes next.
_WORDS = {"out_of_memory", "error", "interrupted"}


def join(job_path: Path, node: int, say: Callable[[str], None], module: str = TRAINER_MODULE) -> None:
    """Take part in a job as machine `node` (from 1) until its stage is finished.

    Raises ConfigurationError when the job does not have so many machines.
    """
    last = 0
    while True:
        attempt = Attempt.read(job_path)
        if attempt is not None and attempt.number == 0:
            say("the stage is finished")
            return
        if attempt is None or attempt.number == last:
            time.sleep(_POLL_SECONDS)
            continue
        if not 1 <= node < attempt.nodes:
            raise ConfigurationError(
                f"the job '{job_path}' runs on {attempt.nodes} machines; there is no machine {node} to join as.",
                f"use --node 1 to {attempt.nodes - 1}" if attempt.nodes > 1 else "set training.nodes.",
            )
        last = attempt.number
        say(f"attempt {attempt.number}: ranks {attempt.ranks_of(node).start} to {attempt.ranks_of(node).stop - 1}")
        _take_part(attempt, job_path, node, say, module)


def _take_part(attempt: Attempt, job_path: Path, node: int, say: Callable[[str], None], module: str) -> None:
    job = TrainingJob.read(job_path)
    watch = Watch(job.heartbeats, attempt.ranks_of(node), job.config.restart)

    def tell(event: dict[str, Any]) -> None:
        with word_path(job_path, attempt.number, node).open("a") as stream:
            stream.write(json.dumps(event) + "\n")

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] in _WORDS:
            tell(event)

    try:
        run_streaming(
            trainer_command(attempt, job_path, node, module),
            on_line=say,
            on_event=on_event,
            environment=trainer_environment(attempt),
            watch=watch,
        )
    except (ChildFailed, ChildStalled, RankHung) as error:
        say(f"attempt {attempt.number} ended: {error.problem}")
        tell({"event": "ended", "text": error.problem.splitlines()[0]})
