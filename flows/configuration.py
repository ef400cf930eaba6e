"""The whole pipeline's configuration, its profiles, and the checks made before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from flows.memory_check import check_memory
from flows.overrides import explain_validation, merge, partial_model
from infra.budget import ComputePrice
from infra.errors import ConfigurationError
from model import PRESETS, ModelConfig, preset
from tasks.deduplication import DeduplicationConfig
from tasks.download import DownloadConfig
from tasks.evaluation import EvaluationConfig
from tasks.guard import GuardConfig
from tasks.quality import QualityConfig
from tasks.quantization import QuantizationConfig, WeightFormat
from tasks.registration import RegistrationConfig
from tasks.tokenization import TokenizationConfig
from tasks.training import CurriculumStage, TrainingConfig, TrainingStageConfig, place_stages

PROFILE_DIRECTORY = Path(__file__).parent / "profiles"

if TYPE_CHECKING:

    class ProfileName(StrEnum):
        """The profiles that exist, for a form with a list to choose from."""

        SMOKE = "smoke"
else:
    # The members are the files that are there.
    ProfileName = StrEnum(
        "ProfileName",
        {path.stem.upper().replace("-", "_"): path.stem for path in sorted(PROFILE_DIRECTORY.glob("*.yaml"))},
    )


class BudgetConfig(BaseModel):
    """What may be spent, and what an hour costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ceiling_usd: float | None = Field(
        None, gt=0, description="what this profile may spend, all runs together; a run that would exceed it is held"
    )
    price: ComputePrice = Field(ComputePrice(), description="the price of the machine at hand")
    guard: GuardConfig = Field(GuardConfig(), description="when the run warns, waits for an answer, or ends")


class PipelineConfig(BaseModel):
    """Everything a run needs. A profile is a YAML file of it; any field can be overridden for one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str = Field(description="name of the profile, filled in from the file")
    description: str = Field("", description="what the profile is for")
    experiment: str = Field("sam2", description="MLflow experiment the run is logged to")
    artifact_root: str | None = Field(
        None,
        description="where artifacts are kept: a directory or s3://bucket/prefix; default <SAM2_HOME>/artifacts",
    )
    budget: BudgetConfig = Field(BudgetConfig(), description="ceiling and price")
    download: DownloadConfig = Field(description="sources of text")
    quality: QualityConfig = Field(QualityConfig(), description="filters")
    deduplication: DeduplicationConfig = Field(DeduplicationConfig(), description="exact and near-duplicates")
    tokenization: TokenizationConfig = Field(TokenizationConfig(), description="vocabulary and token shards")
    model: ModelConfig = Field(
        description="the language model's shape: its fields, a preset's name (`sam2 models`), or `preset` and the "
        "fields that differ from it"
    )
    training: TrainingConfig = Field(TrainingConfig(), description="what all curriculum stages share")
    curriculum: tuple[CurriculumStage, ...] = Field(min_length=1, description="training stages, in order")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="measurements and gates")
    quantization: QuantizationConfig = Field(QuantizationConfig(), description="deployment formats")
    registration: RegistrationConfig = Field(RegistrationConfig(), description="bundle, registry, aliases")

    @field_validator("model", mode="before")
    @classmethod
    def _preset_resolves(cls, model: Any) -> Any:
        return with_preset(model)

    @model_validator(mode="after")
    def _parts_fit_together(self) -> PipelineConfig:
        if self.tokenization.tokenizer_path is None and self.tokenization.vocabulary_size > self.model.vocabulary_size:
            raise ValueError(
                f"tokenization.vocabulary_size {self.tokenization.vocabulary_size} exceeds "
                f"model.vocabulary_size {self.model.vocabulary_size}; make them equal"
            )
        place_stages(self.curriculum)
        longest = max(stage.context_tokens for stage in self.curriculum)
        if longest > self.model.maximum_context:
            raise ValueError(
                f"curriculum reaches {longest} tokens of context but model.maximum_context is "
                f"{self.model.maximum_context}; raise it"
            )
        if WeightFormat.Q4_K_M in self.quantization.formats:
            self._check_k_quant_rows()
        return self

    def _check_k_quant_rows(self) -> None:
        for name in ("width", "feed_forward_width"):
            value = getattr(self.model, name)
            if value % 256:
                raise ValueError(
                    f"model.{name} {value} is not a multiple of 256, which q4_k_m blocks need; "
                    "change it, or take q4_k_m out of quantization.formats"
                )

    def training_stages(self) -> list[TrainingStageConfig]:
        """The curriculum with everything each stage's artifact depends on filled in."""
        return [placed.resolve(self.training, self.model) for placed in place_stages(self.curriculum)]


# The same with every field optional: the form in the Prefect UI and `--set` on the command line.
if TYPE_CHECKING:
    PipelineOverrides = BaseModel
else:
    PipelineOverrides = partial_model(PipelineConfig)


def load_profile(name: str, changes: Mapping[str, Any] | None = None) -> PipelineConfig:
    """Read flows/profiles/<name>.yaml, apply `changes`, validate.

    Raises ConfigurationError naming the file or override, the field and the fix.
    """
    content = profile_content(name)
    where = f"profile {name}.yaml" + (" with overrides" if changes else "")
    return validate(merge({"profile": name, **content}, changes or {}), where)


def profile_content(name: str) -> dict[str, Any]:
    """The fields of flows/profiles/<name>.yaml over those of the profile it `extends`, if it does.

    Raises ConfigurationError for a profile that does not exist or cannot be read.
    """
    path = PROFILE_DIRECTORY / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(entry.stem for entry in PROFILE_DIRECTORY.glob("*.yaml")))
        raise ConfigurationError(f"there is no profile '{name}'.", f"choose one of: {known}.")
    content = read_yaml(path)
    if _preset_named(content.get("model")) in PRESETS:  # a change of one field keeps the others
        content["model"] = with_preset(content["model"])
    base = content.pop("extends", None)
    return content if base is None else merge(profile_content(str(base)), content)


def with_preset(model: Any) -> Any:
    """The fields of a model that is given as a preset's name, or as `preset` and fields; others as they are.

    Raises the model package's ConfigurationError for an unknown preset.
    """
    name = _preset_named(model)
    if name is None:
        return model
    own = {} if isinstance(model, str) else {key: value for key, value in model.items() if key != "preset"}
    return preset(name).model_dump() | own


def _preset_named(model: Any) -> str | None:
    name = model.get("preset") if isinstance(model, Mapping) else model
    return name if isinstance(name, str) else None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; raises ConfigurationError with the line that cannot be read."""
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigurationError(f"'{path.name}' is not valid YAML: {error}.", "correct that line.") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"'{path.name}' is not a mapping of fields.", "write field: value lines.")
    return content


def validate(content: Mapping[str, Any], where: str) -> PipelineConfig:
    """A PipelineConfig from plain data; raises ConfigurationError listing every problem at once."""
    try:
        config: PipelineConfig = PipelineConfig.model_validate(content)
        stages = config.training_stages()
    except ValidationError as error:
        raise explain_validation(error, where, PipelineConfig) from error
    check_memory(stages)
    return config
