"""What can be chosen about the deduplication stage."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from infra.artifacts import run_argument
from tasks.deduplication.index import pin_reference
from tasks.sharded_work import ShardedStageConfig


class DeduplicationConfig(ShardedStageConfig):
    """Exact duplicates first, then near-duplicates by MinHash LSH with every candidate verified exactly."""

    threshold: float = Field(
        default=0.8, gt=0, le=1, description="Jaccard similarity of word n-grams from which two texts are one"
    )
    ngram_words: int = Field(default=5, ge=1, le=20, description="words a shingle")
    permutations: int = Field(default=128, ge=8, le=1024, description="hash functions a MinHash signature")
    bands: int = Field(
        default=25,
        ge=1,
        le=99,
        description="LSH bands; 25 x 5 of 128 is permissive (51 x 5 of 256 more so), the verification decides",
    )
    rows_per_band: int = Field(default=5, ge=1, description="signature values a band")
    seed: int = Field(default=1, ge=0, lt=1 << 31, description="seed of the hash functions and of the planted pairs")
    small_bucket: int = Field(
        default=64,
        ge=2,
        description="all pairs are compared in buckets up to this size; larger ones through leaders (same clusters)",
    )
    reference_indexes: tuple[Path, ...] = run_argument(
        (), "directories of earlier `unique_documents` artifacts: documents they have seen are left out here"
    )
    reference_checksums: tuple[str, ...] = Field(
        default=(), description="checksums of the indexes in `reference_indexes`; filled in by resolve_references"
    )
    planted_pairs: int = Field(
        default=300,
        ge=0,
        description="near-duplicates of known similarity made in every run to measure precision and recall",
    )
    example_clusters: int = Field(
        default=20, ge=0, description="clusters shown with excerpts in clusters.jsonl and clusters.html"
    )
    memory_limit_bytes: int = run_argument(
        1 << 30, "memory a worker uses for keys, pairs and shingle sets; more is spilled to disk", ge=16 << 20
    )

    @model_validator(mode="after")
    def _bands_fit(self) -> DeduplicationConfig:
        if self.bands * self.rows_per_band > self.permutations:
            raise ValueError(
                f"bands x rows_per_band = {self.bands * self.rows_per_band} needs more than {self.permutations} "
                "permutations; lower `bands` or raise `permutations`"
            )
        if self.reference_checksums and len(self.reference_checksums) != len(self.reference_indexes):
            raise ValueError(
                f"reference_checksums has {len(self.reference_checksums)} entries for "
                f"{len(self.reference_indexes)} reference_indexes; give one each, or none to accept what is there"
            )
        return self


def resolve_references(config: DeduplicationConfig) -> DeduplicationConfig:
    """Pin every index in `reference_indexes` by its checksum, so that the fingerprint changes with it.

    Raises ConfigurationError when one cannot be read or does not match a given checksum.
    """
    given = config.reference_checksums or ("",) * len(config.reference_indexes)
    pinned = [pin_reference(path, checksum) for path, checksum in zip(config.reference_indexes, given, strict=True)]
    return config.model_copy(update={"reference_checksums": tuple(reference.checksum for reference in pinned)})
