"""The plan for a corpus too large to try: hours, memory and dollars from measured rates.

    python benchmarks/scale_plan.py [--nodes 8] [--network 1.0] [--quality 11]

Rates are MB of text, as it enters a stage, a second and core; the defaults were measured (docs/benchmarks.md), quality
with filters that remove nothing, since FineWeb-Edu has been filtered before. docs/scale_out.md explains every line.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tasks.scale_out.estimate import (
    Cluster,
    CorpusSize,
    IndexMemory,
    StageRate,
    estimate_stage,
    partitions_for,
    spilled_gigabytes,
)

#: Share of the text that reaches each stage, and bytes written for each byte read (compressed Parquet, token ids).
STAGES = {"download": (1.0, 0.4), "quality": (1.0, 0.4), "deduplication": (0.7, 0.5), "tokenization": (0.63, 0.5)}
RATES = {"download": 70.0, "quality": 11.0, "deduplication": 25.0, "tokenization": 30.0}


def main() -> None:
    """Print one line a stage, the totals, and what deduplication needs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, rate in RATES.items():
        parser.add_argument(f"--{name}", type=float, default=rate, help="MB of text a second and core")
    parser.add_argument("--tokens", type=float, default=1.3e12)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--cores", type=int, default=64)
    parser.add_argument("--memory", type=float, default=256.0, help="GB a node")
    parser.add_argument("--price", type=float, default=2.9, help="USD a node-hour")
    parser.add_argument("--network", type=float, default=1.0, help="GB/s a node, to and from storage")
    parser.add_argument("--key-bytes", type=float, default=380.0, help="index on disk per document, bytes")
    parser.add_argument("--resident-bytes", type=float, default=7.0, help="resident per document, bytes")
    arguments = parser.parse_args()
    corpus = CorpusSize(arguments.tokens)
    cluster = Cluster(
        arguments.nodes,
        arguments.cores,
        arguments.memory,
        arguments.price,
        network_gb_per_second_per_node=arguments.network,
    )
    memory = IndexMemory(arguments.key_bytes, arguments.resident_bytes)
    print(f"{corpus.tokens:.3g} tokens = {corpus.text_bytes / 1e12:.2f} TB, {corpus.documents / 1e6:,.0f} M documents")
    print(f"{cluster.nodes} nodes of {cluster.cores_per_node} cores, {cluster.usd_per_node_hour} USD a node-hour")
    print(f"{'stage':16} {'TB':>6} {'core hours':>11} {'hours':>7} {'USD':>8}")
    total_hours = total_usd = 0.0
    for name, (share, writes) in STAGES.items():
        stage = StageRate(name, getattr(arguments, name), share, writes)
        found = estimate_stage(stage, corpus, cluster)
        total_hours, total_usd = total_hours + found.hours, total_usd + found.usd
        bound = "  (network)" if found.network_bound else ""
        print(f"{name:16} {found.terabytes:6.2f} {found.core_hours:11,.0f} {found.hours:7.2f} {found.usd:8,.0f}{bound}")
    print(f"{'all':16} {'':6} {'':11} {total_hours:7.2f} {total_usd:8,.0f}")
    share = STAGES["deduplication"][0]
    per_core = cluster.memory_gb_per_node / cluster.cores_per_node
    print(f"deduplication index on disk {spilled_gigabytes(corpus, memory, share):,.0f} GB; "
          f"{partitions_for(corpus, memory, share, per_core):,} partitions of keys at {per_core:.1f} GB a core; "
          f"resident on the coordinator {corpus.documents * share * memory.resident / 1e9:,.0f} GB")  # fmt: skip


if __name__ == "__main__":
    main()
