"""Beats: written by ranks, read by whoever watches them, at any moment."""

from __future__ import annotations

from pathlib import Path

from tasks.training.heartbeat import Heartbeat, clear_beats, read_beats


def test_the_last_phase_of_every_rank_is_read(tmp_path: Path) -> None:
    first, second = Heartbeat(tmp_path, 0), Heartbeat(tmp_path, 1)
    first.enter("exchange", 7)
    second.enter("data", 7, "shard train-00003, document 12" + "x" * 500)
    beats = read_beats(tmp_path, range(2))
    assert [(beat.rank, beat.phase, beat.step) for beat in beats] == [(0, "exchange", 7), (1, "data", 7)]
    assert min(beats, key=lambda beat: beat.progress).rank == 1, "the other only waits for it"
    assert beats[1].describe().startswith("rank 1 in 'data (shard train-00003, document 12")
    since = beats[1].since
    second.detail("shard train-00004")
    assert read_beats(tmp_path, range(2))[1].detail == "shard train-00004"
    assert read_beats(tmp_path, range(2))[1].since == since, "the phase goes on lasting"
    first.enter("update", 7)
    assert read_beats(tmp_path, range(2))[0].phase == "update"
    first.close()
    second.close()


def test_a_beat_that_is_being_written_is_left_out_and_an_earlier_attempts_are_forgotten(tmp_path: Path) -> None:
    Heartbeat(tmp_path, 0).close()
    (tmp_path / "rank-00001.json").write_bytes(b'{"rank": 1, "pi')
    assert [beat.rank for beat in read_beats(tmp_path, range(2))] == [0]
    clear_beats(tmp_path, range(2))
    assert read_beats(tmp_path, range(2)) == []
