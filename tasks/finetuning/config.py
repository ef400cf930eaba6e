"""What can be chosen about instruction tuning: conversations, adapters, measurements, registration."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.artifacts import StageConfig, run_argument
from model import ModelConfig
from tasks.download.config import UnavailableSource
from tasks.download.sources import AnySource, ConversationLogs, WheelSource
from tasks.evaluation.gates import Gate
from tasks.finetuning.answers import AdapterStageConfig
from tasks.training import TrainingConfig
from tasks.training.schedule import ScheduleName


class ConversationsConfig(StageConfig):
    """Where the conversations come from, and which are held out."""

    sources: tuple[AnySource, ...] = Field(
        min_length=1, description="chat files: chat+file://, chat+hf://, chat+s3://, chat+https://, or pypi:// members"
    )
    held_out_fraction: float = Field(0.05, gt=0, lt=1, description="share held out, by the conversation's hash")
    maximum_conversations: int | None = Field(None, ge=1, description="of each source, at most; left out: all")
    unavailable: tuple[UnavailableSource, ...] = run_argument((), "optional sources that could not be had")
    cache_directory: Path = run_argument(Path(".cache/downloads"), "where fetched files are kept")

    @model_validator(mode="after")
    def _sources_are_chats(self) -> Self:
        wrong = [source.name for source in self.sources if not isinstance(source, ConversationLogs | WheelSource)]
        if wrong:
            raise ValueError(
                f"sources {', '.join(wrong)}: conversations are read from chat+file://, chat+hf://, chat+s3://, "
                "chat+https:// and pypi://; put chat+ before the uri"
            )
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"sources: names repeat ({', '.join(names)}); give each its own")
        return self


class LoraConfig(BaseModel):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), by peft."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rank: int = Field(64, ge=1, description="r: rows of A and columns of B")
    alpha: float = Field(128.0, gt=0, description="the product B A is scaled by alpha / rank")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="of the adapters' input; drawn from (seed, step, micro-batch, rank), so that a resumed run draws "
        "the same. 0: over one or two passes it only slows learning",
    )
    targets: tuple[str, ...] | None = Field(
        None, description="last names of the layers to adapt; left out: every linear layer of mixers and feed-forwards"
    )


class FinetuningConfig(TrainingConfig):
    """The training of the adapters. What is not named here is as in pre-training."""

    name: str = Field("chat", pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60, description="name of the adapters")
    lora: LoraConfig = Field(LoraConfig(), description="the adapters")
    epochs: float = Field(2.0, gt=0, description="passes over the conversations")
    context_tokens: int = Field(2048, ge=16, description="tokens in a row; longer conversations are cut to it")
    batch_tokens: int = Field(65536, ge=16, description="tokens of one update, all ranks together")
    micro_batch: int | None = Field(None, ge=1, description="rows a rank runs at once; left out: as many as fit")
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate")
    final_learning_rate: float = Field(0.0, ge=0, description="learning rate of the last update")
    schedule: ScheduleName = Field("cosine", description="shape of the learning rate after the warmup")
    warmup_fraction: float = Field(0.03, ge=0, le=1, description="linear warmup as a share of the updates")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay of the adapters' matrices")
    optimizer: Literal["adamw"] = Field("adamw", description="what updates the adapters")
    end_of_text: str = Field("<|endoftext|>", min_length=1, description="the token that ends the base's documents")

    @model_validator(mode="after")
    def _the_base_is_whole(self) -> Self:
        if self.zero_stage == 3 or self.sequence_parallel > 1:
            raise ValueError(
                "zero_stage 3 and sequence_parallel are for whole models; adapters are trained with zero_stage 0 to 2 "
                "and sequence_parallel 1 (the base stays whole on every rank)"
            )
        return self

    def resolve(self, model: ModelConfig, rows: int, held_out_rows: int) -> AdapterStageConfig:
        """The trainer's configuration once the number of packed rows is known.

        Raises pydantic.ValidationError where the batch does not divide or the context exceeds the model's.
        """
        rows_per_step = max(1, self.batch_tokens // self.context_tokens)
        steps = max(1, round(self.epochs * rows / rows_per_step))
        own = set(FinetuningConfig.model_fields) - {"lora", "epochs", "end_of_text"}
        shared = {name: getattr(self, name) for name in own if name in AdapterStageConfig.model_fields}
        changes = {
            "tokens": steps * self.batch_tokens,
            "validation_rows": min(self.validation_rows, held_out_rows),
            "model": model,
        }
        return AdapterStageConfig(**(shared | changes))


class ChatEvaluationConfig(StageConfig):
    """What is compared between the base and the tuned model."""

    answer_tokens: int = Field(200_000, ge=1, description="held-out answer tokens to score, at most")
    base_tokens: int = Field(50_000, ge=1, description="of the base's held-out text, for what tuning made it forget")
    context_tokens: int = Field(2048, ge=8, description="longest conversation and window of text")
    window_overlap_tokens: int = Field(256, ge=0, description="context given again to each window of a long document")
    replies: int = Field(4, ge=0, description="held-out questions answered by both models for the report")
    reply_tokens: int = Field(64, ge=1, description="tokens of one reply, at most")
    gates: tuple[Gate, ...] = Field(
        (
            Gate(metric="eval/answers/perplexity", condition="below", threshold="eval/answers/perplexity_before"),
            Gate(metric="eval/forgetting/perplexity_ratio", condition="below", threshold=1.1),
        ),
        description="conditions for promotion",
    )
    seed: int = Field(0, description="of the choice of conversations and documents")

    @model_validator(mode="after")
    def _windows_advance(self) -> Self:
        if self.window_overlap_tokens >= self.context_tokens:
            raise ValueError(
                f"window_overlap_tokens ({self.window_overlap_tokens}) must be smaller than "
                f"context_tokens ({self.context_tokens}): lower it"
            )
        return self


class AdapterRegistrationConfig(StageConfig):
    """The name the adapters are registered under."""

    model_name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="registered model name; left out: <base's name>-lora-<name of the adapters>",
    )
    copy_limit_megabytes: float = run_argument(
        512.0, "bundles up to this size are copied into the registry; larger ones are registered by address", ge=0
    )
