"""Run units of work on datatrove's executors, and hand their outcomes back as they come."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.errors import ConfigurationError, PipelineError
from tasks.scale_out.config import ExecutionConfig, Executor
from tasks.work_units import Failure, UnitOutput, load_outcome

_LOOK_SECONDS = 0.2
_SIGN_SECONDS = 2.0


class UnitExecution:
    """One stage's connection to an executor; Ray is started at the first round and ended with the stage.

    `directory` is scratch space that every node sees. `watch` is called with the number of finished
    units while others run: cancellation surfaces there.
    """

    def __init__(self, config: ExecutionConfig, workers: int, directory: Path) -> None:
        _require_packages(config.executor)
        self._config = config
        self._workers = workers
        self._directory = directory
        self._started_ray = False

    def close(self) -> None:
        """End what was started; scratch files are removed."""
        if self._started_ray:
            import ray

            ray.shutdown()
            self._started_ray = False
        shutil.rmtree(self._directory, ignore_errors=True)

    def run(
        self,
        units: Mapping[str, Any],
        work: Callable[[Any], UnitOutput],
        watch: Callable[[int], None],
    ) -> Iterator[tuple[str, UnitOutput]]:
        """Run all units; yields (name, output) as they finish.

        Raises the first PipelineError a unit failed with, or PipelineError when units end without an
        outcome (a worker was killed, a node went away).
        """
        from tasks.scale_out.unit_step import Coordinator, UnitStep, outcome_path

        attempt = self._directory / uuid.uuid4().hex
        outcomes = attempt / "outcomes"
        (attempt / "logs").mkdir(parents=True)
        step = UnitStep(units, work, outcomes, Coordinator.this_process())
        tasks = -(-len(units) // self._config.units_per_task)
        round_ = _Round(self._executor(step, tasks, attempt / "logs"), self._config)
        round_.start()
        signs = _SignsOfLife(attempt / "alive", self._config.silence_seconds)
        waiting = {name: outcome_path(outcomes, name) for name in units}
        while waiting:
            ended = round_.has_ended()  # asked before looking: what was left until then is seen below
            ready = [name for name, path in waiting.items() if path.exists()]
            for name in ready:
                outcome = load_outcome(waiting.pop(name))
                if isinstance(outcome, Failure):
                    raise outcome.error()
                yield name, outcome
            if waiting and (ended or signs.one_is_silent()):
                raise PipelineError(
                    f"{len(waiting)} of {len(units)} units ended without a result, '{min(waiting)}' among them"
                    f"{round_.explanation()}.",
                    f"read the logs in '{attempt / 'logs'}' and run again; finished units are kept.",
                )
            watch(len(units) - len(waiting))
            time.sleep(_LOOK_SECONDS)
        round_.join()

    def _executor(self, step: Any, tasks: int, logs: Path) -> Any:
        workers = min(self._workers, tasks)
        if self._config.executor is Executor.DATATROVE:
            from datatrove.executor import LocalPipelineExecutor

            return LocalPipelineExecutor([step], tasks, workers, logging_dir=str(logs), start_method="spawn")
        if self._config.executor is Executor.RAY:
            from datatrove.executor.ray import RayPipelineExecutor

            self._start_ray()
            # Memory is left to the operating system: a reservation of datatrove's 2 GB a core would idle cores.
            return RayPipelineExecutor([step], tasks, workers, logging_dir=str(logs), mem_per_cpu_gb=0.25)
        return self._slurm_executor(step, tasks, workers, logs)

    def _slurm_executor(self, step: Any, tasks: int, workers: int, logs: Path) -> Any:
        from datatrove.executor import SlurmPipelineExecutor

        slurm = self._config.slurm
        return SlurmPipelineExecutor(
            [step],
            tasks,
            slurm.time_limit,
            slurm.partition,
            workers=workers,
            mem_per_cpu_gb=slurm.gigabytes_per_core,
            job_name="sam2-data",
            qos=slurm.quality_of_service,
            venv_path=f"{sys.prefix}/bin/activate",
            sbatch_args=dict(slurm.sbatch_options),
            logging_dir=str(logs),
            requeue=False,
        )

    def _start_ray(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # Ray listens on every interface and hears only who holds the token it keeps in the user's home
        # (its default since 2.60; see its security documentation).
        import ray

        if ray.is_initialized():
            return
        local = self._config.ray_address == "local"
        options: dict[str, Any] = {"num_cpus": self._workers, "include_dashboard": False} if local else {}
        try:
            ray.init(
                address=self._config.ray_address,
                log_to_driver=False,
                logging_level=logging.WARNING,
                **options,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigurationError(
                f"Ray at '{self._config.ray_address}' cannot be reached: {error}.",
                "start it with `ray start`, correct `execution.ray_address`, or use `local`.",
            ) from error
        self._started_ray = True


class _SignsOfLife:
    """Watches the files in which running tasks count up, by this machine's clock alone."""

    def __init__(self, directory: Path, silence_seconds: float) -> None:
        self._directory = directory
        self._silence_seconds = silence_seconds
        self._last: dict[str, tuple[str, float]] = {}
        self._looked = 0.0

    def one_is_silent(self) -> bool:
        """Whether a running task has not counted up for too long."""
        now = time.monotonic()
        if now - self._looked < _SIGN_SECONDS:
            return False
        self._looked = now
        signs = self._directory.iterdir() if self._directory.is_dir() else ()
        counts = {path.name: _read(path) for path in signs}
        # A file that is gone belongs to a task that ended.
        self._last = {
            name: self._last[name] if name in self._last and self._last[name][0] == count else (count, now)
            for name, count in counts.items()
        }
        return any(now - since > self._silence_seconds for _, since in self._last.values())


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


