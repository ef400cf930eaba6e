"""The pipeline's filters as steps for datatrove pipelines of one's own, beside datatrove's readers and writers.

They do what one document can be judged by alone. Exact and near-duplicates and the cut at one global
quantile need the whole corpus: run the stages for those, on the same executors (`ExecutionConfig`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from tasks.documents import read_table
from tasks.quality import QualityConfig
from tasks.quality.judgement import REASONS, Verdicts, judge
from tasks.quality.rules import SCORE_LEVELS

_BATCH_DOCUMENTS = 512


class ReadDocumentShards(PipelineStep):
    """Reads the `documents/*.parquet` of an artifact; rank r takes every world_size-th shard from r on."""

    name = "document shards"
    type = "SAM 2.0 reader"

    def __init__(self, artifact_directory: Path) -> None:
        super().__init__()
        self.directory = artifact_directory / "documents"

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields what came before, then this rank's documents; raises ArtifactCorrupted naming a damaged shard."""
        yield from data or ()
        for path in sorted(self.directory.glob("*.parquet"))[rank::world_size]:
            for row in read_table(path).to_pylist():
                self.stat_update("documents")
                yield Document(text=row.pop("text"), id=row.pop("id"), metadata=row)


class QualityFilter(PipelineStep):
    """The filters of the quality stage on a stream of documents: the rest is masked and passed on.

    `source`: metadata field that names a document's source (settings go by source). Removed documents
    go to `exclusion_writer`, with `reason` and `score` in their metadata, and are counted by reason.
    Documents that stay carry `quality_score`, `language` and `masked_items`; those below
    `minimum_quality_score` are removed.
    """

    name = "quality rules, language, profanity, personal data, spam"
    type = "SAM 2.0 filter"

    def __init__(
        self,
        config: QualityConfig,
        source: str = "source",
        minimum_quality_score: float = 0.0,
        exclusion_writer: Any = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.source = source
        self.minimum_quality_score = minimum_quality_score
        self.exclusion_writer = exclusion_writer

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents that stay, in order."""
        with self.exclusion_writer or nullcontext() as writer:
            for documents in _batches(data or ()):
                with self.track_time("batch"):
                    verdicts = self._judged(documents)
                for row, document in enumerate(documents):
                    self.stat_update("total")
                    if self._describe(document, verdicts, row):
                        self.stat_update("forwarded")
                        yield document
                    elif writer is not None:
                        writer.write(document, rank)

    def _judged(self, documents: list[Document]) -> Verdicts:
        texts = pa.chunked_array([pa.array([document.text for document in documents], pa.large_string())])
        sources = pa.chunked_array([pa.array([str(each.metadata.get(self.source, "")) for each in documents])])
        return judge(texts, sources, {}, self.config)

    def _describe(self, document: Document, verdicts: Verdicts, row: int) -> bool:
        """Write the verdict into the document; whether it stays."""
        reason, score = REASONS[verdicts.reason[row]], float(verdicts.score[row])
        quality = float(verdicts.level[row]) / (SCORE_LEVELS - 1)
        if not reason and quality < self.minimum_quality_score:
            reason, score = "low quality score", quality
        if reason:
            document.metadata |= {"reason": reason, "score": score}
            self.stat_update(f"removed: {reason}")
            return False
        document.text = verdicts.masked_texts.get(row, document.text)
        document.metadata |= {
            "quality_score": quality,
            "language": verdicts.labels[verdicts.language[row]],
            "masked_items": int(verdicts.masked_items[row]),
        }
        return True


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    stream = iter(documents)
    while batch := list(islice(stream, _BATCH_DOCUMENTS)):
        yield batch
