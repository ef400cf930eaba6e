"""Something to look at: the largest clusters with the words that differ, their sizes, duplicates between sources."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import orjson
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]

from infra.storage.local import atomic_file
from tasks.charts import INK, new_chart, plain_bars, save_chart, stacked_bars
from tasks.deduplication.corpus import Corpus
from tasks.deduplication.decisions import Decisions, size_counts
from tasks.deduplication.index import SketchFile
from tasks.deduplication.units import EXACT, NEAR
from tasks.documents import PLOTS
from tasks.sharded_work import UnitOutput

_TEMPLATE = Path(__file__).with_name("clusters.html")
_SHOWN_DUPLICATES = 3
_EXCERPT_CHARACTERS = 160
#: Words compared for the side-by-side view, and words shown of it, some of them before the first difference.
_COMPARED_WORDS = 300
_SHOWN_WORDS = 120
_WORDS_BEFORE = 20
_MOST_SOURCES = 24
_LARGEST_BAR = 8
_SINGLE_SIZES = 10
_MOST_TABLE_ROWS = 40
_PIECE = re.compile(r"\S+\s*")
#: What terminals and browsers might act on.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Piece:
    """Some words of an excerpt; `differs` from the other side."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Duplicate:
    """One document that went, beside the one that stayed."""

    id: str
    source: str
    reason: str
    similarity: float
    excerpt: str
    kept_pieces: list[Piece] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)


@dataclass(frozen=True)
class Cluster:
    """A cluster's keeper and some of what went for it."""

    size: int
    id: str
    source: str
    earlier: bool
    excerpt: str
    duplicates: list[Duplicate]


@dataclass(frozen=True)
class ReportUnit:
    """Write what there is to look at: clusters.html, clusters.jsonl and the plots.

    `decisions`: where the stage left them (`Decisions.write`); `documents`: the files it reads texts from.
    """

    corpus: Corpus
    decisions: Path
    examples: int
    documents: tuple[Path, ...]
    directory: Path

    def run(self) -> UnitOutput:
        """Write all files."""
        decisions = Decisions.read(self.decisions)
        page = ClusterPage(self.corpus, decisions, self.examples)
        sizes = size_counts(decisions.cluster_sizes()[1])
        by_source, between = _by_source(self.corpus, decisions)
        files = [self.directory / "clusters.html", self.directory / "clusters.jsonl"]
        page.write(files[0], sizes, between)
        write_examples(files[1], page.clusters)
        plots = self.directory / PLOTS
        files += [plots / f"{name}.png" for name in ("duplicates_by_source", "cluster_sizes", "sources_in_common")]
        stacked_bars(files[2], "What deduplication kept and removed", "documents", by_source)
        plain_bars(files[3], "Clusters of duplicates by size", "clusters", *_size_bars(sizes))
        _draw_heat_map(files[4], heat_map(between))
        return UnitOutput(tuple(files))


def _by_source(corpus: Corpus, decisions: Decisions) -> tuple[dict[str, dict[str, float]], Counter[tuple[str, str]]]:
    """Documents by source and fate, and duplicates by their source and that of what stays."""
    counts: dict[str, dict[str, float]] = {}
    for shard in corpus.own:
        for row in pc.value_counts(SketchFile(shard.sketch).sources).to_pylist():
            fates = counts.setdefault(row["values"], {"kept": 0, EXACT: 0, NEAR: 0})
            fates["kept"] += row["counts"]
    distinct, places = np.unique(decisions.keepers, return_inverse=True)
    sources = corpus.gather(decisions.rows).sources.tolist()
    keepers = corpus.gather(distinct).sources[places].tolist()
    for source, exact in zip(sources, decisions.exact.tolist(), strict=True):
        counts[source]["kept"] -= 1
        counts[source][EXACT if exact else NEAR] += 1
    return counts, Counter(zip(sources, keepers, strict=True))


def _size_bars(sizes: Counter[int]) -> tuple[list[str], list[float]]:
    labels = [str(size) for size in range(2, _LARGEST_BAR)] + [f"{_LARGEST_BAR} or more"]
    values = [float(sizes[size]) for size in range(2, _LARGEST_BAR)]
    return labels, [*values, float(sum(count for size, count in sizes.items() if size >= _LARGEST_BAR))]


