"""Work spread over processes, shard by shard: finished shards are kept, results do not depend on the number.

A unit of work is a picklable value with a name taken from the data it covers. The worker writes the
unit's files; this process sets the completion marker. Killed at any moment and started again, only
unfinished units run.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from infra.artifacts import StageContext
from infra.errors import PipelineError

UnitT = TypeVar("UnitT")
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class UnitOutput:
    """What a worker hands back: the files it wrote and its figures (plain JSON)."""

    files: tuple[Path, ...]
    statistics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Failure:
    """A PipelineError on its way between processes (its two-part message does not unpickle by itself)."""

    error_type: type[PipelineError]
    problem: str
    fix: str


@dataclass(frozen=True)
class ProgressSpan(Generic[UnitT]):
    """The part of a stage's progress bar that a round of units fills, and what it is called."""

    label: str
    start: float = 0.0
    end: float = 1.0

    def at(self, share: float) -> float:
        """Overall fraction when `share` of the units are done."""
        return self.start + (self.end - self.start) * share


def run_units(
    context: StageContext[Any],
    units: Mapping[str, UnitT],
    work: Callable[[UnitT], UnitOutput],
    workers: int,
    span: ProgressSpan[Any],
) -> dict[str, dict[str, Any]]:
    """Run `work` on every unit that has no marker yet; return each unit's statistics in the given order.

    `work` must be a module-level function. The first error stops the round; finished units keep
    their markers.
    """
    finished: dict[str, dict[str, Any]] = {}
    for name in units:
        statistics = context.shards.statistics(_marker(span, name))
        if statistics is not None:
            finished[name] = statistics
    pending = {name: unit for name, unit in units.items() if name not in finished}
    _report(context, span, len(finished), len(units))
    for name, output in _outputs(context, span, len(finished), len(units), pending, work, workers):
        context.shards.finish(_marker(span, name), output.files, output.statistics)
        finished[name] = output.statistics
        _report(context, span, len(finished), len(units))
    return {name: finished[name] for name in units}


def _marker(span: ProgressSpan[Any], name: str) -> str:
    return f"{span.label.replace(' ', '-')}/{name}"


def _report(context: StageContext[Any], span: ProgressSpan[Any], done: int, total: int) -> None:
    context.report(span.at(done / max(total, 1)), f"{span.label}: {done} of {total}", None)


def _outputs(
    context: StageContext[Any],
    span: ProgressSpan[Any],
    done: int,
    total: int,
    pending: Mapping[str, UnitT],
    work: Callable[[UnitT], UnitOutput],
    workers: int,
) -> Iterator[tuple[str, UnitOutput]]:
    """Finished units as they come."""
    if workers <= 1 or len(pending) <= 1:
        for name, unit in pending.items():
            yield name, work(unit)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(pending)), multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )
    try:
        names: dict[Future[UnitOutput | _Failure], str] = {
            pool.submit(_guarded, work, unit): name for name, unit in pending.items()
        }
        waiting = set(names)
        while waiting:
            ready, waiting = wait(waiting, _POLL_SECONDS, FIRST_COMPLETED)
            # Also the moment where a cancellation or a lost lease surfaces.
            _report(context, span, done, total)
            for future in ready:
                outcome = future.result()
                if isinstance(outcome, _Failure):
                    raise outcome.error_type(outcome.problem, outcome.fix)
                done += 1
                yield names[future], outcome
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _guarded(work: Callable[[UnitT], UnitOutput], unit: UnitT) -> UnitOutput | _Failure:
    try:
        return work(unit)
    except PipelineError as error:
        return _Failure(type(error), error.problem, error.fix)


def _end_with_parent() -> None:
    """Have this worker end when its parent is killed: an idle pool worker would wait for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
