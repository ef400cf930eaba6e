"""What a plan cannot compute: people's work around the training, what the result is worth, and the budgets asked for.

These are inputs. The defaults are the founding budget report's figures (2025-07-12); a YAML file replaces them.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import ConfigurationError

FOUNDING_REPORT = "founding budget report, 2025-07-12"


class ProjectInputs(BaseModel):
    """Costs and values that are stated, not computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(FOUNDING_REPORT, description="who says so")
    development_usd: dict[str, float] = Field(
        {
            "Developer time (80 hours at $150)": 12_000.0,
            "Testing infrastructure": 1_000.0,
            "Code review and QA": 2_000.0,
        },
        description="implementation, by line",
    )
    validation_usd: dict[str, float] = Field(
        {
            "Evaluation infrastructure": 2_000.0,
            "User testing, old against new": 1_500.0,
            "Performance benchmarking": 1_000.0,
        },
        description="validation after the training, by line",
    )
    implementation_weeks: float = Field(2.0, ge=0, description="before the training")
    validation_weeks: float = Field(1.0, ge=0, description="after the training")
    annual_value_usd: float = Field(100_000.0, ge=0, description="what the trained model is worth a year")
    tier_budgets_usd: dict[str, float] = Field(
        {"aggressive": 38_000.0, "conservative": 65_000.0, "enterprise": 133_000.0},
        description="budgets asked for, of the whole project, by tier: aggressive, conservative, enterprise",
    )

    @property
    def people_usd(self) -> dict[str, float]:
        """All stated lines."""
        return {**self.development_usd, **self.validation_usd}


def load_project(path: Path | None = None) -> ProjectInputs:
    """The defaults, or those of a YAML file; raises ConfigurationError naming the file, the field and the fix."""
    if path is None:
        return ProjectInputs()
    try:
        return ProjectInputs.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise ConfigurationError(f"cannot read '{path}': {error.strerror}.", "correct --project.") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"'{path.name}' is not valid YAML: {error}.", "correct that line.") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, detail['loc'])) or 'the file'}: {detail['msg']}" for detail in error.errors()
        )
        raise ConfigurationError(f"project file '{path.name}': {problems}.", "correct these fields.") from error
