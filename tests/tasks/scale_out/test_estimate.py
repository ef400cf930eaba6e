"""The arithmetic of the plan, against figures worked out by hand."""

from __future__ import annotations

import pytest

from tasks.scale_out.estimate import (
    Cluster,
    CorpusSize,
    IndexMemory,
    StageRate,
    estimate_stage,
    partitions_for,
    spilled_gigabytes,
)

CORPUS = CorpusSize(tokens=1e12, bytes_per_token=4.0, tokens_per_document=1000)
CLUSTER = Cluster(
    nodes=2, cores_per_node=10, memory_gb_per_node=80, usd_per_node_hour=3.0, efficiency=0.5,
    network_gb_per_second_per_node=100.0,
)  # fmt: skip


def test_hours_and_dollars_of_a_stage_bound_by_cores() -> None:
    found = estimate_stage(StageRate("quality", 10.0, 0.5, 1.0), CORPUS, CLUSTER)
    assert found.terabytes == 2.0
    assert found.core_hours == pytest.approx(2e12 / 10e6 / 3600)
    assert found.hours == pytest.approx(found.core_hours / 10)  # 20 cores at half efficiency
    assert found.usd == pytest.approx(found.hours * 6)
    assert not found.network_bound


def test_a_slow_network_decides() -> None:
    slow = Cluster(2, 1000, 80, 3.0, network_gb_per_second_per_node=1.0)
    found = estimate_stage(StageRate("quality", 100.0, 1.0, 0.5), CORPUS, slow)
    assert found.network_bound
    assert found.hours == pytest.approx(4e12 * 1.5 / 2e9 / 3600)


def test_partitions_fit_a_worker_three_times() -> None:
    memory = IndexMemory(keys_on_disk=200, resident=100)
    assert spilled_gigabytes(CORPUS, memory, 1.0) == pytest.approx(200)
    assert partitions_for(CORPUS, memory, 1.0, 8.0) == 75
