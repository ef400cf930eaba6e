"""What becomes of personal data that was found: typed placeholders, or the removal of the text, by policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.quality.config import PiiKind, PiiPolicy
from tasks.quality.personal_data.findings import Findings, find_personal_data
from tasks.quality.personal_data.patterns import KINDS
from tasks.text.batch import Positions, TextBatch


@dataclass(frozen=True)
class Masked:
    """rows: [changed] texts that change, ascending; texts: what they become, in that order.

    hits: [texts, kinds] findings of each text by kind (order of `KINDS`), without kinds that are kept;
    drop: [texts] index into `KINDS` of the kind for which a policy removes the text, -1 for none.
    """

    rows: Positions
    texts: TextBatch
    hits: npt.NDArray[np.int64]
    drop: npt.NDArray[np.int8]


def placeholder(kind: PiiKind) -> str:
    """What stands for a masked item, `<EMAIL>` for instance."""
    return f"<{kind.value.upper()}>"


def mask(batch: TextBatch, findings: Findings, policies: Mapping[PiiKind, PiiPolicy]) -> Masked:
    """Replace findings by placeholders; kinds without a policy are kept. A text to drop is masked all the same."""
    policy_of = [policies.get(kind, PiiPolicy.KEEP) for kind in KINDS]
    treated = np.array([policy is not PiiPolicy.KEEP for policy in policy_of])
    dropped = np.array([policy is PiiPolicy.DROP for policy in policy_of])
    chosen = np.flatnonzero(treated[findings.kinds])
    texts, kinds = findings.texts[chosen], findings.kinds[chosen]
    hits = np.zeros((len(batch), len(KINDS)), np.int64)
    np.add.at(hits, (texts, kinds), 1)
    removing = (hits > 0) & dropped
    drop = np.where(removing.any(axis=1), removing.argmax(axis=1), -1).astype(np.int8)
    rows, first = np.unique(texts, return_index=True)
    return Masked(rows, _replace(batch, findings, chosen, rows, first), hits, drop)


def _replace(batch: TextBatch, findings: Findings, chosen: Positions, rows: Positions, first: Positions) -> TextBatch:
    """The texts of `rows` with their findings replaced; `first`: where each row's begin among the chosen."""
    placeholders = [np.frombuffer(placeholder(kind).encode(), np.uint8) for kind in KINDS]
    bounds = [*first.tolist(), len(chosen)]
    pieces: list[npt.NDArray[np.uint8]] = []
    sizes = []
    for row, begin, end in zip(rows.tolist(), bounds[:-1], bounds[1:], strict=True):
        base, limit = batch.offsets[row], batch.offsets[row + 1]
        place, count = base, len(pieces)
        for index in chosen[begin:end]:
            pieces.append(batch.buffer[place : base + findings.starts[index]])
            pieces.append(placeholders[findings.kinds[index]])
            place = base + findings.ends[index]
        pieces.append(batch.buffer[place:limit])
        sizes.append(sum(len(piece) for piece in pieces[count:]))
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return TextBatch(np.concatenate(pieces) if pieces else np.zeros(0, np.uint8), offsets)


def mask_text(text: str, policies: Mapping[PiiKind, PiiPolicy]) -> str:
    """One text with its personal data masked."""
    batch = TextBatch.from_texts([text])
    masked = mask(batch, find_personal_data(batch), policies)
    return masked.texts.text(0) if len(masked.rows) else text
