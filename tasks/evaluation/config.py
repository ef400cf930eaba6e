"""What can be chosen of an evaluation."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from infra.artifacts import StageConfig
from tasks.evaluation.benchmarks.config import BenchmarksConfig
from tasks.evaluation.gates import Gate


class NeedleConfig(BaseModel):
    """Needle recall: one key-value sentence hidden in real text, then asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    lengths: tuple[int, ...] | None = Field(
        default=None,
        description="context lengths in tokens; by default an eighth, a quarter, a half and all of the context",
    )
    depths: tuple[float, ...] = Field(
        default=(0.0, 0.25, 0.5, 0.75, 1.0),
        description="places of the needle, 0 the start and 1 the end",
        min_length=1,
    )
    samples_per_cell: int = Field(default=8, ge=1, description="needles for each length and depth")
    candidates: int = Field(default=10, ge=2, le=40, description="values to choose from: chance is one in so many")


class ContextLimitsConfig(BaseModel):
    """How far the context holds: perplexity and needle recall at the training context and beyond."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    trained_tokens: int | None = Field(
        default=None, ge=1, description="training context; left out: the last training stage's, from the checkpoint"
    )
    full_tokens: int | None = Field(
        default=None, ge=1, description="context the model is meant for; left out: the model's maximum_context"
    )
    multiples: tuple[int, ...] = Field(default=(2, 4), description="of the training context, tested beside it")
    windows: int = Field(default=16, ge=4, description="windows of held-out text for perplexity, at most")
    scored_tokens: int = Field(
        default=128, ge=1, description="last tokens of each window, predicted from a shorter or longer context"
    )
    samples_per_cell: int = Field(default=4, ge=1, description="needles for each length and each of needle.depths")
    tolerance: float = Field(
        default=0.05, ge=0, description="share by which perplexity may be above that at the training context"
    )
    token_limit: int = Field(
        default=8_000_000, ge=1, description="tokens to read for one length, at most; a longer one is not run"
    )

    @field_validator("multiples")
    @classmethod
    def _multiples_are_longer(cls, multiples: tuple[int, ...]) -> tuple[int, ...]:
        if any(multiple < 2 for multiple in multiples):
            raise ValueError(f"{list(multiples)} has a multiple below 2; 1× is always tested")
        return tuple(sorted(set(multiples)))


class SpeedConfig(BaseModel):
    """Speed and memory on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    prefill_tokens: int | None = Field(default=None, ge=1, description="prompt length; by default the whole context")
    decode_tokens: int = Field(default=48, ge=2, description="tokens generated one at a time")
    repetitions: int = Field(default=3, ge=1, description="measurements of each; the median is reported")


class SampleConfig(BaseModel):
    """Text samples, the same in every run: greedy continuations of held-out beginnings."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    prompts: tuple[str, ...] = Field(
        default=("The ", "This function returns ", "To install the package, "),
        description="beginnings to continue",
    )
    new_tokens: int = Field(default=48, ge=1, description="tokens of each continuation")
    temperature: float = Field(default=0.7, ge=0.0, description="0 takes the likeliest token every time")
    seed: int = Field(default=1, description="of the sampling")


DEFAULT_GATES = (
    Gate(metric="eval/loss", condition="finite"),
    Gate(metric="eval/bits_per_byte", condition="below", threshold="eval/baseline_unigram_bits_per_byte"),
    Gate(metric="eval/bits_per_byte", condition="below", threshold="eval/baseline_5gram_bits_per_byte"),
)


class EvaluationConfig(StageConfig):
    """One evaluation of one checkpoint."""

    context_tokens: int = Field(default=1024, ge=8, description="full context: the longest the model is asked to use")
    held_out_tokens: int = Field(default=100_000, ge=1, description="validation tokens to score, at most")
    document_tokens: int = Field(default=8192, ge=1, description="tokens of one validation document, at most")
    window_overlap_tokens: int = Field(
        default=256, ge=0, description="context that each further window of a long document is given, unscored"
    )
    baseline_training_bytes: int = Field(
        default=50_000_000,
        ge=1,
        description="training text for the n-gram baselines, at most (about 60 bytes of memory a byte); "
        "the results say whether it was the whole training split",
    )
    needle: NeedleConfig = Field(NeedleConfig(), description="needle recall")
    context_limits: ContextLimitsConfig = Field(
        ContextLimitsConfig(), description="the training context, its multiples and the full context, tested"
    )
    benchmarks: BenchmarksConfig = Field(BenchmarksConfig(), description="the field's benchmarks, through lm-eval")
    speed: SpeedConfig = Field(SpeedConfig(), description="speed and memory on this machine")
    samples: SampleConfig = Field(SampleConfig(), description="text samples")
    gates: tuple[Gate, ...] = Field(default=DEFAULT_GATES, description="conditions for promotion")
    seed: int = Field(default=0, description="of the choice of documents and needles")

    @model_validator(mode="after")
    def _windows_advance(self) -> EvaluationConfig:
        if self.window_overlap_tokens >= self.context_tokens:
            raise ValueError(
                f"window_overlap_tokens ({self.window_overlap_tokens}) must be smaller than "
                f"context_tokens ({self.context_tokens}): lower it."
            )
        too_long = [length for length in self.needle_lengths if length > self.context_tokens]
        if too_long:
            raise ValueError(f"needle.lengths {too_long} exceed context_tokens ({self.context_tokens}): lower them.")
        return self

    @property
    def needle_lengths(self) -> tuple[int, ...]:
        """Context lengths of the needle test, ascending."""
        if self.needle.lengths is not None:
            return tuple(sorted(set(self.needle.lengths)))
        return tuple(sorted({self.context_tokens // divisor for divisor in (8, 4, 2, 1)}))
