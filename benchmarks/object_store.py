"""Our S3 transfers against plain boto3's, on one OpenStack Swift server on loopback.

    python benchmarks/object_store.py [MEGABYTES] [ROUNDS]

Every system moves the same file in every round, in turn; the best round counts. Wall-clock is what a user waits for,
but client and server share this machine's cores, so those rates are lower bounds; the CPU time is the client's alone.
Ours also hashes every byte (XXH3-128) before an upload and after a download; the peers compare nothing after a
ranged download.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import boto3.session

from infra.artifacts import ArtifactStore, Stage, StageConfig, StageContext, StageResult, build_stage
from infra.storage import S3Storage, checksum_file
from tests.support.swift_server import SwiftServer, why_not

BUCKET = "benchmark"
SMALL_FILES = 200
SMALL_BYTES = 10_000


@dataclass(frozen=True)
class Seconds:
    """The best round's wall-clock, and the least CPU time of the client."""

    wall: float = float("inf")
    cpu: float = float("inf")


def measured(systems: dict[str, Callable[[], None]], rounds: int) -> dict[str, Seconds]:
    """Each system's seconds; they take turns."""
    seconds = dict.fromkeys(systems, Seconds())
    for _ in range(rounds):
        for name, work in systems.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            seconds[name] = Seconds(min(seconds[name].wall, wall), min(seconds[name].cpu, cpu))
    return seconds


def report(title: str, megabytes: float, seconds: dict[str, Seconds]) -> None:
    """One line a system; the ratio is its seconds over ours."""
    ours = seconds["ours"]
    print(f"\n{title} ({megabytes:.0f} MB)")
    for name, taken in seconds.items():
        print(
            f"  {name:<34} {megabytes / taken.wall:8.1f} MB/s {taken.wall / ours.wall:6.2f}x   "
            f"client CPU {taken.cpu:7.3f} s {taken.cpu / ours.cpu:6.2f}x"
        )


def large_file(directory: Path, megabytes: int, rounds: int) -> None:
    client = boto3.session.Session().client("s3")
    storage = S3Storage(BUCKET, "ours")
    source, copy = directory / "source", directory / "copy"
    with source.open("wb") as stream:
        for _ in range(megabytes):
            stream.write(os.urandom(1_000_000))
    wanted = checksum_file(source)

    def whole_body() -> None:
        with copy.open("wb") as stream:
            shutil.copyfileobj(client.get_object(Bucket=BUCKET, Key="peer")["Body"], stream, 1 << 20)

    uploads = {
        "ours": lambda: storage.upload(source, "file"),
        "boto3 upload_file": lambda: client.upload_file(str(source), BUCKET, "peer"),
    }
    downloads = {
        "ours": lambda: storage.download("file", copy),
        "boto3 download_file": lambda: client.download_file(BUCKET, "peer", str(copy)),
        "boto3 get_object, one stream": whole_body,
    }
    report("Upload of one file", megabytes, measured(uploads, rounds))
    report("Download of one file", megabytes, measured(downloads, rounds))
    storage.download("file", copy)
    assert checksum_file(copy) == wanted


class FilesConfig(StageConfig):
    count: int = SMALL_FILES


def small_files(directory: Path, rounds: int) -> None:
    """An artifact of many small files: published, then fetched by a second machine."""
    client = boto3.session.Session().client("s3")
    source = directory / "small"
    source.mkdir()
    names = [f"{number:05d}" for number in range(SMALL_FILES)]
    for name in names:
        (source / name).write_bytes(os.urandom(SMALL_BYTES))
    numbers = iter(range(1_000_000))

    def write(context: StageContext[FilesConfig]) -> StageResult:
        for name in names:
            shutil.copy(source / name, context.directory / name)
        return StageResult()

    stage = Stage("small", "small", 1, FilesConfig, write)

    def publish() -> None:
        uri = f"s3://{BUCKET}/artifacts-{next(numbers)}"
        build_stage(stage, FilesConfig(), {}, ArtifactStore.open(uri, directory / f"cache-{next(numbers)}"))

    def fetch() -> None:
        store = ArtifactStore.open(f"s3://{BUCKET}/artifacts-0", directory / f"cache-{next(numbers)}")
        assert build_stage(stage, FilesConfig(), {}, store).reused

    def put_each() -> None:
        for name in names:
            client.upload_file(str(source / name), BUCKET, f"small/{name}")

    def get_each() -> None:
        for name in names:
            client.download_file(BUCKET, f"small/{name}", str(directory / "one"))

    megabytes = SMALL_FILES * SMALL_BYTES / 1e6
    title = f"{SMALL_FILES} files of {SMALL_BYTES / 1000:.0f} kB"
    published = measured({"ours": publish, "boto3 upload_file, one by one": put_each}, rounds)
    report(f"{title}: publishing, with lease and manifest", megabytes, published)
    fetched = measured({"ours": fetch, "boto3 download_file, one by one": get_each}, rounds)
    report(f"{title}: fetching and verifying", megabytes, fetched)


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        reason = why_not(directory)
        if reason is not None:
            sys.exit(f"OpenStack Swift cannot run here: {reason}.")
        server = SwiftServer.start(directory / "swift")
        try:
            os.environ.update(server.environment())
            boto3.session.Session().client("s3").create_bucket(Bucket=BUCKET)
            large_file(directory, megabytes, rounds)
            small_files(directory, rounds)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
