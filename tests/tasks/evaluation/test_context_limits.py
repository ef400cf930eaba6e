"""Context limits: which lengths are run, on what text, and what a model of known behaviour is found to hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.evaluation.config import ContextLimitsConfig, NeedleConfig
from tasks.evaluation.context_limits import (
    JOINED_DOCUMENTS,
    SINGLE_DOCUMENTS,
    MeasuredLength,
    PlannedLength,
    choose_targets,
    measure_length,
    plan_lengths,
    tokens_to_read,
    trained_context,
)
from tasks.evaluation.context_verdicts import claim_basis, claimed_context, paired_difference, rows_of, share_difference
from tasks.evaluation.held_out import Corpus
from tasks.evaluation.language_model import FloatArray, IntArray
from tasks.evaluation.needle import Cell
from tasks.evaluation.plots import plot_context_limits, plot_recall

SEPARATOR = 0
NEEDLE = NeedleConfig(depths=(0.0, 1.0), samples_per_cell=3)
CONFIG = ContextLimitsConfig(windows=8, scored_tokens=4)


def corpus_of(lengths: Sequence[int]) -> Corpus:
    """Every token is its place, from 1 on, so that a window shows where it is from."""
    return Corpus(np.arange(1, sum(lengths) + 1), np.array(lengths))


class Fading:
    """Costs 2 nats a token, and more for every token of context beyond `limit`; noise as in real text."""

    def __init__(self, limit: int, slope: float = 0.01) -> None:
        self.limit, self.slope = limit, slope

    def token_nats(self, rows: Sequence[IntArray]) -> list[FloatArray]:
        visible = [np.arange(1, len(row)) for row in rows]
        return [
            2 + np.sin(row[1:]) * 0.5 + self.slope * np.maximum(0, seen - self.limit)
            for row, seen in zip(rows, visible, strict=True)
        ]

    def candidate_nats(self, contexts: IntArray, candidates: Sequence[Sequence[Sequence[int]]]) -> FloatArray:
        raise NotImplementedError


def test_lengths_are_the_training_context_its_multiples_and_the_full_one() -> None:
    planned = plan_lengths(CONFIG, NEEDLE, trained=100, model_maximum=400, held_out_tokens=10_000)
    assert [(one.tokens, one.name, one.obstacle) for one in planned] == [
        (100, "1×", ""), (200, "2×", ""), (400, "4× = full", ""),
    ]  # fmt: skip
    shorter = plan_lengths(CONFIG, NEEDLE, trained=100, model_maximum=50, held_out_tokens=10_000)
    assert [one.tokens for one in shorter] == [100, 50, 200, 400]


def test_what_is_not_run_says_why() -> None:
    def obstacles(**changes: Any) -> list[str]:
        limits = {"model_maximum": 400, "held_out_tokens": 10_000} | changes
        config = limits.pop("config", CONFIG)
        return [one.obstacle for one in plan_lengths(config, NEEDLE, 100, **limits)]

    assert obstacles(model_maximum=200)[2] == "4× = 400 tokens is over the model's maximum_context of 200"
    work = tokens_to_read(CONFIG, NEEDLE, 400)
    assert work == 400 * (8 + 3 * 3)
    limited = CONFIG.model_copy(update={"token_limit": work - 1})
    assert obstacles(config=limited)[2].endswith(
        f"would read {work:,} tokens, over context_limits.token_limit ({work - 1:,})"
    )
    assert obstacles(config=limited.model_copy(update={"token_limit": work}))[2] == ""
    assert "held-out text of 300 tokens" in obstacles(held_out_tokens=300)[2]
    assert "scored_tokens" in obstacles(config=CONFIG.model_copy(update={"scored_tokens": 100}))[0]


@pytest.mark.parametrize(("lengths", "kind"), [([70] * 9, SINGLE_DOCUMENTS), ([70] * 7 + [30] * 9, JOINED_DOCUMENTS)])
def test_targets_are_the_same_tokens_at_every_length(lengths: list[int], kind: str) -> None:
    corpus = corpus_of(lengths)
    targets = choose_targets(corpus, SEPARATOR, 64, CONFIG, seed=3)
    assert targets.kind == kind
    long, short = targets.rows(64), targets.rows(16)
    assert len(long) == CONFIG.windows
    for one, other in zip(long, short, strict=True):
        assert len(one) == 64
        np.testing.assert_array_equal(one[-16:], other)
    scored = [token for row in long for token in row[-4:] if token != SEPARATOR]
    assert len(set(scored)) == len(scored)
    if kind == SINGLE_DOCUMENTS:
        assert all(len({(token - 1) // 70 for token in row}) == 1 for row in long)
    else:
        assert any(SEPARATOR in row for row in long)
    again = choose_targets(corpus, SEPARATOR, 64, CONFIG, seed=3)
    np.testing.assert_array_equal(targets.ends, again.ends)


def test_joined_documents_have_their_separators_and_nothing_else() -> None:
    targets = choose_targets(corpus_of([5, 3, 20]), SEPARATOR, 12, CONFIG, seed=0)
    assert targets.text.tolist() == [0, *range(1, 6), 0, *range(6, 9), 0, *range(9, 29)]
    assert len(targets.ends) == 1 + (31 - 12) // 4  # as many as there are, not as many as were asked for


def measured(model: Any, lengths: Sequence[int], recall: dict[int, int]) -> dict[int, MeasuredLength]:
    targets = choose_targets(corpus_of([4000]), SEPARATOR, max(lengths), CONFIG, seed=0)
    found = {length: measure_length(model, length, targets, NEEDLE, []) for length in lengths}
    return {
        length: MeasuredLength(length, one.window_losses, [Cell(length, 0.5, 40, recall[length], 0.0)])
        for length, one in found.items()
    }


def verdicts(model: Any, recall: dict[int, int]) -> list[dict[str, Any]]:
    planned = [PlannedLength(tokens, f"{tokens // 100}×") for tokens in (100, 200, 400)]
    planned.append(PlannedLength(800, "8×", "8× = 800 tokens is too long"))
    return rows_of(planned, measured(model, (100, 200, 400), recall), JOINED_DOCUMENTS, 0.1, 0.05)


def test_a_model_that_breaks_beyond_a_length_is_found_out() -> None:
    rows = verdicts(Fading(limit=200), recall={100: 36, 200: 36, 400: 36})
    assert [row["verdict"] for row in rows] == ["holds", "holds", "degrades", "not run"]
    assert claimed_context(rows) == 200
    assert rows[1]["perplexity_change_percent"] == pytest.approx(0)
    # The last 4 tokens see 396 to 399 tokens, 197.5 more than the limit.
    assert rows[2]["perplexity_change_percent"] == pytest.approx(100 * math.expm1(0.01 * 197.5))
    assert rows[3]["reason"] == "8× = 800 tokens is too long"


def test_recall_that_falls_degrades_whatever_the_perplexity() -> None:
    rows = verdicts(Fading(limit=10_000), recall={100: 36, 200: 35, 400: 20})
    assert [row["verdict"] for row in rows[:3]] == ["holds", "holds", "degrades"]
    assert "recall -40 points" in rows[2]["reason"]
    assert claimed_context(rows) == 200


def test_what_cannot_be_told_is_not_shown_and_nothing_beyond_is_claimed() -> None:
    recall = {100: 4, 200: 4, 400: 4}
    measured_lengths = measured(Fading(10_000), (100, 200, 400), recall)
    losses = [loss + shift for loss, shift in zip(measured_lengths[200].window_losses, [-1, 1] * 4, strict=True)]
    measured_lengths[200] = MeasuredLength(200, losses, measured_lengths[200].cells)
    planned = [PlannedLength(tokens, "") for tokens in (100, 200, 400)]
    rows = rows_of(planned, measured_lengths, JOINED_DOCUMENTS, 0.1, 0.05)
    assert [row["verdict"] for row in rows] == ["holds", "not shown", "holds"]
    assert claimed_context(rows) == 100
    assert "not above chance (10%)" in rows[2]["reason"]
    assert claim_basis(measured_lengths[100], 0.1).startswith("perplexity alone; recall at 1× is not above chance")
    assert claim_basis(MeasuredLength(100, [], [Cell(100, 0.5, 40, 36, 0.0)]), 0.1) == "perplexity and recall"
    without_reference = rows_of(planned, {400: measured_lengths[400]}, JOINED_DOCUMENTS, 0.1, 0.05)
    assert without_reference[2]["verdict"] == "not shown"
    assert claimed_context(without_reference) is None


def test_a_loss_that_is_not_finite_degrades() -> None:
    found = measured(Fading(10_000), (100, 200), {100: 36, 200: 36})
    found[200] = MeasuredLength(200, [math.nan] * 8, found[200].cells)
    row = rows_of([PlannedLength(100, "1×"), PlannedLength(200, "2×")], found, "", 0.1, 0.05)[1]
    assert row["verdict"] == "degrades"
    assert row["perplexity"] is None


def test_intervals_against_published_values() -> None:
    # Newcombe (1998), table II, example (a): 56/70 and 48/80, method 10.
    difference = share_difference(56, 70, 48, 80)
    assert (difference.low, difference.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    # Student's sleep data (1908): drug 2 less drug 1.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    interval = paired_difference(second, first)
    assert (interval.value, interval.low, interval.high) == pytest.approx((1.58, 0.7001142, 2.4598858))


def test_the_training_context_comes_from_the_checkpoint_unless_it_is_given() -> None:
    assert trained_context(CONFIG, {"context_tokens": 512}) == 512
    assert trained_context(ContextLimitsConfig(trained_tokens=64), {"context_tokens": 512}) == 64
    assert trained_context(CONFIG, {}) is None
    with pytest.raises(ValueError, match="below 2"):
        ContextLimitsConfig(multiples=(1, 2))


def test_plots_are_drawn(tmp_path: Path) -> None:
    rows = verdicts(Fading(limit=200), recall={100: 36, 200: 35, 400: 20})
    plot_context_limits(tmp_path / "limits.png", rows[:3], 100, 0.1)
    cells = [Cell(length, depth, 8, 3, 0.1) for length in (50, 100, 200) for depth in (0.0, 1.0)]
    plot_recall(tmp_path / "marked.png", cells, 0.1, 100)
    plot_recall(tmp_path / "unmarked.png", cells, 0.1, 200)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert min(sizes.values()) > 5000
    assert (tmp_path / "marked.png").read_bytes() != (tmp_path / "unmarked.png").read_bytes()
