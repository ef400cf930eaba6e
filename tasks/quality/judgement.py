"""The verdict on each document of a shard: what removes it, or its score and cleaned text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.quality.config import QualityConfig
from tasks.quality.language import identify
from tasks.quality.measures import measure
from tasks.quality.pii import apply_policies
from tasks.quality.rules import broken_rule, quality_score
from tasks.quality.words import batches

LOW_QUALITY = "low quality score"


@dataclass(frozen=True)
class Verdict:
    """`reason` is None for a document that passed; `score` is the figure that decided otherwise."""

    reason: str | None
    score: float
    quality: float = 0.0
    language: str = ""
    language_probability: float = 0.0
    masked_text: str | None = None
    masked_items: int = 0


def judge(texts: Sequence[str], sources: Sequence[str], config: QualityConfig) -> Iterator[Verdict]:
    """Verdicts in the order of the texts, cheap tests first."""
    for part in batches(texts):
        chosen = [index for index in part if _length_verdict(texts[index], config) is None]
        measures = measure([texts[index] for index in chosen])
        place = {index: position for position, index in enumerate(chosen)}
        for index in part:
            verdict = _length_verdict(texts[index], config)
            yield verdict or _judge_content(texts[index], sources[index], measures.of(place[index]), config)


def _length_verdict(text: str, config: QualityConfig) -> Verdict | None:
    if len(text) < config.minimum_characters:
        return Verdict("too short", len(text))
    if len(text) > config.maximum_characters:
        return Verdict("too long", len(text))
    return None


def _judge_content(text: str, source: str, measures: dict[str, float], config: QualityConfig) -> Verdict:
    settings = config.settings_for(source)
    broken = broken_rule(measures, text, config.rule_sets[settings.rules])
    if broken is not None:
        return Verdict(*broken)
    language, probability = identify(text)
    if language != config.language or probability < settings.minimum_language_probability:
        reason = "other language" if language != config.language else "language not certain"
        return Verdict(reason, probability, language=language, language_probability=probability)
    profane = measures["profane_words"]
    share = profane / max(measures["words"], 1)
    if profane >= config.profanity.minimum_hits and share > config.profanity.maximum_share:
        return Verdict("profanity", share, language=language, language_probability=probability)
    if measures["links_per_word"] > config.spam.maximum_links_per_word:
        return Verdict("spam: links", measures["links_per_word"])
    if measures["spam_phrases"] > config.spam.maximum_phrases:
        return Verdict("spam: sales phrases", measures["spam_phrases"])
    return _judge_personal_data(text, measures, language, probability, config)


def _judge_personal_data(
    text: str, measures: dict[str, float], language: str, probability: float, config: QualityConfig
) -> Verdict:
    finding = apply_policies(text, config.pii.policies)
    hits = sum(finding.hits.values())
    if finding.drop is not None:
        return Verdict(f"personal data: {finding.drop.value}", hits)
    density = 1000 * hits / max(measures["words"], 1)
    if hits >= config.pii.minimum_hits_to_drop and density > config.pii.maximum_per_thousand_words:
        return Verdict("personal data: density", density)
    return Verdict(
        reason=None,
        score=0.0,
        quality=quality_score(measures),
        language=language,
        language_probability=probability,
        masked_text=finding.text if hits else None,
        masked_items=hits,
    )
