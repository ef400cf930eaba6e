"""Profiles: which updates, what is written, and when a slow one asks for the next."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from infra.errors import StorageFull
from tasks.training import profiling
from tasks.training.engine import Placement
from tasks.training.profile_steps import parse_steps
from tasks.training.profiling import SlowStep, SlowStepDetector, StepProfiler, read_profiles, top_operators
from tests.tasks.training.conftest import stage_config

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "steps"),
    [("10", [[10]]), ("10-12", [[10, 11, 12]]), (" 50 - 51 ,10", [[10], [50, 51]]), ("", []), ("3-3", [[3]])],
)
def test_updates_to_profile_are_numbers_and_ranges(text: str, steps: list[list[int]]) -> None:
    assert [list(part) for part in parse_steps(text)] == steps


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10-", "neither an update nor a range"),
        ("ten", "neither an update nor a range"),
        ("1,,2", "neither an update nor a range"),
        ("12-10", "no range of updates"),
        ("0-3", "counted from 1"),
        ("1-5,4", "names update 4 twice"),
    ],
)
def test_a_mistake_in_them_is_refused_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        stage_config(profile_steps=text)


def test_a_single_update_may_be_a_number_and_profiling_is_no_part_of_the_result() -> None:
    config = stage_config(profile_steps=7)
    assert config.profile_steps == "7"
    assert config.identity() == stage_config(slow_step_profiles=0, peak_teraflops=3.0).identity()


def slow_among(detector: SlowStepDetector, seconds: list[float]) -> list[SlowStep]:
    return [found for step, value in enumerate(seconds, 1) if (found := detector.observe(step, value)) is not None]


def test_an_update_far_above_the_median_is_slow() -> None:
    (found,) = slow_among(SlowStepDetector(3.0, 1.0), [1.0, 1.1] * 10 + [5.0] + [1.0] * 10)
    assert found == SlowStep(step=21, seconds=5.0, usual_seconds=1.05, window=20)
    assert found.describe() == "update 21 took 5 s, usually 1.05 s (median of the last 20)"


@pytest.mark.parametrize(
    ("seconds", "why"),
    [
        ([1.0] * 9 + [50.0], "too few updates to know what is usual"),
        ([1.0] * 20 + [2.9], "below the factor"),
        ([0.1] * 20 + [0.9], "less than the least seconds above the usual"),
        ([1.0, 2.0, 3.0, 4.0, 5.0] * 4 + [10.0], "the updates differ as much by themselves"),
    ],
)
def test_an_update_is_not_slow(seconds: list[float], why: str) -> None:
    assert slow_among(SlowStepDetector(3.0, 1.0), seconds) == [], why


def test_a_lasting_slow_down_becomes_the_usual() -> None:
    found = slow_among(SlowStepDetector(3.0, 1.0), [1.0] * 50 + [10.0] * 100)
    assert [slow.step for slow in found] == list(range(51, 51 + len(found)))
    assert len(found) <= 26, "half a window"


def work() -> None:
    matrix = torch.ones(64, 64, requires_grad=True)
    (matrix @ matrix).sum().backward()


def run_updates(profiler: StepProfiler, steps: range, seconds: dict[int, float] | None = None) -> None:
    for step in steps:
        with profiler.around(step):
            work()
        for thread in threading.enumerate():
            if thread.name == "profile writer":
                thread.join()  # updates this short would be over before the profile is written
        profiler.observe(step, (seconds or {}).get(step, 1.0))


def test_chosen_updates_are_written_as_trace_and_tables(tmp_path: Path) -> None:
    said: list[str] = []
    config = stage_config(profile_steps="2-3,5,40")
    profiler = StepProfiler(config, Placement(0, 1, CPU), tmp_path, say=said.append)
    run_updates(profiler, range(1, 8))
    profiler.close()
    directory = tmp_path / "profiles"
    assert sorted(path.name for path in directory.iterdir()) == [
        "update-2-3.operators.json", "update-2-3.trace.json.gz", "update-2-3.txt",
        "update-5.operators.json", "update-5.trace.json.gz", "update-5.txt",
    ]  # fmt: skip
    assert said[0] == "profile_steps: update 40 is beyond the stage's 12"
    assert said[1] == "updates 2 to 3 profiled: chosen by profile_steps; profiles/update-2-3.trace.json.gz"
    trace = json.loads(gzip.decompress((directory / "update-2-3.trace.json.gz").read_bytes()))
    products = [event for event in trace["traceEvents"] if event.get("name") == "aten::mm"]
    assert len(products) == 2 * 3, "two updates of a forward and two backward products"
    both, one = read_profiles(tmp_path)
    for profile in (both, one):
        row = next(row for row in profile["operators"] if row["operator"] == "aten::mm")
        assert row["calls"] == 3 and row["gflop"] == pytest.approx(3 * 2 * 64**3 / 1e9, abs=1e-3)
    assert 0 < sum(row["own_share"] for row in one["operators"]) <= 1.001
    assert "aten::mm" in (directory / "update-5.txt").read_text()


def test_the_update_after_a_slow_one_is_profiled_with_the_reason_so_many_times(tmp_path: Path) -> None:
    slow: list[SlowStep] = []
    config = stage_config(slow_step_profiles=2, slow_step_seconds=1.0, tokens=100 * 256)
    profiler = StepProfiler(config, Placement(0, 1, CPU), tmp_path, on_slow=slow.append)
    run_updates(profiler, range(1, 50), {20: 9.0, 21: 9.0, 30: 8.0, 40: 8.0})
    profiler.close()
    assert [found.step for found in slow] == [20, 30, 40], "a profiled update is slow by itself"
    assert [found.action for found in slow] == [
        "update 21 is profiled", "update 31 is profiled", "the stage has its profiles already"
    ]  # fmt: skip
    assert [profile["title"] for profile in read_profiles(tmp_path)] == [
        f"update {step} profiled: update {step - 1} took {seconds} s, usually 1 s (median of the last {window})"
        for step, seconds, window in ((21, 9, 19), (31, 8, 28))
    ]
    again = StepProfiler(config, Placement(0, 1, CPU), tmp_path)
    run_updates(again, range(50, 80), {70: 9.0})
    assert len(read_profiles(tmp_path)) == 2, "all attempts at a stage share the limit"


def test_training_goes_on_while_a_profile_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write = threading.Event()
    real = profiling.write_profile

    def wait_and_write(*arguments: Any, **options: Any) -> Path:
        may_write.wait()
        return real(*arguments, **options)

    monkeypatch.setattr(profiling, "write_profile", wait_and_write)
    said: list[str] = []
    slow: list[SlowStep] = []
    config = stage_config(profile_steps="30,60", slow_step_seconds=1.0, tokens=100 * 256)
    profiler = StepProfiler(config, Placement(0, 1, CPU), tmp_path, on_slow=slow.append, say=said.append)
    for step in range(1, 51):
        with profiler.around(step):
            pass
        profiler.observe(step, 9.0 if step in (29, 40) else 1.0)
    assert said == [] and [found.step for found in slow] == [29], "an update beside a writer is no measure"
    may_write.set()
    profiler.close()
    assert said == ["update 30 profiled: chosen by profile_steps; profiles/update-30.trace.json.gz"]


def test_profiles_may_follow_each_other_while_the_first_is_written(tmp_path: Path) -> None:
    said: list[str] = []
    profiler = StepProfiler(stage_config(profile_steps="2,3,4,5"), Placement(0, 1, CPU), tmp_path, say=said.append)
    for step in range(1, 8):
        with profiler.around(step):
            work()
        profiler.observe(step, 1.0)
    profiler.close()
    assert len(said) == 4 and not any("could not" in text for text in said)
    for profile in read_profiles(tmp_path):
        assert next(row for row in profile["operators"] if row["operator"] == "aten::mm")["calls"] == 3


def test_an_update_that_fails_leaves_its_profile_and_its_error(tmp_path: Path) -> None:
    profiler = StepProfiler(stage_config(profile_steps="3-6"), Placement(0, 1, CPU), tmp_path)
    run_updates(profiler, range(1, 4))
    with pytest.raises(ZeroDivisionError), profiler.around(4):
        work()
        raise ZeroDivisionError
    profiler.close()
    assert [profile["title"] for profile in read_profiles(tmp_path)] == [
        "updates 3 to 4 profiled: chosen by profile_steps"
    ]
    run_updates(profiler, range(2, 12))
    assert len(read_profiles(tmp_path)) == 1, "not again after going back"


def test_a_stage_that_ends_or_resumes_within_a_range_profiles_what_it_trains(tmp_path: Path) -> None:
    profiler = StepProfiler(stage_config(profile_steps="3-6"), Placement(0, 1, CPU), tmp_path)
    run_updates(profiler, range(5, 6))
    profiler.close()
    assert (tmp_path / "profiles/update-5.txt").exists()


def test_other_ranks_and_idle_updates_cost_nothing(tmp_path: Path) -> None:
    other = StepProfiler(stage_config(profile_steps="1-3"), Placement(1, 2, CPU), tmp_path)
    run_updates(other, range(1, 30), {25: 100.0})
    assert list(tmp_path.iterdir()) == []
    idle = StepProfiler(stage_config(profile_steps="3"), Placement(0, 1, CPU), tmp_path)
    assert idle.around(1) is idle.around(2)


def test_a_disk_without_room_costs_the_profile_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise StorageFull("no space left.", "free some.")

    said: list[str] = []
    monkeypatch.setattr(profiling, "write_profile", refuse)
    profiler = StepProfiler(stage_config(profile_steps="1"), Placement(0, 1, CPU), tmp_path, say=said.append)
    run_updates(profiler, range(1, 4))
    assert "could not be written: no space left" in said[0]


class Event:
    """One operator as torch's profiler tells it; times in microseconds, memory in bytes."""

    def __init__(self, key: str, cpu: float, cuda: float) -> None:
        self.key, self.count, self.flops = key, 4, 0
        self.self_cpu_time_total, self.self_device_time_total = cpu, cuda
        self.self_cpu_memory_usage, self.self_device_memory_usage = 1_000_000, 8_000_000


