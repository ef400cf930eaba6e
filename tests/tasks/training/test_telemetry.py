"""What an update took: rates, utilisation, memory, waiting, and the time that is left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.sizing import training_flops_per_token
from tasks.training import peak_flops, telemetry
from tasks.training.engine import Placement
from tasks.training.peak_flops import PeakFlops, measured, published
from tasks.training.telemetry import MemoryMeter, Meter, Stopwatch
from tests.tasks.training.conftest import stage_config

CPU = torch.device("cpu")


class FourRanks(Placement):
    """The first of four ranks that all report the same."""

    def sum(self, *values: Any) -> list[float]:
        return [4 * float(value) for value in values]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(telemetry.time, "perf_counter", lambda: now[0])
    return now


def test_utilisation_is_the_models_flops_over_what_all_ranks_could_do() -> None:
    config = stage_config(peak_teraflops=2.0, gradient_checkpointing=True, ranks=4, micro_batch=1)
    meter = Meter(config, FourRanks(0, 4, CPU))
    figures = meter.step(1, 0.5, micro_batch=1)
    needed = config.batch_tokens * training_flops_per_token(config.stage_model, config.context_tokens).total
    assert meter.peak_flops == 8e12
    assert figures["mfu"] == pytest.approx(needed / (0.5 * 8e12), abs=1e-6)
    assert figures["tokens_per_second"] == config.batch_tokens / 0.5
    assert figures["peak_teraflops"] == 8.0
    assert "8 TFLOP/s of all ranks (stated: training.peak_teraflops)" in meter.describe()


def test_time_left_counts_what_happens_between_updates(clock: list[float]) -> None:
    meter = Meter(stage_config(peak_teraflops=1.0), Placement(0, 1, CPU))
    clock[0] += 60  # loading
    meter.started()
    for step in range(1, 5):
        clock[0] += 3.0  # two seconds of update, one of checkpoint or validation
        figures = meter.step(step, 2.0, micro_batch=2)
        assert figures["wall_seconds"] == 3.0
    assert meter.remaining_seconds(4) == pytest.approx((12 - 4) * 3.0)


def test_a_process_first_update_does_not_count_in_the_rate() -> None:
    meter = Meter(stage_config(peak_teraflops=1.0), Placement(0, 1, CPU))
    assert meter.step(1, 32.0, micro_batch=2)["tokens_per_second"] == 8.0
    assert meter.step(2, 1.0, micro_batch=2)["tokens_per_second"] == 256.0
    assert meter.step(3, 3.0, micro_batch=2)["tokens_per_second"] == 128.0


def test_waiting_and_stalls_belong_to_the_update_they_came_before(clock: list[float]) -> None:
    meter = Meter(stage_config(peak_teraflops=1.0), Placement(0, 1, CPU))
    meter.started()
    with meter.data_wait:
        clock[0] += 0.25
    with meter.checkpoint_stall:
        clock[0] += 0.5
    meter.data_wait.add(0.25)
    figures = meter.step(1, 2.0, micro_batch=2, incidents=3)
    assert (figures["data_wait_seconds"], figures["data_wait_share"]) == (0.5, 0.25)
    assert figures["checkpoint_stall_seconds"] == 0.5
    assert (figures["micro_batch"], figures["incidents"]) == (2, 3)
    following = meter.step(2, 2.0, micro_batch=1)
    assert (following["data_wait_seconds"], following["checkpoint_stall_seconds"]) == (0.0, 0.0)


def test_a_stopwatch_counts_blocks_that_fail() -> None:
    watch = Stopwatch()
    with pytest.raises(ValueError), watch:
        raise ValueError
    assert watch.take() > 0 == watch.take()


def test_memory_of_the_host_grows_with_what_is_allocated() -> None:
    meter = MemoryMeter(CPU)
    before = meter.read()
    held = torch.ones(20_000_000)
    after = meter.read()
    meter.close()
    assert after.host - before.host > 0.9 * held.nbytes
    assert after.host_peak >= after.host - 1_000_000 and (after.device, after.device_peak) == (
        after.host,
        after.host_peak,
    )


def test_memory_of_a_gpu_is_what_torch_has_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = {"allocated_bytes": {"all": {"current": 3_000_000_000, "peak": 5_000_000_000}}}
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda device: statistics)
    memory = MemoryMeter(torch.device("cuda", 0)).read()
    assert (memory.device, memory.device_peak) == (3_000_000_000, 5_000_000_000)
    assert memory.host_peak != memory.device_peak


@pytest.mark.parametrize(
    ("name", "precision", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100 80GB PCIe", "tf32", 156),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5),
        ("NVIDIA H100 PCIe", "bf16", 756.5),
        ("NVIDIA H200", "fp32", 67),
        ("NVIDIA B200", "bf16", 2250),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA A10G", "bf16", 70),
        ("NVIDIA A10", "bf16", 125),
        ("NVIDIA GeForce RTX 3090", "bf16", 71),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("Tesla V100-SXM2-16GB", "fp32", 15.7),
        ("Tesla T4", "fp32", 8.1),
        ("AMD Instinct MI300X", "bf16", 1307.4),
    ],
)
def test_published_peaks_are_found_by_the_devices_name(name: str, precision: Any, teraflops: float) -> None:
    found = published(name, precision)
    assert found is not None and found.per_second == pytest.approx(teraflops * 1e12)
    assert "https://" in found.origin


@pytest.mark.parametrize(
    "name",
    ["NVIDIA L40", "NVIDIA T400", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA GB200"],
)
def test_another_device_or_a_part_of_one_has_no_published_peak(name: str) -> None:
    assert published(name, "bf16") is None


def test_a_device_without_bf16_units_is_measured_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100-SXM2-16GB")
    monkeypatch.setattr(peak_flops, "measured", lambda device, precision: PeakFlops(1.0, f"measured {precision}"))
    device = torch.device("cuda", 0)
    assert peak_flops.peak_flops(device, "bf16", None).origin == "measured bf16"
    assert peak_flops.peak_flops(device, "fp32", None).per_second == 15.7e12


def test_tf32_is_the_measure_where_products_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    for allowed, teraflops in ((True, 156e12), (False, 19.5e12)):
        monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=allowed))
        assert peak_flops.peak_flops(torch.device("cuda", 0), "fp32", None).per_second == teraflops


def test_a_cpu_is_measured_once_and_leaves_the_seed_alone() -> None:
    torch.manual_seed(3)
    first = torch.rand(1)
    torch.manual_seed(3)
    measured.cache_clear()
    found = measured(CPU, "fp32")
    assert torch.equal(torch.rand(1), first)
    assert found.per_second > 1e8 and "1024 x 1024" in found.origin
    assert measured(CPU, "fp32") is found
