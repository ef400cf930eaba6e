"""The verdict on every document of a shard, column by column: what removes it, or its score and masked text.

Filters run from cheap to dear, and each sees only what the ones before it left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]

from tasks.quality.config import ClassifierConfig, PiiKind, QualityConfig
from tasks.quality.counts import Column, Counts
from tasks.quality.language import identify_batch
from tasks.quality.measures import measure
from tasks.quality.personal_data.patterns import KINDS
from tasks.quality.rules import LINE_FILTERS, RULES, Family, first_broken, linear_score, quality_level
from tasks.quality.scan import ScanResult, mask, scan
from tasks.text.batch import Positions, TextBatch
from tasks.text.fasttext import FastTextModel

#: Texts that language, scan and classifiers are given at once.
_BLOCK_BYTES = 1 << 22

TOO_SHORT, TOO_LONG, DUPLICATE = "too short", "too long", "exact duplicate"
OTHER_LANGUAGE, UNCERTAIN_LANGUAGE = "other language", "language not certain"
PROFANITY = "profanity"
LINKS, SALES_PHRASES, SPAM = "spam: links", "spam: sales phrases", "spam: classifier"
CONTACTS = "personal data: density"
LOW_QUALITY = "low quality score"

#: Filter -> the reasons it gives, in the order of the filters.
FILTERS: dict[str, tuple[str, ...]] = {
    "length": (TOO_SHORT, TOO_LONG),
    "exact duplicates": (DUPLICATE,),
    **{family.value: tuple(dict.fromkeys(rule.reason for rule in RULES if rule.family is family)) for family in Family},
    "language": (OTHER_LANGUAGE, UNCERTAIN_LANGUAGE),
    "profanity": (PROFANITY,),
    "personal data": (*(f"personal data: {kind.value}" for kind in PiiKind), CONTACTS),
    "spam": (LINKS, SALES_PHRASES, SPAM),
    "quality cut": (LOW_QUALITY,),
}
#: Reasons by code; code 0 stands for a document that was not removed.
REASONS: tuple[str, ...] = ("", *dict.fromkeys(reason for reasons in FILTERS.values() for reason in reasons))
_CODE = {reason: code for code, reason in enumerate(REASONS)}
_RULE_CODES = np.array([_CODE[rule.reason] for rule in RULES], np.uint8)
KEPT = np.uint8(0)


@dataclass
class Verdicts:
    """Of each document: reason [documents] code into `REASONS`, score [documents] the figure that decided.

    level: quality score (see `rules.SCORE_LEVELS`) of those not removed; language: index into
    `labels`, -1 where no filter asked; probability: of that language; masked_items: personal data
    replaced; masked_texts: row -> text with placeholders.
    """

    reason: npt.NDArray[np.uint8]
    score: npt.NDArray[np.float64]
    level: npt.NDArray[np.uint16]
    language: npt.NDArray[np.int16]
    probability: npt.NDArray[np.float64]
    masked_items: npt.NDArray[np.int64]
    labels: tuple[str, ...] = ()
    masked_texts: dict[int, str] = field(default_factory=dict)

    @classmethod
    def none_yet(cls, documents: int) -> Verdicts:
        """All documents kept so far."""
        return cls(
            np.zeros(documents, np.uint8),
            np.zeros(documents),
            np.zeros(documents, np.uint16),
            np.full(documents, -1, np.int16),
            np.zeros(documents),
            np.zeros(documents, np.int64),
        )

    def remove(self, rows: Positions, reason: str, score: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> None:
        """Remove documents that were kept so far; `score`: [rows]."""
        self.reason[rows] = _CODE[reason]
        self.score[rows] = score

    def kept(self) -> Positions:
        """Rows of the documents not removed so far."""
        return np.flatnonzero(self.reason == KEPT)


def length_reasons(texts: pa.ChunkedArray, config: QualityConfig) -> tuple[npt.NDArray[np.uint8], Positions]:
    """[documents] code of the reason (0 for none) and characters; nulls have none."""
    characters = np.asarray(pc.fill_null(pc.utf8_length(texts), 0)).astype(np.int64)
    reasons = np.where(characters < config.minimum_characters, _CODE[TOO_SHORT], 0)
    reasons = np.where(characters > config.maximum_characters, _CODE[TOO_LONG], reasons)
    return reasons.astype(np.uint8), characters


def judge(texts: pa.ChunkedArray, sources: pa.ChunkedArray, copies: dict[int, int], config: QualityConfig) -> Verdicts:
    """Verdicts on a shard's documents; `copies`: row -> how often its text occurs, of those to remove as duplicates."""
    batch = TextBatch.from_arrow(texts)
    verdicts = Verdicts.none_yet(len(batch))
    verdicts.reason[:], characters = length_reasons(texts, config)
    removed = np.flatnonzero(verdicts.reason)
    verdicts.score[removed] = characters[removed]
    duplicates = np.array(sorted(copies), np.int64)
    verdicts.remove(duplicates, DUPLICATE, np.array([copies[row] for row in duplicates.tolist()], np.int64))
    source_of = SourceColumn.of(sources)
    counts = _judge_by_rules(batch, source_of, verdicts, config)
    _judge_language(batch, source_of, verdicts, config)
    _judge_content(batch, counts, verdicts, config)
    _judge_by_classifier(batch, verdicts, config)
    _score(batch, counts, verdicts, config)
    return verdicts


