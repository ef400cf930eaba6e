"""What can be chosen of the quantization."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, model_validator

from infra.artifacts import StageConfig, run_argument
from tasks.evaluation.config import NeedleConfig, SpeedConfig


class WeightFormat(StrEnum):
    """The formats a model can be stored in."""

    INT8 = "int8"
    INT4 = "int4"
    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"
    Q4_K_M = "q4_k_m"
    ONNX = "onnx"
    ONNX_INT8 = "onnx-int8"

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF file."""
        return self in (WeightFormat.F32, WeightFormat.F16, WeightFormat.Q8_0, WeightFormat.Q4_K_M)

    @property
    def is_onnx(self) -> bool:
        """Whether it is a directory of ONNX graphs."""
        return self in (WeightFormat.ONNX, WeightFormat.ONNX_INT8)


#: Perplexity a format may cost, in percent. A 16-bit or 8-bit format that costs more is broken; four
#: bits cost the small models of the smoke profile one to three percent.
DEFAULT_GATES = {
    WeightFormat.INT8: 2.0,
    WeightFormat.INT4: 6.0,
    WeightFormat.F32: 0.05,
    WeightFormat.F16: 0.1,
    WeightFormat.Q8_0: 0.5,
    WeightFormat.Q4_K_M: 6.0,
    WeightFormat.ONNX: 0.01,
    WeightFormat.ONNX_INT8: 2.0,
}

#: KL to the original, in nats a token: ten times what sound files of small models have, or more. It also sees damage
#: that leaves the mean loss where it was.
DEFAULT_KL_GATES = {
    WeightFormat.INT8: 0.02,
    WeightFormat.INT4: 0.1,
    WeightFormat.F32: 0.0005,
    WeightFormat.F16: 0.001,
    WeightFormat.Q8_0: 0.005,
    WeightFormat.Q4_K_M: 0.1,
    WeightFormat.ONNX: 0.0001,
    WeightFormat.ONNX_INT8: 0.02,
}


class QuantizationConfig(StageConfig):
    """Which formats are made of a checkpoint, how they are measured, and when one is refused."""

    formats: tuple[WeightFormat, ...] = Field(
        default=(
            WeightFormat.INT8, WeightFormat.INT4, WeightFormat.Q8_0, WeightFormat.Q4_K_M, WeightFormat.ONNX_INT8,
        ),
        description="formats to make: int8 and int4 (safetensors, for torch), f32, f16, q8_0 and q4_k_m (GGUF, for "
        "llama.cpp), onnx and onnx-int8 (for onnxruntime; the export takes longest of all)",
        min_length=1,
    )  # fmt: skip
    perplexity_gates: dict[WeightFormat, float] = Field(
        default_factory=dict,
        description="largest increase of perplexity in percent, by format; "
        + ", ".join(f"{name} {limit}" for name, limit in DEFAULT_GATES.items())
        + " where not given",
    )
    kl_gates: dict[WeightFormat, float] = Field(
        default_factory=dict,
        description="largest KL to the original in nats a token, by format; "
        + ", ".join(f"{name} {limit}" for name, limit in DEFAULT_KL_GATES.items())
        + " where not given",
    )
    runtime_agreement_percent: float = Field(
        default=0.5,
        gt=0,
        description="largest difference between a GGUF file's perplexity in llama.cpp and in our own reader",
    )
    context_tokens: int = Field(default=1024, ge=8, description="context of the measurements, at most the model's")
    comparison_tokens: int = Field(
        default=10_000,
        ge=1,
        description="held-out tokens on which each format is compared with the original, at most",
    )
    needle: NeedleConfig = Field(
        default=NeedleConfig(lengths=(256, 512), depths=(0.0, 0.5, 1.0), samples_per_cell=4),
        description="needle recall of each format; lengths above context_tokens are left out",
    )
    speed: SpeedConfig = Field(default=SpeedConfig(decode_tokens=32), description="speed of each format")
    seed: int = Field(default=0, description="of the choice of documents and needles")
    threads: int | None = run_argument(None, "threads that quantize; by default one a core", ge=1)

    @model_validator(mode="after")
    def _no_format_twice(self) -> QuantizationConfig:
        if len(set(self.formats)) != len(self.formats):
            raise ValueError(f"formats lists a format twice ({', '.join(self.formats)}): name each once.")
        return self

    def gate_percent(self, weight_format: WeightFormat) -> float:
        """The largest increase of perplexity this format may cost."""
        return self.perplexity_gates.get(weight_format, DEFAULT_GATES[weight_format])

    def kl_gate(self, weight_format: WeightFormat) -> float:
        """The largest KL to the original this format may have, in nats a token."""
        return self.kl_gates.get(weight_format, DEFAULT_KL_GATES[weight_format])