class ClusterPage:
    """The largest clusters of a run."""

    def __init__(self, corpus: Corpus, decisions: Decisions, count: int) -> None:
        self._corpus = corpus
        self._decisions = decisions
        self._count = count

    @cached_property
    def clusters(self) -> list[Cluster]:
        """The largest clusters, ties in the order of the keepers' ids; of each the least similar that went."""
        keepers, sizes = self._decisions.cluster_sizes()
        if not self._count or not len(keepers):
            return []
        least = np.sort(sizes)[-min(self._count, len(sizes))]
        keepers, sizes = keepers[sizes >= least], sizes[sizes >= least]
        order = np.lexsort((self._corpus.gather(keepers).id_ranks(), -sizes))[: self._count]
        members = {int(keepers[place]): self._shown(int(keepers[place])) for place in order}
        rows = sorted({*members, *(row for shown in members.values() for row in self._decisions.rows[shown].tolist())})
        known = self._corpus.gather(np.array(rows, np.int64))
        names = {row: (known.ids[place], known.sources[place]) for place, row in enumerate(rows)}
        texts = self._corpus.texts(rows)
        return [
            self._cluster(int(keepers[place]), int(sizes[place]), members[int(keepers[place])], names, texts)
            for place in order
        ]

    def _shown(self, keeper: int) -> np.ndarray[Any, Any]:
        """Places in the decisions of a cluster's least similar documents."""
        places = np.flatnonzero(self._decisions.keepers == keeper)
        ids = self._corpus.gather(self._decisions.rows[places]).id_ranks()
        return places[np.lexsort((ids, self._decisions.similarity[places]))][:_SHOWN_DUPLICATES]

    def _cluster(
        self,
        keeper: int,
        size: int,
        shown: np.ndarray[Any, Any],
        names: Mapping[int, tuple[str, str]],
        texts: Mapping[int, str],
    ) -> Cluster:
        duplicates = []
        for place in shown.tolist():
            row = int(self._decisions.rows[place])
            ours, theirs = side_by_side(texts[keeper], texts[row])
            duplicates.append(
                Duplicate(
                    *names[row],
                    EXACT if self._decisions.exact[place] else NEAR,
                    round(float(self._decisions.similarity[place]), 4),
                    _excerpt(texts[row]),
                    ours,
                    theirs,
                )
            )
        earlier = keeper >= self._corpus.own_rows
        return Cluster(size, *names[keeper], earlier, _excerpt(texts[keeper]), duplicates)

    def write(self, path: Path, sizes: Counter[int], between: Counter[tuple[str, str]]) -> None:
        """Write the page: one file, no scripts, every text escaped."""
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        template = environment.from_string(_TEMPLATE.read_text())
        bars = size_ranges(sizes)
        largest = max((count for _, count in bars), default=1)
        page = template.render(
            clusters=self.clusters,
            sizes=[(label, count, 100 * count / largest) for label, count in bars],
            duplicates=len(self._decisions.rows),
            documents=self._corpus.own_rows,
            matrix=heat_map(between),
        )
        with atomic_file(path) as stream:
            stream.write(page.encode("utf-8", "replace"))


def size_ranges(sizes: Counter[int]) -> list[tuple[str, int]]:
    """Clusters by size: each small size by itself, then ranges twice as long each; empty ones are left out."""
    bars = [(str(size), sizes[size]) for size in range(2, _SINGLE_SIZES)]
    low = _SINGLE_SIZES
    while low <= max(sizes, default=0):
        bars.append((f"{low:,} to {2 * low - 1:,}", sum(sizes[size] for size in sizes if low <= size < 2 * low)))
        low *= 2
    return [(label, count) for label, count in bars if count]


def side_by_side(kept: str, gone: str) -> tuple[list[Piece], list[Piece]]:
    """Excerpts from shortly before the first difference, in pieces that are equal or differ (difflib over words)."""
    sides = [_PIECE.findall(_CONTROL.sub("�", text)) for text in (kept, gone)]
    pairs = zip(*sides, strict=False)
    same = next((place for place, (a, b) in enumerate(pairs) if a.strip() != b.strip()), min(map(len, sides)))
    start = max(0, same - _WORDS_BEFORE) if same < max(map(len, sides)) else 0
    ours, theirs = (pieces[start : start + _COMPARED_WORDS] for pieces in sides)
    blocks = difflib.SequenceMatcher(None, _stripped(ours), _stripped(theirs), autojunk=False).get_opcodes()
    left: list[Piece] = []
    right: list[Piece] = []
    for kind, a, a_end, b, b_end in blocks:
        for side, pieces, low, high in ((left, ours, a, a_end), (right, theirs, b, b_end)):
            text = "".join(pieces[low : min(high, _SHOWN_WORDS)])
            if text:
                side.append(Piece(_shortened(text), kind != "equal"))
    return left, right


