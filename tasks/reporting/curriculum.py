"""The curriculum as curves over the tokens it was trained on, from the checkpoints' histories and manifests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean
from typing import Any

from tasks.reporting import facts
from tasks.reporting.summary import RunSummary, StageSummary

Point = tuple[float, float]
_BORDER_SHARE, _BORDER_UPDATES = 0.05, 100


@dataclass(frozen=True)
class StageCurve:
    """One training stage.

    start: tokens trained on before it. updates: history rows with a loss; timing: by update; held_out: (tokens,
    loss), the first one measured before the first update if the trainer did so (`starts_measured`).
    """

    name: str
    context_tokens: int | None
    start: float
    updates: list[dict[str, Any]]
    timing: list[dict[str, Any]]
    held_out: list[Point]
    starts_measured: bool
    incidents: list[dict[str, Any]]
    usd_per_second: float

    @property
    def end(self) -> float:
        """Tokens trained on after it."""
        return self.start + (self.updates[-1]["tokens"] if self.updates else 0.0)

    @property
    def label(self) -> str:
        """Name and context, for a border in a chart."""
        return self.name if self.context_tokens is None else f"{self.name} · {self.context_tokens:,}"

    def points(self, name: str) -> list[Point]:
        """A figure of the history over tokens."""
        return [(self.start + row["tokens"], float(row[name])) for row in self.updates if _is_figure(row.get(name))]

    def timing_points(self, name: str, scale: float = 1.0) -> list[Point]:
        """A figure of the timing over tokens."""
        return [(self.place(row["step"]), row[name] * scale) for row in self.timing if _is_figure(row.get(name))]

    def place(self, step: float) -> float:
        """Where update `step` ends, in tokens; updates are of equal size."""
        last = self.updates[-1] if self.updates else {"tokens": 0.0, "step": 1}
        return self.start + step * float(last["tokens"]) / float(last["step"])

    def cost_points(self, before_usd: float) -> list[Point]:
        """Dollars so far over tokens: the time of all updates at the price of the machine that made them."""
        rows = [row for row in self.timing if _is_figure(row.get("wall_seconds"))]
        seconds = accumulate(row["wall_seconds"] for row in rows)
        return [
            (self.place(row["step"]), before_usd + so_far * self.usd_per_second)
            for row, so_far in zip(rows, seconds, strict=True)
        ]


def curriculum(summary: RunSummary) -> list[StageCurve]:
    """Every finished checkpoint of the run, in order."""
    curves: list[StageCurve] = []
    for stage in summary.finished(facts.CHECKPOINT):
        curves.append(_curve(stage, curves[-1].end if curves else 0.0))
    return curves


def _curve(stage: StageSummary, start: float) -> StageCurve:
    manifest = facts.manifest_of(stage)
    rows = [row for row in facts.json_lines(stage, "history.jsonl") if _places(row)]
    held_out = [row for row in rows if _is_figure(row.get("validation_loss"))]
    context = manifest.config.get("context_tokens", manifest.statistics.get("context_tokens"))
    incidents = manifest.statistics.get("incidents", [])
    cost = manifest.cost
    return StageCurve(
        name=facts.stage_name(stage),
        context_tokens=context if isinstance(context, int) else None,
        start=start,
        updates=[row for row in rows if row["step"] > 0],
        timing=[row for row in facts.json_lines(stage, "timing.jsonl") if _is_figure(row.get("step"))],
        held_out=[(start + row["tokens"], float(row["validation_loss"])) for row in held_out],
        starts_measured=bool(held_out) and held_out[0]["step"] == 0,
        incidents=[dict(entry) for entry in incidents if isinstance(entry, Mapping)],
        usd_per_second=cost.usd / cost.seconds if cost.seconds else 0.0,
    )


def _places(row: Mapping[str, Any]) -> bool:
    return _is_figure(row.get("step")) and _is_figure(row.get("tokens"))


def _is_figure(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def borders_crossed(curves: Sequence[StageCurve]) -> list[dict[str, Any]]:
    """How the loss went on from each stage to the next, one row a border, in nats a token.

    Training losses are means over as many updates before as after: 5% of the shorter stage, at most 100. A stage's
    first losses are those of the weights before it on its own rows. Held-out rows are as long as the context, so
    where it grows the two held-out losses are of different rows.
    """
    return [_border(one, following) for one, following in pairwise(curves) if one.updates and following.updates]


def _border(before: StageCurve, after: StageCurve) -> dict[str, Any]:
    shorter = min(len(before.updates), len(after.updates))
    count = max(1, min(_BORDER_UPDATES, round(_BORDER_SHARE * shorter)))
    trained = _mean(before.points("loss")[-count:]), _mean(after.points("loss")[:count])
    held = (
        before.held_out[-1][1] if before.held_out else None,
        after.held_out[0][1] if after.starts_measured else None,
    )
    return {
        "border": f"{before.name} → {after.name}",
        "context": f"{before.context_tokens or '?'} → {after.context_tokens or '?'}",
        "updates averaged": count,
        "training before": trained[0],
        "training after": trained[1],
        "training change": _change(*trained),
        "held out before": held[0],
        "held out at the start": held[1],
        "held-out change": _change(*held),
    }


def _mean(points: Sequence[Point]) -> float | None:
    return fmean(y for _, y in points) if points else None


def _change(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else other - one


def incident_rows(curves: Iterable[StageCurve]) -> list[dict[str, Any]]:
    """What went wrong and what was done about it, over all stages."""
    return [
        {"stage": curve.name, "update": incident.get("step"), "what": incident.get("kind"),
         "in particular": incident.get("detail"), "what was done": incident.get("action")}
        for curve in curves
        for incident in curve.incidents
    ]  # fmt: skip
