"""Work spread over processes, shard by shard: finished shards are kept, results do not depend on the number.

A unit of work is a picklable value with a name taken from the data it covers. The worker writes the
unit's files; this process sets the completion marker. Killed at any moment and started again, only
unfinished units run. Units that read the largest files start first (Graham 1969, longest processing time
first), so that the workers end together.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import ModuleType
from typing import Any

from infra.artifacts import StageConfig, StageContext, run_argument
from infra.artifacts.builder import SCRATCH_DIRECTORY
from infra.errors import PipelineError
from tasks.scale_out import ExecutionConfig, Executor, UnitExecution
from tasks.work_units import Failure, UnitOutput, UnitT, guarded

_POLL_SECONDS = 1.0
_PRELOADED = "tasks.worker_preload"


class ShardedStageConfig(StageConfig):
    """Config of a stage whose work is cut into shards: how many workers, and where they run."""

    workers: int = run_argument(2, "shards that are worked on at the same time", ge=1)
    execution: ExecutionConfig = run_argument(
        ExecutionConfig(), "where shards are worked on: this machine, or datatrove's local, Ray or Slurm executor"
    )


@dataclass(frozen=True)
class ProgressSpan:
    """The part of a stage's progress bar that a round of units fills, and what it is called."""

    label: str
    start: float = 0.0
    end: float = 1.0

    def at(self, share: float) -> float:
        """Overall fraction when `share` of the units are done."""
        return self.start + (self.end - self.start) * share


class ShardWorkers:
    """The worker processes of one stage, started when first needed and shared by all its rounds."""

    def __init__(self, context: StageContext[Any], workers: int) -> None:
        self._context = context
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._elsewhere: UnitExecution | None = None
        self._execution: ExecutionConfig = getattr(context.config, "execution", ExecutionConfig())
        if workers > 1 and self._execution.executor is Executor.PROCESSES:
            fork_server()

    def __enter__(self) -> ShardWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._elsewhere is not None:
            self._elsewhere.close()

    def run(
        self, span: ProgressSpan, units: Mapping[str, UnitT], work: Callable[[UnitT], UnitOutput]
    ) -> dict[str, dict[str, Any]]:
        """Run `work` on every unit that has no marker yet; return each unit's figures in the given order.

        `work` must be a module-level function. The first error ends the round; finished units keep
        their markers.
        """
        finished: dict[str, dict[str, Any]] = {}
        for name in units:
            statistics = self._context.shards.statistics(_marker(span, name))
            if statistics is not None:
                finished[name] = statistics
        pending = {name: unit for name, unit in units.items() if name not in finished}
        self._report(span, len(finished), len(units))
        for name, output in self._outputs(span, len(units), pending, work):
            self._context.shards.finish(_marker(span, name), output.files, output.statistics)
            finished[name] = output.statistics
            self._report(span, len(finished), len(units))
        return {name: finished[name] for name in units}

    def _report(self, span: ProgressSpan, done: int, total: int) -> None:
        self._context.report(span.at(done / max(total, 1)), f"{span.label}: {done} of {total}", None)

    def _outputs(
        self, span: ProgressSpan, total: int, pending: Mapping[str, UnitT], work: Callable[[UnitT], UnitOutput]
    ) -> Iterator[tuple[str, UnitOutput]]:
        """Finished units as they come."""
        if self._execution.executor is not Executor.PROCESSES:
            yield from self._outputs_from_elsewhere(span, total, pending, work)
            return
        if self._workers <= 1 or len(pending) <= 1:
            for name, unit in pending.items():
                yield name, work(unit)
            return
        names = {self._submit(work, pending[name]): name for name in largest_first(pending)}
        waiting = set(names)
        try:
            while waiting:
                ready, waiting = wait(waiting, _POLL_SECONDS, FIRST_COMPLETED)
                if not ready:
                    # Nothing finished, but this is where a cancellation or a lost lease surfaces.
                    self._report(span, total - len(waiting), total)
                for future in ready:
                    outcome = _result_of(future, span)
                    if isinstance(outcome, Failure):
                        raise outcome.error()
                    yield names[future], outcome
        finally:
            for future in waiting:
                future.cancel()

    def _outputs_from_elsewhere(
        self, span: ProgressSpan, total: int, pending: Mapping[str, UnitT], work: Callable[[UnitT], UnitOutput]
    ) -> Iterator[tuple[str, UnitOutput]]:
        if not pending:
            return
        if self._elsewhere is None:
            scratch = self._context.directory / SCRATCH_DIRECTORY / "execution"
            self._elsewhere = UnitExecution(self._execution, self._workers, scratch)
        before = total - len(pending)
        ordered = {name: pending[name] for name in largest_first(pending)}
        yield from self._elsewhere.run(ordered, work, lambda done: self._report(span, before + done, total))

    def _submit(self, work: Callable[[UnitT], UnitOutput], unit: UnitT) -> Future[UnitOutput | Failure]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers, fork_server(), initializer=_begin_worker, initargs=(dict(os.environ),)
            )
        # A submission may start a process.
        with nullcontext() if "__main__" in (work.__module__, type(unit).__module__) else _main_module_hidden():
            return self._pool.submit(guarded, work, unit)


def fork_server() -> ForkServerContext:
    """Start the process that workers are forked from, unless it runs; it loads what they need meanwhile.

    It is started from scratch, so no thread of this process (Prefect's, say) can leave a lock behind in
    a worker, and ends with this process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    with _main_module_hidden():
        forkserver.ensure_running()
    return context


def _result_of(future: Future[UnitOutput | Failure], span: ProgressSpan) -> UnitOutput | Failure:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise PipelineError(
            f"a worker process of '{span.label}' ended without a word (killed, or out of memory).",
            "run again, with fewer `workers` if memory is short: finished shards are kept.",
        ) from error


def largest_first(units: Mapping[str, Any]) -> list[str]:
    """The names of the units by the size of the existing files in their (dataclass) fields, largest first."""
    return sorted(units, key=lambda name: -_input_bytes(units[name]))


def _input_bytes(unit: Any) -> int:
    values = [getattr(unit, each.name) for each in fields(unit)] if is_dataclass(unit) else [unit]
    paths = [path for value in values for path in (value if isinstance(value, (list, tuple)) else [value])]
    return sum(path.stat().st_size for path in paths if isinstance(path, Path) and path.is_file())


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """New processes import the parent's main module before anything else; of a Prefect run that is Prefect itself.

    Units and their work live in modules of their own, so workers start without it, and two seconds sooner.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _marker(span: ProgressSpan, name: str) -> str:
    return f"{span.label.replace(' ', '-')}/{name}"


def _begin_worker(environment: dict[str, str]) -> None:
    """Take over the parent's environment as it is now, and end when the parent is killed.

    An idle pool worker would wait for ever for a parent that is gone.
    """
    os.environ.clear()
    os.environ.update(environment)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


__all__ = ["ProgressSpan", "ShardWorkers", "ShardedStageConfig", "UnitOutput", "fork_server", "largest_first"]
