"""The comparison's files: complete, self-contained, and safe for names that are data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tasks.evaluation.items import ItemScores, item_key
from tasks.registration import comparison_plot
from tasks.registration.comparison import Comparison, compare
from tasks.registration.comparison_report import write_comparison


def accuracy(task: str, right: int, of: int) -> ItemScores:
    keys = tuple(item_key(str(number)) for number in range(of))
    return ItemScores(task, "accuracy", True, keys, (np.arange(of) < right).astype(float), np.ones(of))


def bits(per_byte: float) -> ItemScores:
    size = np.random.default_rng(0).integers(100, 2000, 60).astype(float)
    keys = tuple(item_key(str(number)) for number in range(60))
    noise = np.random.default_rng(1).normal(0, 0.05, 60)
    return ItemScores("held_out", "bits_per_byte", False, keys, size * (per_byte + noise * (per_byte > 2)), size)


@pytest.fixture(scope="module")
def compared() -> Comparison:
    candidate = [accuracy("piqa", 60, 100), accuracy("arc_easy", 30, 90), accuracy("<b>x</b>|y", 41, 80), bits(2.1)]
    champion = [accuracy("piqa", 40, 100), accuracy("arc_easy", 40, 90), accuracy("<b>x</b>|y", 40, 80), bits(1.9)]
    return compare([*candidate, accuracy("new", 1, 30)], champion, ("sam2 version 4", "sam2 version 3"))


def test_all_files_are_written_and_agree(compared: Comparison, tmp_path: Path) -> None:
    names = {path.name for path in write_comparison(tmp_path, compared)}
    assert names == {"comparison.md", "comparison.html", "comparison.json", "forest.png"}
    figures = json.loads((tmp_path / "comparison.json").read_text())
    assert [metric["verdict"] for metric in figures["metrics"]] == ["better", "worse", "no difference shown", "worse"]
    card = (tmp_path / "comparison.md").read_text()
    assert "| arc\\_easy/accuracy |" in card or "| arc_easy/accuracy |" in card
    assert "| new/accuracy | only sam2 version 4 was measured on it |" in card
    assert "worse in held_out/bits_per_byte +0.1999" in card


def test_the_page_needs_nothing_else_and_names_are_text(compared: Comparison, tmp_path: Path) -> None:
    write_comparison(tmp_path, compared)
    page = (tmp_path / "comparison.html").read_text()
    assert "<b>x</b>" not in page and "&lt;b&gt;x" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page) and "<script" not in page
    assert 'src="data:image/png;base64,iVBOR' in page


def test_improvements_are_to_the_right_whatever_the_direction(
    compared: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(comparison_plot, "save_chart", lambda figure, path: drawn.append(figure))
    comparison_plot.plot_forest(tmp_path / "forest.png", compared)
    panels = {axes.get_title(loc="left"): axes for axes in drawn[0].axes}
    accuracies, loss = panels["accuracy"], panels["bits per byte, less is better"]
    dots = [float(line.get_xdata()[0]) for line in accuracies.lines if line.get_marker() == "o"]
    assert [dot > 0 for dot in dots] == [True, False, True]  # from the bottom: <b>x</b>, arc_easy, piqa
    (dot,) = [float(line.get_xdata()[0]) for line in loss.lines if line.get_marker() == "o"]
    assert dot < 0  # more bits than the champion


def test_without_a_comparison_the_reason_is_the_report(tmp_path: Path) -> None:
    write_comparison(tmp_path, Comparison("sam2 version 2", "sam2 version 1", not_run="the champion has no items"))
    assert not (tmp_path / "forest.png").exists()
    for name in ("comparison.md", "comparison.html"):
        assert "Not compared with sam2 version 1: the champion has no items." in (tmp_path / name).read_text()
