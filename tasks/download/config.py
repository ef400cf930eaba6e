"""What can be chosen about the download stage."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.artifacts import run_argument
from tasks.download.mixture import MixtureConfig
from tasks.download.sources import AnySource, StandardLibraryDocs
from tasks.sharded_work import ShardedStageConfig


class UnavailableSource(BaseModel):
    """An optional source that could not be had, and why."""

    model_config = ConfigDict(frozen=True)
    name: str
    uri: str
    reason: str


class DecontaminationConfig(BaseModel):
    """Which evaluation items must not occur in the documents."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    evaluation_sets: tuple[AnySource, ...] = Field(
        default=(),
        description="sources of evaluation items; a document sharing a run of words with one is removed",
    )
    ngram_words: int = Field(
        default=13, ge=5, le=50, description="length of the shared run of words (13: Brown et al. 2020)"
    )


class DownloadConfig(ShardedStageConfig):
    """Sources, in order, and what must not leak into them."""

    sources: tuple[AnySource, ...] = Field(
        default=(StandardLibraryDocs(name="stdlib-docs"),), min_length=1, description="where the texts come from"
    )
    decontamination: DecontaminationConfig = Field(
        default=DecontaminationConfig(), description="evaluation items to keep out of the documents"
    )
    shard_bytes: int = Field(default=4 << 20, ge=1 << 10, description="text per document shard, bytes of UTF-8")
    mixture: MixtureConfig | None = run_argument(
        None, "weights of the sources; resolve_sources turns them into each source's `maximum_bytes`"
    )
    unavailable: tuple[UnavailableSource, ...] = run_argument(
        (), "optional sources that resolve_sources found to be unavailable (for the report)"
    )
    cache_directory: Path = run_argument(Path(".cache/downloads"), "where fetched wheels and files are kept")

    @model_validator(mode="after")
    def _names_are_unique(self) -> DownloadConfig:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"sources: the names {twice} are used twice; every source needs its own")
        return self

    @model_validator(mode="after")
    def _mixture_is_of_the_sources(self) -> DownloadConfig:
        if self.mixture is not None:
            names = {source.name for source in self.sources} | {source.name for source in self.unavailable}
            wrong = sorted(names ^ set(self.mixture.weights))
            if wrong:
                raise ValueError(f"mixture.weights and sources differ in {wrong}; give every source a weight")
        return self
