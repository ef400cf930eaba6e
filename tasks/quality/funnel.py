"""What each filter left of each source: figures of a shard, their sums, tables, and the plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]

from tasks.charts import GRID, INK, new_chart, save_chart
from tasks.quality.config import QualityConfig
from tasks.quality.judgement import FILTERS, KEPT, REASONS, SourceColumn

_COUNTS = ("in", "kept", "kept_bytes", "masked", "language_asked", "language_passed")
_TALLIES = ("removed", "languages", "languages_kept")
_ALL = "all sources"
_LANGUAGES_SHOWN = 6
_ROWS_SHOWN = 24
_COLOURS = ("#f4dcd6", "#fbf3e4", "#2a9d8f")


def shard_figures(
    sources: SourceColumn,
    reason: npt.NDArray[np.uint8],
    verdicts: pa.Table,
    texts: pa.ChunkedArray,
    config: QualityConfig,
) -> dict[str, Any]:
    """Counts by source: documents in, kept, kept bytes, masked items, removals by reason, languages found."""
    kept = reason == KEPT
    sizes = np.asarray(pc.fill_null(pc.binary_length(texts), 0)).astype(np.int64)
    masked = np.asarray(verdicts.column("masked_items"))
    languages = SourceColumn.of(verdicts.column("language"))
    asked = np.array([name != "" for name in languages.names])[languages.index] if len(reason) else kept
    probability = np.asarray(verdicts.column("language_probability"))
    result = {}
    for number, name in enumerate(sources.names):
        own = sources.index == number
        least = config.settings_for(name).minimum_language_probability
        right = np.array([language == config.language for language in languages.names])[languages.index]
        result[name] = {
            "in": int(own.sum()),
            "kept": int((own & kept).sum()),
            "kept_bytes": int(sizes[own & kept].sum()),
            "masked": int(masked[own & kept].sum()),
            "language_asked": int((own & asked).sum()),
            "language_passed": int((own & asked & right & (probability >= least)).sum()),
            "removed": _tally(REASONS, reason[own & ~kept]),
            "languages": _tally(languages.names, languages.index[own & asked]),
            "languages_kept": _tally(languages.names, languages.index[own & kept]),
        }
    return {"sources": result}


def _tally(names: tuple[str, ...], codes: npt.NDArray[np.integer]) -> dict[str, int]:
    counts = np.bincount(codes, minlength=len(names))
    return {names[code]: int(counts[code]) for code in np.flatnonzero(counts)}


def merged_figures(figures: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sums over shards, by source."""
    merged: dict[str, dict[str, Any]] = {}
    for figure in figures.values():
        for source, entry in sorted(figure["sources"].items()):
            total = merged.setdefault(source, {**dict.fromkeys(_COUNTS, 0), **{name: {} for name in _TALLIES}})
            for key in _COUNTS:
                total[key] += entry[key]
            for name in _TALLIES:
                for key, count in entry[name].items():
                    total[name][key] = total[name].get(key, 0) + count
    return dict(sorted(merged.items()))


