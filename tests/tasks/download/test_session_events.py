"""Session event logs: deterministic text, cuts, late events, clocks set back, repeated ids."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from artifact_rows import document_rows
from hypothesis import given
from hypothesis import strategies as st

from infra.artifacts import Artifact
from tasks.download.formats import Record
from tasks.download.sources import SessionLogs
from tasks.download.sources.session_events import SessionEvent, event_line


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Record]]:
    def write_and_read(rows: list[Any], **choices: Any) -> list[Record]:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / "log.jsonl").write_text("\n".join(lines))
        source = SessionLogs(name="vr", uri=f"events+file://{tmp_path}/log.jsonl", **choices)
        return list(source.records(tmp_path))

    return write_and_read


def event(time: Any, name: str = "move", session: str = "s", **more: Any) -> dict[str, Any]:
    return {"session": session, "time": time, "channel": "head", "event": name, **more}


def kept(records: list[Record]) -> dict[str, str]:
    return {record.origin: record.text for record in records if record.defect is None}


def test_a_session_is_one_line_an_event(read: Callable[..., list[Record]]) -> None:
    rows = [
        event(10.0, values={"position": [0.12345, 1.5, -0.00001], "yaw": 90}),
        event(10.011, "grab", values={"object": "red cup", "held": True, "hand": None}, id=1),
        event("1970-01-01T00:00:10.5Z", "say", values={"text": "Grüße", "to": "guide"}),
    ]
    assert kept(read(rows)) == {
        "log.jsonl#s/0?lines=3": "+0.000 head move position=[0.123,1.5,0] yaw=90\n"
        '+0.011 head grab hand=null held=true object="red cup"\n'
        "+0.489 head say text=Grüße to=guide"
    }


def test_interleaved_sessions_are_told_apart(read: Callable[..., list[Record]]) -> None:
    rows = [event(number * 0.1, session="ab"[number % 2], name=f"e{number}") for number in range(6)]
    assert kept(read(rows)) == {
        "log.jsonl#a/0?lines=3": "+0.000 head e0\n+0.200 head e2\n+0.200 head e4",
        "log.jsonl#b/0?lines=3": "+0.000 head e1\n+0.200 head e3\n+0.200 head e5",
    }


def test_pauses_and_sizes_cut_sessions(read: Callable[..., list[Record]]) -> None:
    rows = [event(0), event(1), event(400), event(401)]
    assert list(kept(read(rows))) == ["log.jsonl#s/0?lines=2", "log.jsonl#s/1?lines=2&after=gap"]
    many = read([event(number * 3) for number in range(200)], document_characters=500, minimum_events=1)
    texts = [record.text for record in many]
    assert sum(text.count("\n") + 1 for text in texts) == 200
    assert all(len(text) <= 500 + 20 for text in texts)
    assert texts[1].startswith("+3.000"), "a document cut by size goes on with the time since the line before"
    assert "after=size" in many[1].origin


def test_late_events_are_put_in_their_place_and_counted(read: Callable[..., list[Record]]) -> None:
    rows = [event(0, "a"), event(1, "c"), event(0.5, "b"), event(5, "d")]
    assert kept(read(rows)) == {
        "log.jsonl#s/0?lines=4&reordered=1": "+0.000 head a\n+0.500 head b\n+0.500 head c\n+4.000 head d"
    }


def test_a_clock_set_back_begins_a_new_document(read: Callable[..., list[Record]]) -> None:
    rows = [event(100, "a"), event(101, "b"), event(3, "c"), event(4, "d")]
    assert kept(read(rows)) == {
        "log.jsonl#s/0?lines=2": "+0.000 head a\n+1.000 head b",
        "log.jsonl#s/1?lines=2&after=clock": "+0.000 head c\n+1.000 head d",
    }


def test_repeated_ids_are_set_aside_per_session(read: Callable[..., list[Record]]) -> None:
    rows = [event(0, id="x"), event(1, id="x"), event(2, id="y"), event(0, session="t", id="x"), event(1, session="t")]
    records = read(rows)
    assert [(record.origin, record.defect) for record in records if record.defect] == [
        ("log.jsonl:2", "repeated event id")
    ]
    assert sorted(kept(records)) == ["log.jsonl#s/0?lines=2", "log.jsonl#t/0?lines=2"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (event("yesterday"), "field `time`"),
        (event(True), "field `time`"),
        ({"session": "s", "time": 1, "event": "e"}, "field `channel`"),
        (event(1, "two words"), "field `event`"),
        (event(1, session=""), "field `session`"),
        (event(1, values={"a": {"b": 1}}), "field `values`"),
        (event(1, values={"a b": 1}), "field `values`"),
    ],
)
def test_a_row_that_is_no_event_names_its_field(read: Callable[..., list[Record]], row: Any, reason: str) -> None:
    records = read([event(0), row, event(1)])
    assert [record.defect for record in records if record.defect] == [f"no session event: {reason}"]
    assert len(kept(records)) == 1


def test_damaged_lines_and_short_sessions_are_set_aside(read: Callable[..., list[Record]]) -> None:
    records = read(["{", "[]", '{"time": NaN}', event(0)])
    assert [record.defect for record in records] == [
        "malformed JSON line", "JSON line is not an object", "malformed JSON line", "session of too few events",
    ]  # fmt: skip


def test_parquet_maps_are_values(tmp_path: Path, download: Callable[..., Artifact]) -> None:
    values = pa.array([[("x", 1.0)], [("x", 2.5)]], pa.map_(pa.string(), pa.float64()))
    columns = {"session": ["s", "s"], "time": [0.0, 1.0], "channel": ["c", "c"], "event": ["e", "e"], "values": values}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    artifact = download([{"name": "vr", "uri": f"events+file://{tmp_path}/log.parquet", "licence": "consented"}])
    documents = document_rows(artifact)
    assert [(row["text"], row["licence"]) for row in documents] == [("+0.000 c e x=1\n+1.000 c e x=2.5", "consented")]


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from("abc")), min_size=2, max_size=60), st.randoms())
def test_small_delays_do_not_change_the_text(times: list[tuple[int, str]], chance: random.Random) -> None:
    """Events arriving up to the tolerance late give the text of the sorted log."""
    ordered = sorted(dict(times).items())
    delayed = sorted(ordered, key=lambda item: item[0] + chance.uniform(0, 1.9))
    assert _text(delayed) == _text(ordered)


def _text(events: list[tuple[int, str]]) -> str:
    from tasks.download.sources.session_events import _OpenSession

    session = _OpenSession(SessionLogs(name="vr", uri="events+file://unused"), "log#s")
    records = [r for time, name in events for r in session.add(SessionEvent.model_validate(event(time, name)))]
    return "\n".join(record.text for record in [*records, *session.end("start")])


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,5}", fullmatch=True),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    ),
    st.integers(0, 9),
)
def test_a_line_is_one_line_and_independent_of_the_order_of_values(values: dict[str, Any], decimals: int) -> None:
    first = SessionEvent.model_validate(event(0, values=values))
    second = SessionEvent.model_validate(event(0, values=dict(reversed(values.items()))))
    line = event_line(first, 0.0, decimals)
    assert line == event_line(second, 0.0, decimals)
    assert "\n" not in line
    assert line.count("=") >= len(values)
