"""Units over processes: order, markers, errors and lost workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.artifacts import StageConfig, StageContext
from infra.artifacts.shards import ShardMarkers
from infra.errors import ConfigurationError, PipelineError
from infra.storage.local import LocalStorage
from tasks.sharded_work import ProgressSpan, ShardWorkers, UnitOutput, largest_first

SPAN = ProgressSpan("copying", 0.2, 0.8)


@dataclass(frozen=True)
class Unit:
    """Copy `source` to `target`, or do what its first word says."""

    source: Path
    target: Path


def work(unit: Unit) -> UnitOutput:
    text = unit.source.read_text()
    if text.startswith("refuse"):
        raise ConfigurationError("the file is refused.", "write another.")
    if text.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    unit.target.write_text(text)
    return UnitOutput((unit.target,), {"bytes": len(text), "main": getattr(sys.modules["__main__"], "MARK", "none")})


@pytest.fixture
def context(tmp_path: Path) -> StageContext[StageConfig]:
    directory = tmp_path / "artifact"
    directory.mkdir()
    return StageContext(StageConfig(), {}, directory, ShardMarkers(directory, LocalStorage(tmp_path), "artifact"))


def units(context: StageContext[StageConfig], **texts: str) -> dict[str, Unit]:
    made = {}
    for name, text in texts.items():
        source = context.directory.parent / f"{name}.txt"
        source.write_text(text)
        made[name] = Unit(source, context.directory / name)
    return made


def test_results_come_in_the_given_order_from_any_number_of_workers(context: StageContext[StageConfig]) -> None:
    given = units(context, a="x", b="x" * 3000, c="x" * 200, d="")
    for workers in (1, 2):
        with ShardWorkers(context, workers) as pool:
            figures = pool.run(ProgressSpan(f"copying by {workers}"), given, work)
        assert list(figures) == list(given)
        assert [figure["bytes"] for figure in figures.values()] == [1, 3000, 200, 0]


def test_units_with_the_largest_input_start_first(context: StageContext[StageConfig]) -> None:
    given = units(context, a="x", b="x" * 3000, c="x" * 200, d="x" * 200)
    assert largest_first(given) == ["b", "c", "d", "a"]
    assert largest_first({"m": 1, "n": "plain"}) == ["m", "n"]
    assert largest_first({"few": [given["a"].source], "many": [each.source for each in given.values()]})[0] == "many"


def test_only_unfinished_units_run_again(context: StageContext[StageConfig]) -> None:
    given = units(context, a="first", b="second")
    with ShardWorkers(context, 1) as pool:
        pool.run(SPAN, given, work)
        given["a"].source.write_text("changed")
        given["b"].target.unlink()
        given["b"].source.write_text("changed")
        figures = pool.run(SPAN, given, work)
    assert [figure["bytes"] for figure in figures.values()] == [5, 7]
    assert given["a"].target.read_text() == "first"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_units_error_arrives_with_its_fix(context: StageContext[StageConfig], workers: int) -> None:
    given = units(context, a="fine", b="refuse this " * 100, c="fine")
    with ShardWorkers(context, workers) as pool, pytest.raises(ConfigurationError) as caught:
        pool.run(SPAN, given, work)
    assert (caught.value.problem, caught.value.fix) == ("the file is refused.", "write another.")


def test_a_killed_worker_is_named_and_the_rest_is_kept(context: StageContext[StageConfig]) -> None:
    given = units(context, a="long enough to go first", b="die", c="x")
    with ShardWorkers(context, 2) as pool, pytest.raises(PipelineError, match=r"worker process of 'copying' ended"):
        pool.run(SPAN, given, work)
    given["b"].source.write_text("live")
    with ShardWorkers(context, 2) as pool:
        assert list(pool.run(SPAN, given, work)) == ["a", "b", "c"]


def test_workers_do_not_run_the_main_module_again(tmp_path: Path) -> None:
    """The script has no `if __name__` guard: a worker that imported it would start workers of its own."""
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).resolve().parents[2])]!r}
from pathlib import Path
from infra.artifacts import StageConfig, StageContext
from infra.artifacts.shards import ShardMarkers
from infra.storage.local import LocalStorage
from tasks.sharded_work import ProgressSpan, ShardWorkers
from test_sharded_work import Unit, work
MARK = "imported"
root = Path({str(tmp_path)!r})
(root / "in").write_text("x")
markers = ShardMarkers(root, LocalStorage(root), "")
with ShardWorkers(StageContext(StageConfig(), {{}}, root, markers), 2) as pool:
    figures = pool.run(ProgressSpan("a"), {{n: Unit(root / "in", root / n) for n in "bc"}}, work)
print(sorted(figure["main"] for figure in figures.values()))
"""
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout.strip() == "['none', 'none']", result.stderr