def tables_of(config: QualityConfig, sources: Mapping[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The stage's tables; see each."""
    return {
        "quality funnel": [_funnel_row(name, entry) for name, entry in sources.items()],
        "documents left after each filter": [
            {"Source": name, "In": entry["in"], **_left_after(entry)} for name, entry in _with_all(sources).items()
        ],
        "removed by reason": _reason_rows(sources),
        "languages found": [_language_row(config, name, entry) for name, entry in sources.items()],
        "quality alarms": _alarms(config, sources),
    }


def _funnel_row(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    reasons = sorted(entry["removed"].items(), key=lambda item: (-item[1], item[0]))
    return {
        "Source": name,
        "In": entry["in"],
        "Kept": entry["kept"],
        "Kept share": f"{entry['kept'] / entry['in']:.1%}",
        "Megabytes kept": round(entry["kept_bytes"] / 1e6, 3),
        "Masked items": entry["masked"],
        "Main reasons": ", ".join(f"{reason}: {count}" for reason, count in reasons[:4]) or "none",
    }


def _left_after(entry: Mapping[str, Any]) -> dict[str, int]:
    """Filter -> documents it left, for the filters in their order."""
    left, result = entry["in"], {}
    for name, reasons in FILTERS.items():
        left -= sum(entry["removed"].get(reason, 0) for reason in reasons)
        result[name] = left
    return result


def _reason_rows(sources: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a reason, one column a source."""
    totals: dict[str, int] = {}
    for entry in sources.values():
        for reason, count in entry["removed"].items():
            totals[reason] = totals.get(reason, 0) + count
    return [
        {
            "Reason": reason,
            "All": count,
            **{name: entry["removed"].get(reason, 0) for name, entry in sources.items()},
        }
        for reason, count in sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    ]


def _language_row(config: QualityConfig, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Languages of the documents that reached the language filter, and what the source's threshold let through."""
    asked = max(entry["language_asked"], 1)
    common = sorted(entry["languages"].items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in common[_LANGUAGES_SHOWN:])
    shown = [f"{language} {count / asked:.1%}" for language, count in common[:_LANGUAGES_SHOWN]]
    return {
        "Source": name,
        "Asked": entry["language_asked"],
        "Languages": ", ".join([*shown, *([f"other {rest / asked:.1%}"] if rest else [])]) or "none",
        f"Is {config.language}": f"{entry['languages'].get(config.language, 0) / asked:.1%}",
        "Threshold": config.settings_for(name).minimum_language_probability,
        "Passed": f"{entry['language_passed'] / asked:.1%}",
    }


def _alarms(config: QualityConfig, sources: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Sources that lost more than expected: a filter gone wrong looks exactly like this."""
    rows = []
    for name, entry in sources.items():
        expected = config.settings_for(name).expected_loss
        loss = 1 - entry["kept"] / entry["in"]
        if loss <= expected:
            continue
        by_filter = {
            which: sum(entry["removed"].get(reason, 0) for reason in reasons) for which, reasons in FILTERS.items()
        }
        filter_ = max(by_filter, key=lambda which: by_filter[which])
        rows.append(
            {
                "Source": name,
                "Lost": f"{loss:.0%}",
                "Expected at most": f"{expected:.0%}",
                "Mostly": max(entry["removed"], key=lambda reason: (entry["removed"][reason], reason)),
                "Filter": f"{filter_} ({by_filter[filter_] / entry['in']:.0%})",
            }
        )
    return rows


def _with_all(sources: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sources, and a row for all of them where there are several."""
    if len(sources) < 2:
        return dict(sources)
    total: dict[str, Any] = {"in": sum(entry["in"] for entry in sources.values()), "removed": {}}
    for entry in sources.values():
        for reason, count in entry["removed"].items():
            total["removed"][reason] = total["removed"].get(reason, 0) + count
    return {_ALL: total, **sources}


def draw_funnel(path: Path, sources: Mapping[str, dict[str, Any]]) -> None:
    """One row a source, one column a filter in order: the share of the source's documents that is left."""
    from matplotlib.colors import LinearSegmentedColormap

    rows = dict(list(_with_all(sources).items())[:_ROWS_SHOWN])
    columns = [name for name in FILTERS if any(_removed_by(entry, name) for entry in rows.values())] or ["length"]
    shares = np.array([[_left_after(entry)[name] / entry["in"] for name in columns] for entry in rows.values()])
    figure, axes = new_chart("Share of each source's documents left after each filter", len(rows))
    axes.grid(visible=False)
    axes.imshow(
        shares, cmap=LinearSegmentedColormap.from_list("left", _COLOURS), vmin=0, vmax=1, aspect="auto", alpha=0.85
    )
    for row, values in enumerate(shares):
        for column, value in enumerate(values):
            before = values[column - 1] if column else 1.0
            axes.text(
                column, row, f"{value:.0%}" if value in (0.0, 1.0) or value >= 0.1 else f"{value:.1%}",
                ha="center", va="center", color=INK, fontsize=8, fontweight="bold" if value < before else "normal",
            )  # fmt: skip
    axes.set_xticks(range(len(columns)), [name.replace(" ", "\n", 1) for name in columns], fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{name}  ({entry['in']:,})" for name, entry in rows.items()], fontsize=8)
    axes.xaxis.set_ticks_position("top")
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(-0.5, len(columns)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    axes.grid(which="minor", color=GRID, linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    save_chart(figure, path)


def _removed_by(entry: Mapping[str, Any], name: str) -> int:
    return sum(entry["removed"].get(reason, 0) for reason in FILTERS[name])
