"""What a corpus costs to process: hours, memory and dollars from measured rates, on paper before anything is rented.

The rates are those of the benchmarks (docs/benchmarks.md), each measured on one core of the machine
named there; `Cluster.core_speed` says how much faster or slower a rented core is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_BYTES_PER_GB = 1e9
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class CorpusSize:
    """What comes in. tokens: of the final tokenizer; bytes_per_token: UTF-8 text."""

    tokens: float
    bytes_per_token: float = 4.2
    tokens_per_document: float = 1000.0

    @property
    def text_bytes(self) -> float:
        """Bytes of UTF-8 text."""
        return self.tokens * self.bytes_per_token

    @property
    def documents(self) -> float:
        """Documents."""
        return self.tokens / self.tokens_per_document


@dataclass(frozen=True)
class Cluster:
    """What is rented. core_speed: relative to the benchmarks' machine; efficiency: share of it that scale-out keeps."""

    nodes: int
    cores_per_node: int
    memory_gb_per_node: float
    usd_per_node_hour: float
    core_speed: float = 1.0
    efficiency: float = 0.85
    network_gb_per_second_per_node: float = 1.5

    @property
    def cores(self) -> int:
        """All cores."""
        return self.nodes * self.cores_per_node


@dataclass(frozen=True)
class StageRate:
    """A stage's measured rate. text_share: part of the corpus it gets; writes: bytes written per byte of text."""

    name: str
    megabytes_per_core_second: float
    text_share: float
    writes: float


@dataclass(frozen=True)
class StageEstimate:
    """What one stage costs. hours: wall clock, bounded by cores or by the network, whichever is slower."""

    name: str
    terabytes: float
    core_hours: float
    hours: float
    network_bound: bool
    usd: float


@dataclass(frozen=True)
class IndexMemory:
    """What deduplication holds per document, bytes. keys: band keys on disk; resident: figures kept in memory."""

    keys_on_disk: float
    resident: float


def estimate_stage(rate: StageRate, corpus: CorpusSize, cluster: Cluster) -> StageEstimate:
    """Cost of one stage over the corpus on the cluster."""
    text = corpus.text_bytes * rate.text_share
    core_seconds = text / (rate.megabytes_per_core_second * 1e6 * cluster.core_speed)
    by_cores = core_seconds / (cluster.cores * cluster.efficiency)
    by_network = text * (1 + rate.writes) / (cluster.network_gb_per_second_per_node * _BYTES_PER_GB * cluster.nodes)
    hours = max(by_cores, by_network) / _SECONDS_PER_HOUR
    return StageEstimate(
        rate.name,
        text / 1e12,
        core_seconds / _SECONDS_PER_HOUR,
        hours,
        by_network > by_cores,
        hours * cluster.nodes * cluster.usd_per_node_hour,
    )


def spilled_gigabytes(corpus: CorpusSize, memory: IndexMemory, share: float) -> float:
    """Band keys on disk for the documents that reach deduplication, GB."""
    return corpus.documents * share * memory.keys_on_disk / _BYTES_PER_GB


def partitions_for(corpus: CorpusSize, memory: IndexMemory, share: float, gigabytes_per_worker: float) -> int:
    """Into how many parts the band keys must be cut so that sorting one fits a worker (three copies while sorting)."""
    return max(1, math.ceil(3 * spilled_gigabytes(corpus, memory, share) / gigabytes_per_worker))
