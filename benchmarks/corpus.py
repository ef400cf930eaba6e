"""The corpus the data benchmarks share: documentation of Debian packages, in many languages, with near-duplicates.

    python benchmarks/corpus.py [--megabytes 220]

Packages are fetched by apt into `.cache/benchmarks/packages` and read by the pipeline's own Debian source; the result
is kept as Parquet beside them. The same packages give the same corpus, whatever the number of processes.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from infra.errors import PipelineError, SourceError
from infra.storage.local import atomic_file
from tasks.download.sources.debian_packages import DebianPackages

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "benchmarks"
SEED = 20261121
DEFAULT_MEGABYTES = 220
#: One package gives at most this share, so that the corpus stays mixed.
LARGEST_SHARE = 0.12
FORMAT = 2

#: Kernel, database, language and tool documentation, handbooks, man pages and help in a dozen languages, and essays.
PACKAGES = (
    "anarchism",
    "apache2-doc",
    "debian-handbook",
    "debian-policy",
    "dict-foldoc",
    "dict-jargon",
    "erlang-doc",
    "exim4-doc-html",
    "git-doc",
    "gnome-user-docs",
    "harden-doc",
    "installation-guide-amd64",
    "libboost1.81-doc",
    "libreoffice-help-de",
    "libreoffice-help-en-us",
    "libreoffice-help-fr",
    "linux-doc-6.1",
    "manpages",
    "manpages-de",
    "manpages-dev",
    "manpages-es",
    "manpages-fr",
    "manpages-ja",
    "manpages-pl",
    "manpages-ru",
    "perl-doc",
    "postfix-doc",
    "postgresql-doc-15",
    "python-django-doc",
    "python3.11-doc",
    "sqlite3-doc",
    "vim-doc",
)


def load_corpus(megabytes: float = DEFAULT_MEGABYTES) -> pa.Table:
    """At least `megabytes` (10^6 bytes of UTF-8) of documents in a fixed random order: columns id, text, source.

    Built on first use, then read from the cache. Raises SourceError when the packages cannot be had or hold less.
    """
    megabytes = math.ceil(megabytes)
    path = CACHE / f"corpus-{_identity(megabytes)}.parquet"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        (CACHE / ".gitignore").write_text("*\n")
        table = build_corpus(megabytes, CACHE / "packages")
        with atomic_file(path) as stream:
            pq.write_table(table, stream, compression="zstd")
    return pq.read_table(path)


def build_corpus(megabytes: int, cache: Path, packages: tuple[str, ...] = PACKAGES) -> pa.Table:
    """Fetch the packages, read them in parallel, shuffle by id, and take documents until the size is reached."""
    source = DebianPackages(name="benchmark", uri="debian://", packages=packages)
    debs = source.fetch(cache)
    workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers) as pool:
        # Large packages first, so that the last process to finish is not the one that began the largest.
        by_size = sorted(debs, key=lambda deb: (-deb.stat().st_size, deb.name))
        tables = list(pool.map(_package_table, by_size))
    table = pa.concat_tables(tables).combine_chunks()
    keys = [hashlib.blake2b(f"{SEED}/{name}".encode(), digest_size=8).digest() for name in table["id"].to_pylist()]
    order = pa.array(sorted(range(len(keys)), key=keys.__getitem__))
    chosen = _take(table.take(order), megabytes * 1_000_000)
    return chosen.combine_chunks()


def describe(table: pa.Table) -> str:
    """Documents and megabytes by source, and a checksum of the whole."""
    sizes = table.append_column("bytes", pc.binary_length(table["text"]))
    rows = sizes.group_by("source").aggregate([("bytes", "count"), ("bytes", "sum")]).sort_by("source").to_pylist()
    lines = [f"{'source':28} {'documents':>9} {'MB':>7}"]
    lines += [f"{row['source']:28} {row['bytes_count']:9,} {row['bytes_sum'] / 1e6:7.1f}" for row in rows]
    total = sum(row["bytes_sum"] for row in rows)
    lines.append(f"{'all':28} {len(table):9,} {total / 1e6:7.1f}")
    return "\n".join([*lines, f"sha256 of ids and texts: {_checksum(table)}"])


def _identity(megabytes: int) -> str:
    content = f"{FORMAT} {SEED} {LARGEST_SHARE} {' '.join(PACKAGES)}"
    return f"{megabytes}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _package_table(deb: Path) -> pa.Table:
    """Documents of one package, those that can be read."""
    source = DebianPackages(name="benchmark", uri=f"debian://{deb.name.partition('_')[0]}")
    records = [record for record in source.records_of(deb) if record.defect is None and record.text.strip()]
    package = deb.name.partition("_")[0]
    return pa.table(
        {
            "id": pa.array([record.origin for record in records], pa.string()),
            "text": pa.array(
                [record.text.encode("utf-8", "replace").decode() for record in records], pa.large_string()
            ),
            "source": pa.array([package] * len(records), pa.string()),
        }
    )


def _take(table: pa.Table, wanted_bytes: int) -> pa.Table:
    """Documents in order until `wanted_bytes` are there, passing over sources that have their share already."""
    sizes = pc.binary_length(table["text"]).to_pylist()
    taken: dict[str, int] = {}
    chosen: list[int] = []
    total = 0
    for row, (name, size) in enumerate(zip(table["source"].to_pylist(), sizes, strict=True)):
        if total >= wanted_bytes:
            break
        if taken.get(name, 0) < LARGEST_SHARE * wanted_bytes:
            taken[name] = taken.get(name, 0) + size
            total += size
            chosen.append(row)
    if total < wanted_bytes:
        raise SourceError(
            f"the packages hold {total / 1e6:.0f} MB of text, less than the {wanted_bytes / 1e6:.0f} wanted.",
            "ask for less, or add packages to PACKAGES.",
        )
    return table.take(pa.array(chosen))


def _checksum(table: pa.Table) -> str:
    digest = hashlib.sha256()
    for name in ("id", "text"):
        for value in _values(table[name]):
            digest.update(value.encode() + b"\0")
    return digest.hexdigest()[:16]


def _values(column: pa.ChunkedArray) -> Iterable[str]:
    for chunk in column.chunks:
        yield from chunk.to_pylist()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--megabytes", type=int, default=DEFAULT_MEGABYTES, help="size of the corpus, 10^6 bytes")
    start = time.perf_counter()
    try:
        table = load_corpus(parser.parse_args().megabytes)
    except PipelineError as error:
        sys.exit(f"corpus: {error}")
    print(describe(table))
    print(f"ready in {time.perf_counter() - start:.0f} s, in {CACHE}")


if __name__ == "__main__":
    main()
