"""One pass over the bytes of many texts: personal data, profane words and sales phrases at once.

result = scan(batch)
masked = mask(batch, result, config.pii.policies)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from tasks.quality.config import PiiKind, PiiPolicy
from tasks.quality.personal_data import findings as personal_data
from tasks.quality.personal_data.findings import Findings
from tasks.quality.personal_data.masking import Masked
from tasks.quality.personal_data.masking import mask as mask_findings
from tasks.quality.personal_data.patterns import DETECTORS
from tasks.quality.phrases import count_events, count_whole, phrase_patterns
from tasks.text.batch import Positions, TextBatch
from tasks.text.scanning import ScanEngine, Scanner, joined_parts, scan_engine


@dataclass(frozen=True)
class ScanResult:
    """profane_words: [texts] occurrences; spam_phrases: [texts] different ones; findings: personal data."""

    profane_words: Positions
    spam_phrases: Positions
    findings: Findings


def scan(batch: TextBatch) -> ScanResult:
    """Find personal data, profane words and sales phrases; the same result with Hyperscan and without."""
    if scan_engine() is ScanEngine.RE:
        return ScanResult(*count_whole(batch), personal_data.search_whole(batch))
    profane, phrases = np.zeros(len(batch), np.int64), np.zeros(len(batch), np.int64)
    parts = []
    for block in joined_parts(batch):
        patterns, ends = _scanner().events(block.data)
        if not len(ends):
            continue
        anchors = patterns < len(DETECTORS)
        parts.append(personal_data.search_anchored(block, patterns[anchors], ends[anchors]))
        others = ~anchors
        count_events(block, patterns[others] - len(DETECTORS), ends[others], profane, phrases)
    return ScanResult(profane, phrases, Findings.joined(parts))


def mask(batch: TextBatch, result: ScanResult, policies: Mapping[PiiKind, PiiPolicy]) -> Masked:
    """Treat the personal data of a batch by policy; see `Masked`."""
    return mask_findings(batch, result.findings, policies)


@cache
def _scanner() -> Scanner:
    phrases = phrase_patterns()
    return Scanner(
        [*(detector.anchor for detector in DETECTORS), *phrases],
        [*(detector.caseless_anchor for detector in DETECTORS), *(True for _ in phrases)],
    )
