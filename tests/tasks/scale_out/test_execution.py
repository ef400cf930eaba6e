"""Units of work on datatrove's executors, run for real."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.errors import ConfigurationError, PipelineError, SourceError
from tasks.scale_out import ExecutionConfig, Executor, UnitExecution
from tasks.scale_out.config import SlurmSettings
from tasks.work_units import UnitOutput

pytest.importorskip("datatrove", reason="the `scale` extra is not installed")


@pytest.fixture(autouse=True)
def _workers_can_import_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@dataclass(frozen=True)
class Square:
    number: int
    path: Path


def square(unit: Square) -> UnitOutput:
    unit.path.write_text(str(unit.number**2))
    return UnitOutput((unit.path,), {"square": unit.number**2, "process": os.getpid()})


def fail_at_three(unit: Square) -> UnitOutput:
    if unit.number == 3:
        raise SourceError("unit three is bad.", "mend it.")
    return square(unit)


def die_at_three(unit: Square) -> UnitOutput:
    if unit.number == 3:
        os._exit(9)
    return square(unit)


def units_in(directory: Path, count: int = 7) -> dict[str, Square]:
    return {f"part/unit-{number}": Square(number, directory / f"{number}.txt") for number in range(count)}


def run_all(config: ExecutionConfig, directory: Path, work: object = square) -> dict[str, UnitOutput]:
    execution = UnitExecution(config, workers=2, directory=directory / "scratch")
    try:
        return dict(execution.run(units_in(directory), work, lambda done: None))  # type: ignore[arg-type]
    finally:
        execution.close()


LOCAL = ExecutionConfig(executor=Executor.DATATROVE)
RAY = ExecutionConfig(executor=Executor.RAY)


@pytest.mark.parametrize("config", [LOCAL, RAY], ids=["local", "ray"])
def test_every_unit_runs_once_on_two_workers(config: ExecutionConfig, tmp_path: Path) -> None:
    if config is RAY:
        pytest.importorskip("ray", reason="the `scale` extra is not installed")
    outputs = run_all(config, tmp_path)
    assert {name: output.statistics["square"] for name, output in outputs.items()} == {
        f"part/unit-{number}": number**2 for number in range(7)
    }
    assert [int((tmp_path / f"{number}.txt").read_text()) for number in range(7)] == [n**2 for n in range(7)]
    assert os.getpid() not in {output.statistics["process"] for output in outputs.values()}
    assert not (tmp_path / "scratch").exists()


def test_units_may_share_a_task(tmp_path: Path) -> None:
    outputs = run_all(ExecutionConfig(executor=Executor.DATATROVE, units_per_task=4), tmp_path)
    assert len(outputs) == 7


def test_a_units_error_arrives_whole(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        run_all(LOCAL, tmp_path, fail_at_three)
    assert caught.value.problem == "unit three is bad."
    assert caught.value.fix == "mend it."


def test_a_worker_that_is_killed_ends_the_round(tmp_path: Path) -> None:
    config = ExecutionConfig(executor=Executor.DATATROVE, silence_seconds=11)
    with pytest.raises(PipelineError, match="part/unit-3"):
        run_all(config, tmp_path, die_at_three)


def test_slurm_needs_a_partition_and_sbatch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="partition"):
        ExecutionConfig(executor=Executor.SLURM)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="sbatch"):
        UnitExecution(ExecutionConfig(executor=Executor.SLURM, slurm=SlurmSettings(partition="all")), 2, tmp_path)


#: Stands in for a cluster: runs the array's tasks one after another on this machine, as slurmd would.
SBATCH = """#!{python}
import os, re, subprocess, sys
script = sys.stdin.read() if len(sys.argv) < 2 or not os.path.isfile(sys.argv[-1]) else open(sys.argv[-1]).read()
open("{log}", "a").write(script)
last = re.search(r"--array=0-(\\d+)", script)
if last is not None and "merge_stats" not in script:
    for task in range(int(last.group(1)) + 1):
        environment = dict(os.environ, SLURM_ARRAY_TASK_ID=str(task), SLURM_NODELIST="localhost", SLURM_NODEID="0")
        subprocess.run(["bash", "-c", script], env=environment, capture_output=True)
print("Submitted batch job 7")
"""


def put(directory: Path, name: str, content: str) -> None:
    path = directory / name
    path.write_text(content)
    path.chmod(0o755)


def test_slurm_jobs_are_submitted_and_awaited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    tools = tmp_path / "bin"
    tools.mkdir()
    put(tools, "sbatch", SBATCH.format(python=sys.executable, log=tmp_path / "scripts"))
    put(tools, "srun", '#!/bin/bash\nwhile [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done\nexec "$@"\n')
    put(tools, "squeue", "#!/bin/bash\n")
    put(tools, "scontrol", "#!/bin/bash\necho localhost\n")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    slurm = SlurmSettings(partition="all", sbatch_options={"account": "team"}, poll_seconds=0.1)
    config = ExecutionConfig(executor=Executor.SLURM, slurm=slurm, units_per_task=3)
    assert len(run_all(config, tmp_path)) == 7
    script = (tmp_path / "scripts").read_text()
    for line in ("--partition=all", "--account=team", "--array=0-2%2", "launch_pickled_pipeline"):
        assert line in script