@dataclass(frozen=True)
class SourceColumn:
    """names: the different sources; index: [documents] into them."""

    names: tuple[str, ...]
    index: npt.NDArray[np.int64]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> SourceColumn:
        """Encode a column of source names."""
        encoded = pc.fill_null(column, "").combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.unify_dictionaries().combine_chunks()
        return cls(tuple(encoded.dictionary.to_pylist()), np.asarray(encoded.indices).astype(np.int64))


def _chosen(batch: TextBatch, rows: Positions, maximum_bytes: int) -> Iterator[tuple[Positions, TextBatch]]:
    """The texts of `rows`, in blocks of about `maximum_bytes`, each with its rows."""
    ends = np.cumsum(batch.sizes[rows])
    start = 0
    while start < len(rows):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + maximum_bytes, side="right")))
        yield rows[start:stop], batch.take(rows[start:stop])
        start = stop


def _judge_by_rules(batch: TextBatch, sources: SourceColumn, verdicts: Verdicts, config: QualityConfig) -> Counts:
    """Apply the rule sets; returns [documents, columns] counts, of use where the rules left the document."""
    names = list(config.rule_sets)
    set_of_source = np.array([names.index(config.settings_for(name).rules) for name in sources.names], np.int64)
    filter_of_set = np.array([LINE_FILTERS[config.rule_sets[name].line_filter] for name in names], np.uint8)
    set_of = set_of_source[sources.index] if len(batch) else np.zeros(0, np.int64)
    counts = np.zeros((len(batch), len(Column)), np.int64)
    for rows, texts in _chosen(batch, verdicts.kept(), 1 << 19):
        counts[rows] = measure(texts, filter_of_set[set_of[rows]])
    rows = verdicts.kept()
    broken, values = first_broken(counts[rows], config.rule_sets, names, set_of[rows])
    breaking = broken >= 0
    verdicts.reason[rows[breaking]] = _RULE_CODES[broken[breaking]]
    verdicts.score[rows[breaking]] = values[breaking]
    return counts


def _judge_language(batch: TextBatch, sources: SourceColumn, verdicts: Verdicts, config: QualityConfig) -> None:
    least_of_source = np.array([config.settings_for(name).minimum_language_probability for name in sources.names])
    for rows, texts in _chosen(batch, verdicts.kept(), _BLOCK_BYTES):
        found = identify_batch(texts)
        verdicts.labels = found.labels
        verdicts.language[rows], verdicts.probability[rows] = found.label_index, found.probability
        right = found.label_index == (found.labels.index(config.language) if config.language in found.labels else -1)
        uncertain = right & (found.probability < least_of_source[sources.index[rows]])
        verdicts.remove(rows[~right], OTHER_LANGUAGE, found.probability[~right])
        verdicts.remove(rows[uncertain], UNCERTAIN_LANGUAGE, found.probability[uncertain])


