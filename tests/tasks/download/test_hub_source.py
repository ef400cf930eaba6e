"""`hf://` sources against a Hub on loopback: pinned, verified, continued, and clear about refusals."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from artifact_rows import document_rows
from hub_server import COMMIT, Hub, running_hub
from pydantic import ValidationError

from infra.artifacts import Artifact
from infra.errors import SourceError
from tasks.download.progress import Throughput, transfers_observed
from tasks.download.sources import HubDataset, source_type_of

SECRET = "hf_secretsecretsecret"
LINES = b"".join(json.dumps({"text": f"line {number}", "url": "x"}).encode() + b"\n" for number in range(3000))


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"content": ["p1", "p2"], "text": ["t1", "t2"]}), buffer)
    return buffer.getvalue()


FILES = {
    "README.md": b"# A data set",
    "data/a.jsonl": LINES,
    "data/b.parquet": _parquet(),
    "en/c4.00000.json.gz": gzip.compress(b'{"text": "web"}\n{"nothing": 1}\n'),
    "en/z.jsonl.zst": pa.compress(b'{"text": "pile"}\n', codec="zstd", asbytes=True),
    "picture.png": b"\x89PNG",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants

    with running_hub(FILES, {"data/a.jsonl", "data/b.parquet", "en/c4.00000.json.gz", "en/z.jsonl.zst"}) as running:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("tasks.download.sources.hub_datasets.time.sleep", lambda _: None)
        yield running


@pytest.fixture
def dataset() -> Callable[..., HubDataset]:
    def make(**fields: object) -> HubDataset:
        return HubDataset(**{"name": "hub", "uri": "hf://org/texts@v1", **fields})

    return make


def test_files_of_every_format_in_path_order(hub: Hub, dataset: Callable[..., HubDataset], tmp_path: Path) -> None:
    source = dataset(include=("data/*", "en/*"))
    records = list(source.records(tmp_path))
    assert [record.text for record in records[2999:] if record.defect is None] == [
        "line 2999",
        "t1",
        "t2",
        "web",
        "pile",
    ]
    assert [record.origin for record in records if record.defect] == ["en/c4.00000.json.gz:2"]
    assert records[0].origin == "data/a.jsonl:1"


def test_documents_have_the_cards_licence_unless_the_source_states_one(
    hub: Hub, dataset: Callable[..., HubDataset], tmp_path: Path
) -> None:
    def licences(source: HubDataset) -> set[str | None]:
        parts = source.parts(tmp_path, part_bytes=1)
        assert len(parts) == 2
        return {name for part in parts for b in source.batches(tmp_path, part) for name in b["licence"].to_pylist()}

    assert licences(dataset(include=("data/*",))) == {"odc-by"}
    assert licences(dataset(include=("data/*",), licence="MIT")) == {None}


def test_a_revision_is_pinned_to_its_commit_and_needs_the_hub_once(
    hub: Hub, dataset: Callable[..., HubDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = dataset(include=("data/b.parquet",), fields={"text_fields": ["content"]})
    assert source.pin(tmp_path) == f"commit:{COMMIT}"
    pinned = source.model_copy(update={"pinned": f"commit:{COMMIT}"})
    first = [record.text for record in pinned.records(tmp_path)]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert [record.text for record in pinned.records(tmp_path)] == first == ["p1", "p2"]


def test_cut_connections_and_busy_answers_are_overcome(
    hub: Hub, dataset: Callable[..., HubDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.faults = ["cut", 503, "cut", 429]
    assert sum(1 for _ in dataset(include=("data/a.jsonl",)).records(tmp_path)) == 3000
    ranges = [headers.get("range") for headers in hub.asked_for("/blobs/")]
    assert any(wanted and wanted != "bytes=0-" for wanted in ranges), "what had arrived was asked for again"


def test_another_content_than_the_commits_is_refused(
    hub: Hub, dataset: Callable[..., HubDataset], tmp_path: Path
) -> None:
    source = dataset(include=("data/a.jsonl",))
    pinned = source.model_copy(update={"pinned": source.pin(tmp_path)})
    hub.files = FILES | {"data/a.jsonl": LINES[:-2] + b" \n"}
    with pytest.raises(SourceError, match=r"'data/a.jsonl' of 'hf://org/texts@v1' does not have the checksum sha256:"):
        list(pinned.records(tmp_path))
    assert not list(tmp_path.rglob("a.jsonl"))
    hub.files = FILES
    assert sum(1 for _ in pinned.records(tmp_path)) == 3000


def test_small_files_are_verified_by_git_hash(hub: Hub, dataset: Callable[..., HubDataset], tmp_path: Path) -> None:
    source = dataset(include=("README.md",))
    assert [record.text for record in source.records(tmp_path / "a")] == ["# A data set"]
    pinned = source.model_copy(update={"pinned": source.pin(tmp_path / "b")})
    hub.files = FILES | {"README.md": b"# A data sex"}
    with pytest.raises(SourceError, match="does not have the checksum git:"):
        list(pinned.records(tmp_path / "b"))


def test_one_file_at_a_time_leaves_nothing_behind(hub: Hub, dataset: Callable[..., HubDataset], tmp_path: Path) -> None:
    present = []
    for record in dataset(include=("data/*",), keep_files=False).records(tmp_path):
        if record.origin.endswith((".jsonl:1", ".parquet:1")):
            present.append(sorted(path.name for path in tmp_path.rglob("*") if path.suffix in (".jsonl", ".parquet")))
    assert present == [["a.jsonl"], ["b.parquet"]]
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".jsonl", ".parquet")]


def test_a_reader_that_stops_early_leaves_nothing_behind(
    hub: Hub, dataset: Callable[..., HubDataset], tmp_path: Path
) -> None:
    records = dataset(include=("data/*",), keep_files=False).records(tmp_path)
    next(records)
    records.close()  # type: ignore[attr-defined]
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_private_data_set_needs_the_token_which_stays_secret(
    hub: Hub,
    dataset: Callable[..., HubDataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub.token = SECRET
    with pytest.raises(SourceError, match=r"answered 401.*set HF_TOKEN"):
        dataset().pin(tmp_path)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    source = dataset(include=("data/b.parquet",))
    assert len(list(source.records(tmp_path))) == 2
    assert all("authorization" not in headers for headers in hub.asked_for("/blobs/"))
    hub.token = "another"
    with pytest.raises(SourceError, match="token may lack access") as refusal:
        dataset().pin(tmp_path)
    assert SECRET not in str(refusal.value) + caplog.text
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_refusals_and_dead_hubs_are_told_apart(
    hub: Hub, dataset: Callable[..., HubDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceError, match=r"'hf://org/nonesuch' cannot be found: the Hub answered 404"):
        dataset(uri="hf://org/nonesuch").pin(tmp_path)
    with pytest.raises(SourceError, match=r"answered 404.*check the name and revision"):
        dataset(uri="hf://org/texts@nonesuch").pin(tmp_path)
    with pytest.raises(SourceError, match=r"no readable file .*the data set has README.md, data/a.jsonl"):
        list(dataset(include=("*.flac",)).records(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"cannot be found: Connect.*HF_ENDPOINT"):
        dataset().pin(tmp_path)


def test_the_quiet_environment_is_named_when_it_keeps_the_hub_out(
    dataset: Callable[..., HubDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="set HF_HUB_OFFLINE=0"):
        dataset().pin(tmp_path)


@pytest.mark.parametrize(
    "uri", ["hf://", "hf://org/", "hf://org/name@", "hf://org/name/more", "hf://org/../x", "hf://-a/b"]
)
def test_a_uri_names_one_data_set(uri: str, dataset: Callable[..., HubDataset]) -> None:
    with pytest.raises(ValidationError, match="write hf://ORG/NAME"):
        dataset(uri=uri)


def test_only_the_first_files_are_read_when_asked(hub: Hub, dataset: Callable[..., HubDataset], tmp_path: Path) -> None:
    assert source_type_of("hf://org/texts") is HubDataset
    assert len(list(dataset(include=("data/*",), maximum_files=1).records(tmp_path))) == 3000
    assert len(hub.asked_for("/blobs/")) == 1


def test_a_cap_is_shared_among_files_and_independent_of_who_reads_them(
    hub: Hub, dataset: Callable[..., HubDataset], tmp_path: Path
) -> None:
    content = b"".join(json.dumps({"text": f"{number:0200d}"}).encode() + b"\n" for number in range(300))
    hub.files = {f"data/{number}.jsonl": content for number in range(8)}
    hub.large = set(hub.files)
    source = dataset(include=("data/*",), maximum_bytes=80_000)
    parts = source.parts(tmp_path, part_bytes=1)
    assert [[place.origin for place in part.places] for part in parts] == [["data/0.jsonl"], ["data/1.jsonl"]]
    in_parts = {
        part.places[0].origin: sum(batch.num_rows for batch in source.batches(tmp_path, part))
        for part in reversed(parts)
    }
    assert in_parts == {"data/0.jsonl": 200, "data/1.jsonl": 200}
    assert [record.origin for record in source.records(tmp_path)][::200] == ["data/0.jsonl:1", "data/1.jsonl:1"]


def test_a_capped_data_set_through_the_stage(hub: Hub, tmp_path: Path, download: Callable[..., Artifact]) -> None:
    hub.files = {f"data/{number}.json.gz": gzip.compress(LINES) for number in range(5)}
    hub.large = set(hub.files)
    source = {"name": "hub", "uri": "hf://org/texts", "include": ["data/*"], "keep_files": False}
    rows = document_rows(download([source | {"maximum_bytes": 30_000}]))
    assert 30_000 <= sum(len(row["text"]) for row in rows) < 30_000 + 5 * 10
    assert {row["licence"] for row in rows} == {"odc-by"}
    assert not list(tmp_path.rglob("*.json.gz"))


def test_transfers_are_told_to_who_watches_and_end_with_them(
    hub: Hub, dataset: Callable[..., HubDataset], tmp_path: Path
) -> None:
    seen: list[Throughput] = []
    with transfers_observed(seen.append):
        list(dataset(include=("data/a.jsonl",)).records(tmp_path / "a"))
    assert (seen[-1].done_bytes, seen[-1].total_bytes) == (len(LINES), len(LINES))

    def cancel(_: Throughput) -> None:
        raise KeyboardInterrupt

    with transfers_observed(cancel), pytest.raises(KeyboardInterrupt):
        list(dataset(include=("data/a.jsonl",)).records(tmp_path / "b"))
