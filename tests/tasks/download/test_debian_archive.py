"""Reading .deb files: every compression, and nothing a hostile one asks for."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import tarfile
import tempfile
import zlib
from pathlib import Path

import pytest
from debian_files import ar_of, deb_of, tar_of
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import SourceError
from tasks.download.sources import debian_archive
from tasks.download.sources.debian_archive import package_members, unpack_gzip

FILES = {"usr/share/doc/sample/README": b"read me", "usr/share/man/man1/x.1": b".TH X 1\n"}


@pytest.mark.parametrize("compression", ["xz", "gz", "zst", ""])
def test_every_compression_gives_the_files_in_order(tmp_path: Path, compression: str) -> None:
    (tmp_path / "a.deb").write_bytes(deb_of(tar_of(FILES), compression))
    found = {member.path: member.data for member in package_members(tmp_path / "a.deb")}
    assert found == FILES
    assert list(found) == list(FILES)


def test_links_devices_and_paths_out_of_the_archive_are_left_out(tmp_path: Path) -> None:
    entries = []
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
        entry = tarfile.TarInfo(f"./usr/share/doc/sample/{number}.txt")
        entry.type, entry.linkname = kind, "/etc/passwd"
        entries.append(entry)
    outside = {"../../etc/passwd.txt": b"x", "usr/../../y.txt": b"y"}
    (tmp_path / "a.deb").write_bytes(deb_of(tar_of(FILES | outside, entries)))
    assert [member.path for member in package_members(tmp_path / "a.deb")] == list(FILES)


def test_a_member_beyond_the_bound_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian_archive, "MAXIMUM_MEMBER_BYTES", 1000)
    (tmp_path / "a.deb").write_bytes(deb_of(tar_of({"big.txt": bytes(5000), "small.txt": b"s"})))
    members = list(package_members(tmp_path / "a.deb"))
    assert [(m.path, m.size_bytes, m.data) for m in members] == [("big.txt", 5000, None), ("small.txt", 1, b"s")]


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian_archive, "MAXIMUM_UNPACKED_BYTES", 1 << 20)
    (tmp_path / "a.deb").write_bytes(deb_of(tar_of({f"{n}.txt": bytes(1 << 19) for n in range(8)})))
    with pytest.raises(SourceError, match=r"a\.deb.*unpacks to more than"):
        list(package_members(tmp_path / "a.deb"))


def test_a_long_name_header_of_gigabytes_is_refused(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 6 << 30
    (tmp_path / "a.deb").write_bytes(deb_of(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))
    with pytest.raises(SourceError, match="tar extension header of 6442450944 bytes"):
        list(package_members(tmp_path / "a.deb"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an archive",
        b"!<arch>\n" + b"x" * 60,
        ar_of([("debian-binary", b"2.0\n")]),
        ar_of([("data.tar.rar", b"?")]),
        ar_of([("data.tar.xz", b"no xz")]),
        ar_of([("data.tar.xz", lzma.compress(tar_of(FILES))[:-60])]),
        ar_of([("data.tar.gz", gzip.compress(tar_of(FILES))[:60])]),
        ar_of([("data.tar.xz", lzma.compress(b"neither is this a tar archive" * 100))]),
    ],
)
def test_a_damaged_package_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.deb").write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.deb' cannot be read"):
        list(package_members(tmp_path / "a.deb"))


@given(st.binary(max_size=300), st.integers(0, 400))
def test_any_bytes_give_members_or_a_source_error(noise: bytes, at: int) -> None:
    whole = deb_of(tar_of(FILES), "")
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(SourceError):
        path = Path(folder) / "a.deb"
        path.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
        assert all(not member.path.startswith(("/", "..")) for member in package_members(path))


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.integers(0, 900))
def test_gzip_is_unpacked_up_to_the_bound(parts: list[bytes], bound: int) -> None:
    packed = b"".join(map(gzip.compress, parts)) + bytes(7)
    whole = b"".join(parts)
    assert unpack_gzip(packed, bound) == (whole if len(whole) <= bound else None)


def test_a_gzip_bomb_costs_no_memory_and_a_short_file_is_an_error() -> None:
    bomb = gzip.compress(bytes(40 << 20))
    assert unpack_gzip(bomb, 1 << 20) is None
    with pytest.raises(EOFError):
        unpack_gzip(gzip.compress(b"x" * 5000)[:-9])
    with pytest.raises(zlib.error):
        unpack_gzip(b"plain text")
