"""All storages obey the same contract: local disk, S3 with `If-Match` (moto) and without it (OpenStack Swift)."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import ConfigurationError, StorageFull
from infra.storage import LocalStorage, Storage, open_storage
from infra.storage.local import atomic_file


@pytest.fixture(params=["local", "moto_bucket", "s3_bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(str(tmp_path / "store"))
    return open_storage(f"s3://{request.getfixturevalue(request.param)}/some/prefix")


def test_write_read_list_delete(storage: Storage) -> None:
    storage.write("a/one", b"1")
    storage.write("a/two", b"22")
    storage.write("b/three", b"333")
    assert storage.read("a/two") == b"22"
    assert [(f.key, f.size_bytes) for f in storage.list("a/")] == [("a/one", 1), ("a/two", 2)]
    assert [f.key for f in storage.list()] == ["a/one", "a/two", "b/three"]
    storage.delete("a/one")
    storage.delete("a/one")
    assert not storage.exists("a/one")
    assert storage.exists("a/two")


def test_missing_is_file_not_found(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read("nothing")
    with pytest.raises(FileNotFoundError):
        storage.download("nothing", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_create_is_won_once(storage: Storage) -> None:
    wins: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: wins.append(storage.create("lock", str(n).encode()))) for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(wins) == 1


def test_replace_needs_the_version_it_read(storage: Storage) -> None:
    storage.write("key", b"old")
    _, version = storage.read_versioned("key")
    assert storage.replace("key", b"new", version)
    assert not storage.replace("key", b"other", version)
    assert storage.read("key") == b"new"
    assert not storage.replace("absent", b"x", version)


def test_upload_and_download_are_exact(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(bytes(range(256)) * 5000)
    storage.upload(source, "deep/er/file.bin")
    storage.download("deep/er/file.bin", tmp_path / "copy.bin")
    assert (tmp_path / "copy.bin").read_bytes() == source.read_bytes()


def test_a_prefix_is_a_directory_not_the_beginning_of_a_name(s3_bucket: str) -> None:
    open_storage(f"s3://{s3_bucket}/some/prefix2").write("stranger", b"")
    storage = open_storage(f"s3://{s3_bucket}/some/prefix")
    storage.write("own", b"")
    assert [f.key for f in storage.list()] == ["own"]


def test_listing_is_in_key_order_everywhere(storage: Storage) -> None:
    keys = ["a/x", "a-b/x", "a/b/c", "ä", "z", "a"[:1] + "0", "Z"]
    for key in keys:
        storage.write(key, key.encode())
    assert [f.key for f in storage.list() if not f.key.startswith(".locks")] == sorted(keys, key=str.encode)


def test_only_one_of_many_replaces_a_version(storage: Storage) -> None:
    storage.write("key", b"old")
    _, version = storage.read_versioned("key")
    won: list[int] = []

    def replace(number: int) -> None:
        if storage.replace("key", b"new %d" % number, version):
            won.append(number)

    threads = [threading.Thread(target=replace, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read("key") == b"new %d" % won[0]
    left = [f.key for f in storage.list() if not f.key.startswith(".locks")]
    assert left == ["key"], "no claims or probes stay behind"


def test_delete_many_and_empty_files(storage: Storage, tmp_path: Path) -> None:
    for number in range(5):
        storage.write(f"k{number}", b"")
    assert storage.read("k1") == b""
    storage.download("k1", tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""
    storage.delete_many(["k0", "k1", "k2", "not there"])
    assert [f.key for f in storage.list("k")] == ["k3", "k4"]


def test_unknown_scheme_names_the_fix() -> None:
    with pytest.raises(ConfigurationError, match="s3://bucket/prefix"):
        open_storage("ftp://somewhere")
    with pytest.raises(ConfigurationError, match="names no bucket"):
        open_storage("s3://")


def test_failed_atomic_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(path) as stream:
        stream.write(b"half of the new")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "full"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"cannot mount a small tmpfs here: {made.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_full_disk_is_one_clear_error_and_keeps_what_was_there(full_disk: Path) -> None:
    storage = LocalStorage(full_disk / "store")
    storage.write("kept", b"x" * 1000)
    with pytest.raises(StorageFull, match="SAM2_HOME"):
        storage.write("big", b"x" * 600_000)
    assert storage.read("kept") == b"x" * 1000
    assert [f.key for f in storage.list() if not f.key.startswith(".locks")] == ["kept"]
