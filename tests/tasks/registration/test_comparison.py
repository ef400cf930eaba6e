"""The paired bootstrap against closed forms, and verdicts that point the right way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tasks.evaluation.items import ItemScores, item_key
from tasks.registration import comparison
from tasks.registration.comparison import (
    MINIMUM_ITEMS,
    MetricComparison,
    Pairs,
    Verdict,
    compare,
    holm,
    paired_bootstrap,
    two_sided_p,
)

NAMES = ("version 2", "version 1")


def scores(values: object, *, task: str = "piqa", higher: bool = True, weights: object = None) -> ItemScores:
    array = np.asarray(values, dtype=float)
    keys = tuple(item_key(str(number)) for number in range(len(array)))
    by = np.ones(len(array)) if weights is None else np.asarray(weights, dtype=float)
    return ItemScores(task, "score", higher, keys, array, by)


def only(candidate: ItemScores, champion: ItemScores, resamples: int = 2000) -> MetricComparison:
    (found,) = compare([candidate], [champion], NAMES, resamples=resamples).metrics
    return found


def answers(both: int, ours_only: int, theirs_only: int, neither: int) -> tuple[ItemScores, ItemScores]:
    ours = [1] * (both + ours_only) + [0] * (theirs_only + neither)
    theirs = [1] * both + [0] * ours_only + [1] * theirs_only + [0] * neither
    return scores(ours), scores(theirs)


def test_a_mean_difference_agrees_with_the_normal_approximation() -> None:
    generator = np.random.default_rng(3)
    hard = generator.normal(size=1500) * 5  # what makes an item hard is common to both
    candidate, champion = hard + generator.normal(0.03, 1, 1500), hard + generator.normal(0, 1, 1500)
    found = only(scores(candidate), scores(champion), 4000)
    difference = candidate - champion
    error = difference.std(ddof=1) / math.sqrt(1500)
    assert found.difference == pytest.approx(difference.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(difference.mean()) / error), abs=0.03)


@pytest.mark.parametrize(("ours_only", "theirs_only"), [(40, 25), (60, 30), (12, 12), (5, 9)])
def test_an_accuracy_agrees_with_mcnemars_exact_test(ours_only: int, theirs_only: int) -> None:
    found = only(*answers(300, ours_only, theirs_only, 150), 8000)
    exact = stats.binomtest(ours_only, ours_only + theirs_only, 0.5).pvalue
    # The exact test is conservative by about half the probability of its own table.
    table = 2 * stats.binom.pmf(ours_only, ours_only + theirs_only, 0.5)
    assert exact - table - 0.02 <= found.p <= exact + 0.02


def test_a_ratio_agrees_with_the_delta_method() -> None:
    """Bits per byte: documents of very different length."""
    generator = np.random.default_rng(5)
    size = generator.integers(50, 5000, 800).astype(float)
    rate = generator.normal(2.4, 0.3, 800)
    ours, theirs = size * (rate + generator.normal(-0.01, 0.05, 800)), size * rate
    found = only(scores(ours, higher=False, weights=size), scores(theirs, higher=False, weights=size), 4000)
    residual = (ours - theirs) - size * found.difference
    error = math.sqrt((residual**2).sum()) / size.sum()
    assert found.difference == pytest.approx((ours.sum() - theirs.sum()) / size.sum())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    assert found.verdict is Verdict.BETTER and found.difference < 0


def test_equal_models_are_rarely_told_apart() -> None:
    generator = np.random.default_rng(11)
    rejected = 0
    for _ in range(200):
        differences = paired_bootstrap(
            Pairs(generator.normal(size=150), np.ones(150), generator.normal(size=150), np.ones(150)), 400, generator
        )
        rejected += two_sided_p(differences) < 0.05
    assert 1 <= rejected <= 20  # 10 are expected; 20 is the 99.9th percentile of a binomial


def test_memory_is_bounded_without_a_change_of_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    pairs = Pairs(generator.normal(size=300), np.ones(300), generator.normal(size=300), np.ones(300))
    whole = paired_bootstrap(pairs, 50, np.random.default_rng(0))
    monkeypatch.setattr(comparison, "_BLOCK_BYTES", 8 * 300 * 7)
    np.testing.assert_allclose(paired_bootstrap(pairs, 50, np.random.default_rng(0)), whole, rtol=1e-9)


def test_drawing_kinds_and_drawing_items_are_the_same_distribution() -> None:
    """An accuracy's items are of four kinds; a hair's difference makes every item its own."""
    ours, theirs = answers(100, 30, 20, 50)
    by_kind = only(ours, theirs, 6000)
    by_item = only(scores(ours.values + np.arange(200) * 1e-9), theirs, 6000)
    assert by_item.low == pytest.approx(by_kind.low, abs=0.006)
    assert by_item.high == pytest.approx(by_kind.high, abs=0.006)
    assert by_item.p == pytest.approx(by_kind.p, abs=0.05)


def test_items_pair_up_by_key_whatever_their_order_and_subset() -> None:
    ours, theirs = answers(100, 30, 5, 50)
    order = np.random.default_rng(0).permutation(185)[:150]
    fewer = ItemScores(
        "piqa", "score", True, tuple(theirs.items[place] for place in order), theirs.values[order], np.ones(150)
    )
    found = only(ours, fewer)
    assert (found.items, found.only_candidate, found.only_champion) == (150, 35, 0)
    assert found.candidate == pytest.approx(ours.values[order].mean())
    assert found.champion == pytest.approx(fewer.values.mean())


def test_an_item_that_occurs_twice_counts_with_all_its_weight() -> None:
    values = np.arange(30.0)
    twice = ItemScores(
        "piqa", "score", True, (*scores(values).items, scores(values).items[0]), np.append(values, 100.0), np.ones(31)
    )
    found = only(twice, scores(values))
    assert found.items == 30 and found.candidate == pytest.approx((values.sum() + 100) / 31)


@pytest.mark.parametrize("higher", [True, False])
def test_the_verdict_knows_which_way_is_better(higher: bool) -> None:
    more, fewer = answers(100, 60, 5, 50)
    ours = scores(more.values, higher=higher)
    theirs = scores(fewer.values, higher=higher)
    assert only(ours, theirs).verdict is (Verdict.BETTER if higher else Verdict.WORSE)
    assert only(theirs, ours).verdict is (Verdict.WORSE if higher else Verdict.BETTER)
    assert only(ours, ours).verdict is Verdict.UNDECIDED and only(ours, ours).p == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


def test_many_metrics_need_more_evidence() -> None:
    one = answers(200, 22, 9, 100)
    same = answers(200, 10, 10, 100)[0]
    alone = compare([one[0]], [one[1]], NAMES)
    others = [ItemScores(f"t{n}", "score", True, same.items, same.values, same.weights) for n in range(9)]
    among = compare([one[0], *others], [one[1], *others], NAMES)
    assert alone.metrics[0].verdict is Verdict.BETTER
    assert among.metrics[0].verdict is Verdict.UNDECIDED and among.metrics[0].p == alone.metrics[0].p


def test_what_cannot_be_compared_is_named_with_the_reason() -> None:
    ours, theirs = answers(30, 5, 5, 30)
    elsewhere = ItemScores("arc", "score", True, tuple("abc"), np.ones(3), np.ones(3))
    found = compare(
        [ours, scores(np.ones(5), task="few"), elsewhere], [theirs, scores(np.ones(5), task="few"),
         scores(np.ones(40), task="arc"), scores(np.ones(40), task="only_theirs")], NAMES, resamples=200,
    )  # fmt: skip
    assert [metric.name for metric in found.metrics] == ["piqa/score"]
    assert {one.name: one.reason for one in found.uncompared} == {
        "few/score": f"only 5 items in common, and a verdict needs {MINIMUM_ITEMS}",
        "arc/score": f"no item in common, and a verdict needs {MINIMUM_ITEMS}",
        "only_theirs/score": "only version 1 was measured on it",
    }
    assert "3 not compared" in found.sentence and not found.objections


def test_a_candidate_without_finite_values_is_objected_to() -> None:
    broken = scores([math.inf, *([1.0] * 40)])
    found = compare([broken], [scores(np.ones(41))], NAMES)
    assert found.objections == ["piqa/score: the candidate's value of 1 of 41 items is not finite"]
    assert not compare([scores(np.ones(41))], [broken], NAMES).objections


def test_nothing_in_common_is_not_run_and_says_so() -> None:
    found = compare([scores(np.ones(40))], [], NAMES)
    assert found.not_run == "piqa/score: only version 2 was measured on it"
    assert found.sentence.startswith("Not compared with version 1: ")
    assert compare([], [], NAMES).not_run == "neither evaluation has results item by item"


def test_the_same_scores_give_the_same_figures_whatever_else_is_compared() -> None:
    ours, theirs = answers(100, 30, 20, 50)
    more = scores(np.random.default_rng(0).normal(size=60), task="other")
    alone = compare([ours], [theirs], NAMES, resamples=500)
    together = compare([more, ours], [more, theirs], NAMES, resamples=500)
    assert (together.metrics[1].low, together.metrics[1].p) == (alone.metrics[0].low, alone.metrics[0].p)
