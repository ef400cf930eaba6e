"""`debian://` sources: fetched by apt or from a mirror, licences per package, defects set aside."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from artifact_rows import document_rows
from debian_files import COPYRIGHT, write_deb
from pydantic import ValidationError

from infra.artifacts import Artifact
from infra.errors import SourceError
from tasks.download.formats import Record
from tasks.download.sources import DebianPackages, source_type_of
from tasks.download.sources.debian_packages import stated_licences
from tasks.download.sources.source import LicensedRecord, licence_of

FILES = {
    "usr/share/doc/sample/copyright": COPYRIGHT.encode(),
    "usr/share/doc/sample/changelog.gz": gzip.compress(b"old news"),
    "usr/share/doc/sample/README": b"Read me first.",
    "usr/share/doc/sample/guide.html.gz": gzip.compress(b"<p>A guide.</p>"),
    "usr/share/doc/sample/damaged.txt.gz": gzip.compress(b"x" * 500)[:-10],
    "usr/share/doc/sample/latin.txt": b"caf\xe9",
    "usr/share/doc/sample/program": b"\x7fELF\0\0",
    "usr/share/man/man1/sample.1": b".TH SAMPLE 1\n.SH NAME\nsample \\- a sample\n",
    "usr/bin/sample": b"not documentation",
}


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `apt-get` that copies packages from a folder, and logs its arguments."""
    folder = tmp_path / "archive"
    write_deb(folder, FILES)
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(
        f"""#!/bin/sh
echo "$*" >> {tmp_path}/apt.log
for package; do :; done
case $package in
  sample|sample=1.0-1|other) cp {folder}/*.deb . ;;
  *) echo "E: Unable to locate package $package" >&2; exit 100 ;;
esac
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return folder


def test_documents_defects_and_licence_of_a_package(apt: Path, tmp_path: Path) -> None:
    source = DebianPackages(name="debian", uri="debian://sample")
    found = {record.origin.removeprefix("sample_1.0-1_all/usr/share/"): record for record in source.records(tmp_path)}
    assert {origin: record.text for origin, record in found.items() if record.defect is None} == {
        "doc/sample/README": "Read me first.",
        "doc/sample/guide.html.gz": "A guide.",
        "man/man1/sample.1": "SAMPLE(1)\n\nNAME\n\nsample - a sample",
    }
    assert {origin: record.defect for origin, record in found.items() if record.defect} == {
        "doc/sample/damaged.txt.gz": "damaged gzip",
        "doc/sample/latin.txt": "undecodable text",
        "doc/sample/program": "binary data, not text",
    }
    licences = {licence_of(record, source) for record in found.values() if record.defect is None}
    assert licences == {"GFDL-1.3+ AND BSD-3-clause"}


def test_packages_are_parts_that_are_read_by_themselves(apt: Path, tmp_path: Path) -> None:
    write_deb(apt, {"usr/share/doc/other/a.txt": b"Another."}, "other_2_all.deb")
    source = DebianPackages(name="debian", uri="debian://", packages=("sample", "other"))
    parts = source.parts(tmp_path, part_bytes=1)
    assert [place.origin for part in parts for place in part.places] == ["sample_1.0-1_all.deb", "other_2_all.deb"]
    texts = [batch["text"].to_pylist() for part in parts for batch in source.batches(tmp_path, part)]
    assert [text for batch in texts for text in batch] == [record.text for record in source.records(tmp_path)]
    capped = source.model_copy(update={"maximum_bytes": 10})
    assert len(capped.parts(tmp_path, part_bytes=1)) == 1


def test_packages_are_fetched_once_and_pinned_by_content(apt: Path, tmp_path: Path) -> None:
    source = DebianPackages(name="debian", uri="debian://", packages=("sample=1.0-1",))
    pin = source.pin(tmp_path)
    assert source.pin(tmp_path) == pin
    assert (tmp_path / "apt.log").read_text().count("sample=1.0-1") == 1
    assert list(source.model_copy(update={"pinned": pin}).records(tmp_path))
    with pytest.raises(SourceError, match="not those that were resolved"):
        list(source.model_copy(update={"pinned": "sha256:0"}).records(tmp_path))


def test_the_stage_keeps_origin_and_licence(apt: Path, download: Callable[..., Artifact]) -> None:
    rows = document_rows(download([{"name": "debian", "uri": "debian://sample", "licence": "see package"}]))
    assert rows[0]["origin"] == "sample_1.0-1_all/usr/share/doc/sample/README"
    assert {row["licence"] for row in rows} == {"GFDL-1.3+ AND BSD-3-clause"}


def test_a_records_own_licence_counts_before_its_sources() -> None:
    source = DebianPackages(name="debian", uri="debian://sample", licence="see package")
    assert licence_of(LicensedRecord("text", "a", None, "Expat"), source) == "Expat"
    assert licence_of(LicensedRecord("text", "a"), source) == "see package"
    assert licence_of(Record("text", "a"), source) == "see package"


def test_an_unknown_package_is_named_with_apts_reason(apt: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'debian'.*'nonesuch' cannot be fetched: Unable to locate package nonesuch"):
        DebianPackages(name="debian", uri="debian://nonesuch").pin(tmp_path)


def test_a_machine_without_apt_is_told_of_mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="set `mirror`"):
        DebianPackages(name="debian", uri="debian://sample").pin(tmp_path)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A loopback archive with one package and its index."""
    root = tmp_path / "mirror"
    deb = write_deb(root / "pool/main/s", FILES)
    entry = (
        "Package: other\nVersion: 2\n\nPackage: sample\nVersion: 1.0-1\nArchitecture: all\n"
        f"Filename: pool/main/s/{deb.name}\nSHA256: {hashlib.sha256(deb.read_bytes()).hexdigest()}\n"
    )
    index = root / "dists/stable/main/binary-amd64/Packages.xz"
    index.parent.mkdir(parents=True)
    index.write_bytes(lzma.compress(entry.encode()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", deb
    server.shutdown()
    server.server_close()


def test_a_mirror_gives_the_same_documents(mirror: tuple[str, Path], tmp_path: Path) -> None:
    source = DebianPackages(name="debian", uri="debian://sample", mirror=mirror[0])
    texts = [record.text for record in source.records(tmp_path / "cache") if record.defect is None]
    assert texts == ["Read me first.", "A guide.", "SAMPLE(1)\n\nNAME\n\nsample - a sample"]


def test_a_package_that_is_not_the_indexs_is_refused(mirror: tuple[str, Path], tmp_path: Path) -> None:
    mirror[1].write_bytes(b"another")
    with pytest.raises(SourceError, match="does not have the SHA-256"):
        DebianPackages(name="debian", uri="debian://sample", mirror=mirror[0]).pin(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.deb"))


def test_a_mirror_without_the_version_lists_what_it_has(mirror: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nothing for 'sample=2'.*1\.0-1"):
        DebianPackages(name="debian", uri="debian://sample=2", mirror=mirror[0]).pin(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"uri": "debian://"}, "list `packages`"),
        ({"uri": "debian://a2ps", "packages": ("b",)}, "list `packages`"),
        ({"uri": "debian://Bad_Name"}, "does not name a Debian package"),
        ({"uri": "debian://--option"}, "does not name a Debian package"),
        ({"uri": "debian://ok", "mirror": "http://example.org/debian"}, "https:// mirror"),
    ],
)
def test_mistakes_are_told_before_anything_is_fetched(fields: dict[str, object], message: str) -> None:
    assert source_type_of(str(fields["uri"])) is DebianPackages
    with pytest.raises(ValidationError, match=message):
        DebianPackages(name="debian", **fields)


def test_licences_are_stated_or_unknown() -> None:
    assert stated_licences(COPYRIGHT) == "GFDL-1.3+ AND BSD-3-clause"
    assert stated_licences("This package was debianised by hand.\n\nLicense: see below") is None
    assert stated_licences("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n") is None
