"""The timeline as bars over dates, with milestones and, from a simulation, how far each end may move."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from tasks.charts import INK, KEPT, PALETTE, new_chart, save_chart
from tasks.risk.timeline import Timeline

_CRITICAL, _SLACK, _LATE = KEPT, PALETTE[8], PALETTE[0]


def plot_gantt(timeline: Timeline, path: Path, title: str = "Timeline") -> None:
    """One bar an activity, first at the top; a line from the 5th to the 95th percentile of its end."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows = list(timeline.activities)[::-1]
    figure, axes = new_chart(title, len(rows) + 3)
    for row, activity in enumerate(rows):
        begin, end = float(date2num(activity.start)), float(date2num(activity.finish))
        axes.barh(row, end - begin, left=begin, height=0.5, color=_CRITICAL if activity.critical else _SLACK)
        last, text = end, _day(activity.finish)
        if activity.early is not None and activity.late is not None:
            early, last = float(date2num(activity.early)), max(end, float(date2num(activity.late)))
            axes.plot([early, last], [row, row], "|-", color=_LATE, linewidth=2.2, markersize=9, solid_capstyle="butt")
            text += f", late {_day(activity.late)}" if _day(activity.late) != text else ""
        if activity.milestone:
            axes.plot([end], [row], "D", color=INK, markersize=5)
        axes.annotate(
            text, (last, row), xytext=(8, 0), textcoords="offset points", va="center", fontsize=8, color=INK
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [activity.name for activity in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.margins(x=0.13)
    locator = AutoDateLocator(maxticks=10)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set(color=INK, fontsize=9)
    handles: list[Patch | Line2D] = [Patch(color=_CRITICAL, label="plan, any delay delays the end")]
    if not all(activity.critical for activity in rows):
        handles.append(Patch(color=_SLACK, label="plan, may slip"))
    if any(activity.milestone for activity in rows):
        handles.append(Line2D([], [], color=INK, marker="D", linestyle="", markersize=5, label="milestone"))
    if any(activity.late is not None for activity in rows):
        handles.append(Line2D([], [], color=_LATE, linewidth=2.2, label="end, 5th to 95th percentile (late)"))
    axes.legend(
        handles=handles, ncols=4, frameon=False, fontsize=8, labelcolor=INK, loc="upper left", bbox_to_anchor=(0, -0.14)
    )
    save_chart(figure, path)


def _day(date: datetime) -> str:
    return f"{date.day} {date:%b}"
