"""A process for each measurement: its peak of memory is its own, and its end is not the stage's.

`python -m tasks.quantization.processes PLAN` imports what all measurements need once, then forks for each job of the
plan and reports how it ended, as events on its output. The forking process computes nothing itself, so it has no
threads that a fork could leave behind.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from infra.errors import PipelineError
from infra.processes import EVENT_PREFIX, run_streaming
from model import ModelError
from tasks.quantization.measuring import Figures, Job, MeasuringPlan, measure

#: Signals by which somebody stops a run; any other end of a measuring process is the format's.
_STOPS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_SHOWN_LINES = 3

OnResult = Callable[[str, Figures], None]


def run_plan(plan: MeasuringPlan, path: Path, on_result: OnResult, watch: Callable[[str], None]) -> None:
    """Measure all jobs of the plan, which is written to `path`.

    on_result: the job's name and its figures, or what went wrong as `{"problem": reason}`, as soon as it has ended.
    watch: called about once a second with the name of the job that is being measured.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(plan.model_dump_json())
    now = {"job": plan.jobs[0].name}
    lines: list[str] = []

    def on_event(event: dict[str, Any]) -> None:
        now["job"] = event["job"]
        if "figures" not in event:
            lines.clear()
            return
        figures = event["figures"]
        if figures.get("died"):
            shown = f" ({'; '.join(lines[-_SHOWN_LINES:])})" if lines else ""
            figures = {"problem": figures["problem"] + shown}
        on_result(event["job"], figures)

    command = [sys.executable, "-m", "tasks.quantization.processes", str(path)]
    run_streaming(command, lines.append, on_event, watch=lambda: watch(now["job"]))
    path.unlink()


def main() -> None:
    """Fork for every job, one after the other."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leaving Python's way ends the process that measures
    plan = MeasuringPlan.model_validate_json(Path(sys.argv[1]).read_bytes())
    for job in plan.jobs:
        _tell({"job": job.name})
        _tell({"job": job.name, "figures": _measured_apart(plan, job)})


def _tell(event: dict[str, Any]) -> None:
    sys.stdout.write(f"{EVENT_PREFIX}{json.dumps(event)}\n")
    sys.stdout.flush()


def _measured_apart(plan: MeasuringPlan, job: Job) -> Figures:
    """Figures from a process of the job's own, or how it ended. Raises PipelineError when somebody stopped it."""
    forking = multiprocessing.get_context("fork")
    receiver, sender = forking.Pipe(duplex=False)
    process = forking.Process(target=_measure_here, args=(plan, job, sender), daemon=True)
    process.start()
    sender.close()
    with contextlib.closing(receiver):
        figures = next(_received(receiver), None)
    process.join()
    if figures is not None:
        return figures
    code = process.exitcode or 0
    if -code in _STOPS:
        raise PipelineError(f"the process that measured '{job.name}' was stopped.", "run again; it continues there.")
    return {"problem": f"the process that measured it {_ending(code)}", "died": True}


def _received(receiver: Connection) -> Iterator[Figures]:
    with contextlib.suppress(EOFError, ConnectionError):
        yield json.loads(receiver.recv_bytes())


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (": most likely the machine is out of memory" if name == "SIGKILL" else "")


def _measure_here(plan: MeasuringPlan, job: Job, sender: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # where memory runs out, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        figures = measure(plan, job)
    except ModelError as error:
        figures = {"problem": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises on a file is that file's verdict
        figures = {"problem": f"{type(error).__name__}: {error}"}
    sender.send_bytes(json.dumps(figures).encode())
    sender.close()


if __name__ == "__main__":
    main()