def _judge_content(batch: TextBatch, counts: Counts, verdicts: Verdicts, config: QualityConfig) -> None:
    """Profanity, personal data and the rules against spam, which one scan of the text serves."""
    for rows, texts in _chosen(batch, verdicts.kept(), _BLOCK_BYTES):
        found = scan(texts)
        words = np.maximum(counts[rows, Column.WORDS], 1)
        share = found.profane_words / words
        profane = (found.profane_words >= config.profanity.minimum_hits) & (share > config.profanity.maximum_share)
        verdicts.remove(rows[profane], PROFANITY, share[profane])
        left = ~profane
        left &= ~_judge_personal_data(texts, found, rows, left, words, verdicts, config)
        links = counts[rows, Column.LINKS] / words
        by_links = left & (links > config.spam.maximum_links_per_word)
        verdicts.remove(rows[by_links], LINKS, links[by_links])
        by_phrases = left & ~by_links & (found.spam_phrases > config.spam.maximum_phrases)
        verdicts.remove(rows[by_phrases], SALES_PHRASES, found.spam_phrases[by_phrases])
        gone = np.flatnonzero(verdicts.reason[rows] != KEPT)
        for row in rows[gone].tolist():
            verdicts.masked_texts.pop(row, None)
        verdicts.masked_items[rows[gone]] = 0


def _judge_personal_data(
    texts: TextBatch,
    found: ScanResult,
    rows: Positions,
    left: npt.NDArray[np.bool_],
    words: Positions,
    verdicts: Verdicts,
    config: QualityConfig,
) -> npt.NDArray[np.bool_]:
    """Mask or remove by policy; returns [rows] which were removed."""
    masked = mask(texts, found, config.pii.policies)
    hits = masked.hits.sum(axis=1)
    density = 1000 * hits / words
    by_policy = left & (masked.drop >= 0)
    for kind in np.unique(masked.drop[by_policy]):
        chosen = by_policy & (masked.drop == kind)
        verdicts.remove(rows[chosen], f"personal data: {KINDS[kind].value}", hits[chosen])
    dense = left & ~by_policy
    dense &= (hits >= config.pii.minimum_hits_to_drop) & (density > config.pii.maximum_per_thousand_words)
    verdicts.remove(rows[dense], CONTACTS, density[dense])
    verdicts.masked_items[rows] = hits
    for index, row in enumerate(masked.rows.tolist()):
        verdicts.masked_texts[int(rows[row])] = masked.texts.text(index)
    return by_policy | dense


def _judge_by_classifier(batch: TextBatch, verdicts: Verdicts, config: QualityConfig) -> None:
    classifier = config.spam.classifier
    if classifier is None:
        return
    for rows, texts in _chosen(batch, verdicts.kept(), _BLOCK_BYTES):
        probability = _probabilities(classifier, texts)
        spam = probability > config.spam.maximum_probability
        verdicts.remove(rows[spam], SPAM, probability[spam])
        for row in rows[spam].tolist():
            verdicts.masked_texts.pop(row, None)
        verdicts.masked_items[rows[spam]] = 0


def _score(batch: TextBatch, counts: Counts, verdicts: Verdicts, config: QualityConfig) -> None:
    rows = verdicts.kept()
    if config.quality_classifier is None:
        verdicts.level[rows] = quality_level(linear_score(counts[rows]))
        return
    for block, texts in _chosen(batch, rows, _BLOCK_BYTES):
        verdicts.level[block] = quality_level(_probabilities(config.quality_classifier, texts))


def _probabilities(classifier: ClassifierConfig, texts: TextBatch) -> npt.NDArray[np.float64]:
    return _model(classifier.path, classifier.checksum).probability_of(texts, classifier.label)


@cache
def _model(path: str, checksum: str | None) -> FastTextModel:
    return FastTextModel.load(path, checksum)
