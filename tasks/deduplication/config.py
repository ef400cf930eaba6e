"""What can be chosen about the deduplication stage."""

from __future__ import annotations

from pydantic import Field, model_validator

from infra.artifacts import StageConfig, run_argument


class DeduplicationConfig(StageConfig):
    """Exact duplicates first, then near-duplicates by MinHash LSH with every candidate verified exactly."""

    threshold: float = Field(
        default=0.8, gt=0, le=1, description="Jaccard similarity of word n-grams from which two texts are one"
    )
    ngram_words: int = Field(default=5, ge=1, le=20, description="words a shingle")
    permutations: int = Field(default=128, ge=8, le=1024, description="hash functions a MinHash signature")
    bands: int = Field(default=25, ge=1, description="LSH bands; 25 x 5 is permissive, the verification decides")
    rows_per_band: int = Field(default=5, ge=1, description="signature values a band")
    seed: int = Field(default=1, description="seed of the hash functions and of the planted pairs")
    small_bucket: int = Field(
        default=64,
        ge=2,
        description="all pairs are compared in buckets up to this size; larger ones are linked in a chain",
    )
    planted_pairs: int = Field(
        default=300,
        ge=0,
        description="near-duplicates of known similarity made in every run to measure precision and recall",
    )
    example_clusters: int = Field(default=20, ge=0, description="clusters shown with excerpts in clusters.jsonl")
    workers: int = run_argument(2, "processes that sign and write shards at the same time", ge=1)

    @model_validator(mode="after")
    def _bands_fit(self) -> DeduplicationConfig:
        if self.bands * self.rows_per_band > self.permutations:
            raise ValueError(
                f"bands x rows_per_band = {self.bands * self.rows_per_band} needs more than {self.permutations} "
                "permutations; lower `bands` or raise `permutations`"
            )
        return self