def test_on_a_gpu_operators_are_ranked_by_the_gpus_time() -> None:
    events = [Event("aten::copy_", 900.0, 100.0), Event("aten::mm", 50.0, 300.0), Event("ProfilerStep#1", 9e9, 9e9)]
    rows = top_operators(events, 2, on_cuda=True)
    assert [(row["operator"], row["own_share"], row["own_ms"], row["allocated_mb"]) for row in rows] == [
        ("aten::mm", 0.75, 0.15, 4.0), ("aten::copy_", 0.25, 0.05, 4.0),
    ]  # fmt: skip
    assert top_operators(events, 2, on_cuda=False)[0]["operator"] == "aten::copy_"


def test_a_gpu_is_profiled_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By recorded calls: there is no GPU here."""
    asked: dict[str, Any] = {}

    class Recorded:
        def __init__(self, **options: Any) -> None:
            asked.update(options)

        def start(self) -> None:
            asked["started"] = True

    monkeypatch.setattr(torch.profiler, "profile", Recorded)
    profiler = StepProfiler(stage_config(profile_steps="1-2"), Placement(0, 1, torch.device("cuda", 0)), tmp_path)
    with profiler.around(1):
        pass
    assert asked["started"] and torch.profiler.ProfilerActivity.CUDA in asked["activities"]