class _Round:
    """One executor at work: local and Ray ones block, so they run in a thread; Slurm's returns and is asked about."""

    def __init__(self, executor: Any, config: ExecutionConfig) -> None:
        self._executor = executor
        self._config = config
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="datatrove executor", daemon=True)
        self._asked = 0.0
        self._job_lives = True

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def has_ended(self) -> bool:
        """Whether no unit can be running any more."""
        if self._thread.is_alive():
            return False
        if self._config.executor is not Executor.SLURM or self._error is not None:
            return True
        if self._job_lives and time.monotonic() - self._asked > self._config.slurm.poll_seconds:
            self._job_lives = _is_queued(str(self._executor.job_id))
            self._asked = time.monotonic()
        return not self._job_lives

    def explanation(self) -> str:
        """What the executor said when it failed."""
        return f" ({type(self._error).__name__}: {self._error})" if self._error is not None else ""

    def _run(self) -> None:
        try:
            self._executor.run()
        except Exception as error:  # noqa: BLE001 - kept and raised as part of the round's error
            self._error = error


def _is_queued(job: str) -> bool:
    """Whether squeue still lists the job (pending, running or completing)."""
    answer = subprocess.run(["squeue", "--noheader", f"--jobs={job}"], capture_output=True, text=True, check=False)
    return answer.returncode == 0 and bool(answer.stdout.strip())


def _require_packages(executor: Executor) -> None:
    needed = {"datatrove"} | ({"ray"} if executor is Executor.RAY else set())
    missing = sorted(name for name in needed if importlib.util.find_spec(name) is None)
    if missing:
        raise ConfigurationError(
            f"execution.executor '{executor}' needs {' and '.join(missing)}, which is not installed.",
            "pip install 'sam2-pipeline[scale]', or use `processes`.",
        )
    if executor is Executor.SLURM and shutil.which("sbatch") is None:
        raise ConfigurationError(
            f"execution.executor 'slurm' needs sbatch, which '{socket.gethostname()}' does not have.",
            "start the run on a login node of the cluster.",
        )
