"""Chat logs: three layouts, one template, bad turns set aside."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from artifact_rows import document_rows
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from infra.artifacts import Artifact
from tasks.download.sources import ConversationLogs, source_type_of
from tasks.download.sources.conversations import turns_of
from tasks.download.sources.structured_rows import Row

ASK = {"role": "user", "content": " What is 2+2? "}
ANSWER = {"role": "assistant", "content": "4"}
SOURCE = ConversationLogs(name="chat", uri="chat+file://unused")


def read(value: dict[str, Any], source: ConversationLogs = SOURCE) -> list[tuple[str, str, str | None]]:
    return [(record.text, record.origin, record.defect) for record in source.conversation(Row("f:1", value))]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"messages": [ASK, ANSWER]}, "User: What is 2+2?\n\nAssistant: 4"),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            "User: Hi\n\nAssistant: Hello",
        ),
        ({"instruction": "Add", "input": "2 2", "output": "4"}, "User: Add\n\n2 2\n\nAssistant: 4"),
        (
            {"instruction": "And 3?", "input": "", "output": "6", "system": "Count.", "history": [["2?", "4"]]},
            "System: Count.\n\nUser: 2?\n\nAssistant: 4\n\nUser: And 3?\n\nAssistant: 6",
        ),
        (
            {
                "messages": [
                    {"role": "developer", "content": "Be brief"},
                    {"role": "user", "content": [{"type": "text", "text": "Weather"}, {"type": "text", "text": "now"}]},
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [{"function": {"name": "weather", "arguments": {"at": "Bonn"}}}],
                    },
                    {"role": "tool", "content": "rain"},
                    {"role": "assistant", "content": "It rains."},
                ]
            },
            'System: Be brief\n\nUser: Weather\nnow\n\nAssistant: weather {"at":"Bonn"}\n\nTool: rain\n\n'
            "Assistant: It rains.",
        ),
    ],
)
def test_every_layout_becomes_turns_with_roles(value: dict[str, Any], text: str) -> None:
    assert read(value) == [(text, "f:1", None)]


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"role": "narrator", "content": "x"}, "unknown role"),
        ({"content": "x"}, "unknown role"),
        ({"role": "assistant", "content": "  "}, "no text"),
        ({"role": "assistant", "content": None}, "no text"),
        ({"role": "assistant", "content": 7}, "not text"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "a part that is not text"),
        ("just text", "not an object"),
    ],
)
def test_a_conversation_ends_before_its_first_bad_turn(turn: Any, reason: str) -> None:
    kept, aside = read({"messages": [ASK, ANSWER, turn, ASK]})
    assert kept == ("User: What is 2+2?\n\nAssistant: 4", "f:1", None)
    assert aside[1:] == ("f:1#2", f"bad turn: {reason}")
    assert read({"messages": [ASK, turn, ANSWER]})[0][1:] == ("f:1", f"bad turn: {reason}")


@pytest.mark.parametrize(
    ("value", "defect"),
    [
        ({"messages": []}, "conversation without turns"),
        ({"messages": [ASK]}, "conversation too short or of one side only"),
        ({"messages": [ANSWER, ANSWER]}, "conversation too short or of one side only"),
        ({"instruction": "Add", "output": None}, "bad turn: not text"),
        ({"text": "a document"}, "row is no conversation of a known layout"),
        ({"messages": "Hi"}, "row is no conversation of a known layout"),
    ],
)
def test_what_is_no_conversation_is_set_aside_whole(value: dict[str, Any], defect: str) -> None:
    assert [found[1:] for found in read(value)] == [("f:1", defect)]


def test_the_template_is_a_choice_and_texts_are_not_templates() -> None:
    source = SOURCE.model_copy(update={"template": "<{role}> {content} </{role}>", "separator": "\n"})
    chat = {"messages": [{"role": "user", "content": "{role} {content}"}, ANSWER]}
    with pytest.raises(ValidationError, match="once each"):
        ConversationLogs(name="chat", uri="chat+file://x", template="<{role}> {content} </{role}>")
    with pytest.raises(ValidationError, match="once each"):
        ConversationLogs(name="chat", uri="chat+file://x", template="{content}")
    assert read(chat, source)[0][0] == "<User> {role} {content} </User>\n<Assistant> 4 </Assistant>"


def test_renamed_roles_keep_the_others() -> None:
    source = ConversationLogs(name="chat", uri="chat+file://x", role_names={"assistant": "SAM"})
    assert read({"messages": [ASK, ANSWER]}, source)[0][0] == "User: What is 2+2?\n\nSAM: 4"


def test_files_are_read_in_order_with_damage_counted(tmp_path: Path, download: Callable[..., Artifact]) -> None:
    line = json.dumps({"messages": [ASK, ANSWER]}).encode()
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(line + b"\nnot json\n[1]\n\n" + line)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(line + b"\n" + line + b"\n")[:-8])
    pq.write_table(pa.Table.from_pylist([{"messages": [ASK, ANSWER]}]), folder / "c.parquet")
    (folder / "d.parquet").write_bytes(b"PAR1 damaged")
    source = ConversationLogs(name="chat", uri=f"chat+file://{folder}")
    found = [(record.origin, record.defect) for record in source.records(tmp_path)]
    assert [origin for origin, defect in found if defect is None][:2] == ["a.jsonl:1", "a.jsonl:5"]
    assert ("c.parquet:1", None) in found
    assert [origin for origin, defect in found if defect] == ["a.jsonl:2", "a.jsonl:3", "b.jsonl.gz", "d.parquet"]
    artifact = download([{"name": "chat", "uri": f"chat+file://{folder}", "licence": "own"}])
    rows = document_rows(artifact)
    assert [row["origin"] for row in rows] == [origin for origin, defect in found if defect is None]
    assert {row["licence"] for row in rows} == {"own"}


def test_the_uri_decides_the_kind() -> None:
    assert source_type_of("chat+file:///logs") is ConversationLogs
    assert source_type_of("chat+hf://HuggingFaceH4/ultrachat_200k") is ConversationLogs
    inner = ConversationLogs(name="chat", uri="chat+hf://HuggingFaceH4/ultrachat_200k@main", include=("a*",)).inner()
    assert (inner.uri, inner.model_dump()["include"]) == ("hf://HuggingFaceH4/ultrachat_200k@main", ("a*",))
    bucket = ConversationLogs(name="chat", uri="chat+s3://logs/2026").inner()
    assert (type(bucket).__name__, bucket.uri) == ("BucketFiles", "s3://logs/2026")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["messages", "conversations", "role", "from", "content", "value", "text", "tool_calls",
                         "function", "name", "arguments", "instruction", "output", "input", "history", "system"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["messages", "instruction", "output", "history", "conversations"]), JSON))
def test_any_object_gives_records(value: dict[str, Any]) -> None:
    records = read(value)
    assert records
    turns = turns_of(value)
    good = [record for record in records if record[2] is None]
    assert len(good) <= 1
    assert not good or turns


def test_deep_nesting_is_no_problem() -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    assert (
        read({"messages": [ASK, {"role": "assistant", "content": deep}]})[0][2] == "bad turn: a part that is not text"
    )
    assert read({"nothing": deep})[0][2] == "row is no conversation of a known layout"
