"""The conversations stage: every row ends up in one of the files, and is counted."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.artifacts import Artifact, ArtifactStore, build_stage
from infra.errors import SourceError
from tasks.finetuning import CONVERSATIONS, ConversationsConfig
from tests.tasks.finetuning.conftest import messages


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "artifacts"), tmp_path / "cache")


def rows(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in artifact.path(f"{name}.jsonl").read_text().splitlines()]


def build(store: ArtifactStore, *sources: dict[str, Any], **changes: Any) -> Artifact:
    config = ConversationsConfig.model_validate({"sources": sources, "held_out_fraction": 0.75, **changes})
    return build_stage(CONVERSATIONS, config, {}, store).artifact


def write_chats(directory: Path) -> None:
    good = [json.dumps({"messages": messages(number)}) for number in range(12)]
    bad = ['{"messages": [', '{"text": "no chat"}', json.dumps({"messages": [*messages(20), {"role": "elf"}]}), good[3]]
    directory.mkdir()
    (directory / "a.jsonl").write_text("\n".join([*good[:6], *bad]))
    (directory / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(good[6:10]).encode()))
    turns = [json.loads(line)["messages"] for line in good[10:]]
    pq.write_table(pa.table({"messages": turns}), directory / "c.parquet")
    (directory / "readme.txt").write_text("not read")


def test_bad_rows_are_set_aside_with_file_line_and_reason(store: ArtifactStore, tmp_path: Path) -> None:
    write_chats(tmp_path / "chats")
    artifact = build(store, {"name": "mine", "uri": f"chat+file://{tmp_path / 'chats'}", "licence": "MIT"})
    aside = {row["origin"]: row["reason"] for row in rows(artifact, "set_aside")}
    assert aside == {
        "mine/a.jsonl:7": "malformed JSON line",
        "mine/a.jsonl:8": "row is no conversation of a known layout",
        "mine/a.jsonl:9": "bad turn: unknown role",
        "mine/a.jsonl:10": "duplicate of an earlier conversation",
    }
    kept = rows(artifact, "train") + rows(artifact, "held_out")
    assert {json.dumps(row["messages"]) for row in kept} == {json.dumps(messages(n)) for n in (*range(12), 20)}
    assert len(kept) == 13
    table = artifact.manifest.tables["conversations"][0]
    assert table["To train on"] + table["Held out"] == 13
    assert table["Set aside"] == 4 == artifact.manifest.metrics["conversations/set_aside"]
    assert sum(row["Rows"] for row in artifact.manifest.tables["set aside"]) == 4


def test_the_split_is_by_the_conversation_whatever_else_is_read(store: ArtifactStore, tmp_path: Path) -> None:
    write_chats(tmp_path / "chats")
    whole = build(store, {"name": "mine", "uri": f"chat+file://{tmp_path / 'chats'}"})
    part = build(store, {"name": "part", "uri": f"chat+file://{tmp_path / 'chats' / 'a.jsonl'}"})
    for name in ("train", "held_out"):
        every = {json.dumps(row["messages"]) for row in rows(whole, name)}
        assert {json.dumps(row["messages"]) for row in rows(part, name)} <= every
    assert rows(whole, "held_out")
    few = build(store, {"name": "mine", "uri": f"chat+file://{tmp_path / 'chats'}"}, maximum_conversations=8)
    assert len(rows(few, "train") + rows(few, "held_out")) == 8


def test_members_of_a_wheel_are_read(store: ArtifactStore, tmp_path: Path) -> None:
    wheel = tmp_path / "downloads/wheels/chats-1.0/chats-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        lines = [json.dumps({"question": f"What is {n}?", "answer": f"It is {n}."}) for n in range(20)]
        archive.writestr("chats/data/test.jsonl", "\n".join([*lines, "{"]))
    source = {"name": "wheel", "uri": "pypi://chats==1.0", "members": [{"include": "chats/*/*.jsonl"}]}
    artifact = build(store, source, cache_directory=tmp_path / "downloads")
    assert len(rows(artifact, "train") + rows(artifact, "held_out")) == 20
    assert [row["origin"] for row in rows(artifact, "set_aside")] == ["wheel/chats/data/test.jsonl:21"]
    with pytest.raises(SourceError, match="no member like other"):
        build(store, source | {"members": [{"include": "other/*"}]}, cache_directory=tmp_path / "downloads")


def test_without_a_usable_conversation_it_says_what_was_found(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text('{"text": "no chat"}\n' * 3)
    with pytest.raises(SourceError, match=r"no conversation to train on.*no conversation of a known layout \(3\)"):
        build(store, {"name": "mine", "uri": f"chat+file://{tmp_path / 'chats.jsonl'}"})


def test_sources_that_are_no_chats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"put chat\+ before the uri"):
        ConversationsConfig.model_validate({"sources": [{"name": "plain", "uri": "file:///chats.jsonl"}]})
    source = {"name": "twice", "uri": "chat+file:///chats.jsonl"}
    with pytest.raises(ValueError, match="names repeat"):
        ConversationsConfig.model_validate({"sources": [source, source]})
