"""The tables say what the plan says: sums, shares, contexts, options; and they fit a terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from infra.budget import load_catalog
from tasks.planning import ladder
from tasks.planning.presentation import choices, ladder_tables, plan_risk, plan_tables, terminal_report
from tasks.planning.presentation.cost_tables import (
    all_options_table,
    cost_table,
    hour_count,
    money,
    offer_table,
    stage_table,
    stage_usd,
    wall_clock,
)
from tasks.planning.presentation.headline import headline
from tasks.planning.presentation.model_tables import (
    flops_parts,
    flops_table,
    longest_context_table,
    memory_grid_table,
    memory_table,
    parameter_table,
)
from tasks.planning.presentation.project import ProjectInputs
from tests.tasks.planning.presentation.plans import small_plan


def dollars_in(cell: str) -> float:
    return float(cell.replace("$", "").replace(",", ""))


def printed(budget_usd: float | None = None, width: int = 100) -> list[str]:
    plan, stream = small_plan(budget_usd), io.StringIO()
    risk = plan_risk(plan, ProjectInputs(), draws=200)
    Console(file=stream, width=width, highlight=False).print(terminal_report(plan, risk))
    return stream.getvalue().splitlines()


def test_everything_fits_a_hundred_columns_and_no_figure_is_cut() -> None:
    lines = printed(budget_usd=50.0)
    assert max(len(line.rstrip()) for line in lines) <= 100
    assert not any("…" in line for line in lines)


def test_the_answer_comes_first() -> None:
    lines = printed()
    assert lines[0].startswith("test: 101M parameters, 3.22B tokens")
    assert lines[1].startswith("Recommended")
    assert "own slow spot" in lines[1]


def test_parameters_add_up() -> None:
    rows = parameter_table(small_plan()).rows
    figures = [int(row[1].replace(",", "")) for row in rows]
    assert sum(figures[:-1]) == figures[-1] == small_plan().parameters.total


def test_parts_of_the_flops_add_up_to_the_token() -> None:
    for stage in small_plan().flops:
        assert sum(flops_parts(stage).values()) == pytest.approx(stage.per_token)
    table = flops_table(small_plan())
    assert table.columns == ("layers", "1,024", "2,048", "all")
    growing = next(row for row in table.rows if row[0] == "attention, over the context")
    assert float(growing[2]) == pytest.approx(2 * float(growing[1]), rel=0.02)
    assert next(row for row in table.rows if row[0] == "recomputed besides")[1] == "–"


def test_stages_share_the_dollars_of_training() -> None:
    option = small_plan().option("own slow spot")
    assert option.cost is not None
    paid = option.cost.compute_usd + option.cost.preemptions_usd
    assert sum(stage_usd(option).values()) == pytest.approx(paid)
    table = stage_table(small_plan(), option)
    assert [row[0] for row in table.rows] == ["short", "long", "all"]
    assert "preemptions" in table.note


def test_what_the_money_is_for_adds_up() -> None:
    option = small_plan().option("own slow on-demand")
    rows = cost_table(option).rows
    assert "preemptions: work done again" not in [row[0] for row in rows]
    assert sum(dollars_in(row[1]) for row in rows[:-1]) == pytest.approx(option.usd, rel=0.01)


def test_options_that_miss_a_limit_say_which() -> None:
    budget_usd = small_plan().option("own slow spot").usd * 1.01
    plan = small_plan(budget_usd)
    table = next(table for table in plan_tables(plan, None) if table.key == "options")
    said = {row[0]: row[-1] for row in table.rows}
    assert said == {name: "budget" if plan.option(name).usd > budget_usd else "" for name in said}
    assert set(said.values()) == {"budget", ""}


def test_all_options_tell_why_some_are_set_apart() -> None:
    apart = {row[0]: row[-1] for row in all_options_table(small_plan()).rows}
    assert apart["own old on-demand [founding]"] == "founding price"
    assert apart["own slow reserved-1y"].startswith("binds $")


def test_memory_says_whether_the_profile_fits_and_what_else_would() -> None:
    row = memory_table(small_plan()).rows[0]
    assert row[-1] == "yes"
    own = next(entry for entry in small_plan().memory if entry.is_profile)
    between = (own.total_bytes - 1) / 1e9
    tight = memory_table(small_plan(gpu_memory_gb=between)).rows[0]
    assert re.fullmatch(r"[\d.]+ GB", tight[-1])
    assert memory_table(small_plan(gpu_memory_gb=0.1)).rows[0][-1] == "no"


def test_the_longest_rows_grow_with_each_line_and_are_those_that_fit() -> None:
    found = small_plan()
    table = longest_context_table(found)
    reached = [int(row[1].removesuffix("K").replace(",", "")) for row in table.rows]
    assert reached == sorted(set(reached))
    assert len(reached) >= 2
    best = max(row.largest_contexts.get("80", 0) for row in found.memory)
    assert reached[-1] == best // 1024


def test_the_grid_has_a_row_for_each_stage_and_way_of_recomputing() -> None:
    table = memory_grid_table(small_plan())
    assert {row[0] for row in table.rows} == {"1,024", "2,048"}
    assert {row[2] for row in table.rows} == {"kept", "recomputed"}
    kept, recomputed = (next(row for row in table.rows if row[0] == "2,048" and row[2] == way)
                        for way in ("kept", "recomputed"))  # fmt: skip
    assert float(kept[3]) > float(recomputed[3])


def test_prices_carry_day_and_source() -> None:
    for row in offer_table(small_plan()).rows:
        assert row[-2] == "2026-11-01"
        assert row[-1].endswith("a test")


def test_the_headline_names_what_would_do_when_nothing_does() -> None:
    top = headline(small_plan(budget_usd=1.0))
    assert not top.is_good
    labels = [label for label, _ in top.lines]
    assert labels[0] == "Closest"
    assert "It would do" in labels


def test_the_headline_says_why_nothing_fits() -> None:
    label, sentence = headline(small_plan(gpu_memory_gb=0.1)).lines[0]
    assert label == "Nothing fits"
    assert "GB" in sentence


def test_the_ladder_has_the_founding_sizes_beside_what_they_come_to() -> None:
    catalog = load_catalog()
    training, use = ladder_tables(ladder(catalog), catalog)
    assert [row[0] for row in training.rows] == ["Tiny", "Small", "Medium", "Large", "XL"]
    xl = training.rows[-1]
    assert (xl[3], xl[5]) == ("3,000", "$30,000")  # said
    assert float(xl[4].replace(",", "")) > 20_000  # computed
    assert len(use.rows) == 5


def test_the_recommended_option_is_printed_bold() -> None:
    plan = small_plan()
    named = choices(plan)
    assert named is not None
    table = next(table for table in plan_tables(plan, None) if table.key == "options")
    assert [table.rows[number][0] for number in table.emphasised] == [named.recommended.name]


@pytest.mark.parametrize(
    ("hours", "text"), [(0.05, "3 min 00 s"), (1.24, "1.2 h"), (47.6, "48 h"), (50, "2.1 days"), (2400, "100 days")]
)
def test_times_are_written_in_the_unit_people_think_in(hours: float, text: str) -> None:
    assert wall_clock(hours) == text


def test_dollars_are_whole_from_a_hundred_on() -> None:
    assert (money(15_679.4), money(685.47), money(12.4), money(0.0042)) == ("$15,679", "$685", "$12.40", "$0.0042")
    assert (hour_count(5002.4), hour_count(0.0784)) == ("5,002", "0.078")