def _stripped(pieces: list[str]) -> list[str]:
    return [piece.strip() for piece in pieces]


def _shortened(text: str) -> str:
    """A text without words in it (one long line) must not fill the page."""
    limit = 12 * _SHOWN_WORDS
    return text if len(text) <= limit else text[:limit] + "…"


def _excerpt(text: str) -> str:
    return _CONTROL.sub("�", text[:_EXCERPT_CHARACTERS])


def write_examples(path: Path, clusters: Sequence[Cluster]) -> None:
    """`clusters.jsonl`: one line a cluster, with excerpts."""
    with atomic_file(path) as stream:
        for cluster in clusters:
            line = {
                "size": cluster.size,
                "kept": {
                    "id": cluster.id,
                    "source": cluster.source,
                    "earlier_run": cluster.earlier,
                    "excerpt": cluster.excerpt,
                },
                "removed": [
                    {name: value for name, value in asdict(one).items() if not name.endswith("pieces")}
                    for one in cluster.duplicates
                ],
            }
            stream.write(orjson.dumps(line) + b"\n")


@dataclass(frozen=True)
class HeatMap:
    """Documents that went, by their source (row) and that of what stays (column). shade: 0 to 1, logarithmic."""

    rows: list[str]
    columns: list[str]
    cells: list[list[tuple[int, float]]]


def heat_map(between: Counter[tuple[str, str]]) -> HeatMap:
    """The sources with the most duplicates; the others are added up."""
    named = _largest_sources(between)
    merged: Counter[tuple[str, str]] = Counter()
    for (source, keeper), count in between.items():
        merged[_name(source, named), _name(keeper, named)] += count
    rows = sorted({source for source, _ in merged})
    columns = sorted({keeper for _, keeper in merged})
    top = np.log1p(max(merged.values(), default=1))
    cells = [[(merged[row, column], float(np.log1p(merged[row, column]) / top)) for column in columns] for row in rows]
    return HeatMap(rows, columns, cells)


def _draw_heat_map(path: Path, matrix: HeatMap) -> None:
    figure, axes = new_chart("Duplicates between sources", len(matrix.rows) + 4)
    axes.grid(visible=False)
    axes.set_xlabel("source of the document that stays", color=INK, fontsize=9)
    axes.set_ylabel("source of the document that went", color=INK, fontsize=9)
    if matrix.rows:
        shades = np.array([[shade for _, shade in row] for row in matrix.cells])
        axes.imshow(shades, cmap="GnBu", vmin=0, vmax=1.4, aspect="auto")
        axes.set_xticks(range(len(matrix.columns)), matrix.columns, rotation=60, ha="right", fontsize=7)
        axes.set_yticks(range(len(matrix.rows)), matrix.rows, fontsize=7)
        for row, cells in enumerate(matrix.cells):
            for column, (count, _) in enumerate(cells):
                axes.text(column, row, f"{count:,}" if count else "", ha="center", va="center", fontsize=6, color=INK)
    save_chart(figure, path)


def _largest_sources(between: Counter[tuple[str, str]]) -> set[str]:
    totals: Counter[str] = Counter()
    for (source, keeper), count in between.items():
        totals[source] += count
        totals[keeper] += count
    ordered = sorted(totals, key=lambda source: (-totals[source], source))
    return set(ordered[:_MOST_SOURCES])


def _name(source: str, named: set[str]) -> str:
    return source if source in named else "all other"


def source_matrix(between: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    """Rows of the table of duplicates between sources, most first; beyond some rows, only how many there are."""
    ordered = sorted(between, key=lambda pair: (-between[pair], pair))
    rows = [
        {"Source": source, "Duplicate of": keeper, "Documents": between[source, keeper]}
        for source, keeper in ordered[:_MOST_TABLE_ROWS]
    ]
    if len(ordered) > _MOST_TABLE_ROWS:
        rest = sum(between[pair] for pair in ordered[_MOST_TABLE_ROWS:])
        rows.append({"Source": "all other", "Duplicate of": "all other", "Documents": rest})
    return rows
