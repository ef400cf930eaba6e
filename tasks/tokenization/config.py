"""What can be chosen about the tokenization stage."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from infra.artifacts import run_argument
from tasks.sharded_work import ShardedStageConfig


class TokenizationConfig(ShardedStageConfig):
    """Train a byte-level BPE or take an existing tokenizer, then encode into memory-mapped shards."""

    tokenizer_path: Path | None = run_argument(
        None, "a tokenizer.json (Hugging Face tokenizers) to use instead of training one"
    )
    tokenizer_checksum: str = Field(
        default="", description="checksum of the file at `tokenizer_path`; filled in by resolve_tokenizer"
    )
    vocabulary_size: int = Field(default=4096, ge=300, le=1 << 20, description="tokens of a trained vocabulary")
    training_sample_bytes: int = Field(
        default=8 << 20,
        ge=1 << 10,
        description="text that the vocabulary is trained on, chosen by document hash, bytes",
    )
    end_of_text: str = Field(default="<|endoftext|>", min_length=1, description="token appended to every document")
    padding: str = Field(default="<|pad|>", min_length=1, description="token that fills batches (trained tokenizers)")
    validation_fraction: float = Field(
        default=0.02, ge=0, lt=1, description="share of documents held out, by document hash"
    )
    minimum_validation_documents: int = Field(default=16, ge=0, description="held-out documents even of a small corpus")
    self_check_documents: int = Field(
        default=20, ge=0, description="documents per shard that the reference engine encodes too, to compare the ids"
    )
