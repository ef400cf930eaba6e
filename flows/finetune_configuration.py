"""The configuration of instruction tuning, its profiles, and the base model it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.configuration import BudgetConfig, read_yaml
from flows.overrides import explain_validation, merge, partial_model
from flows.pipeline_graph import PlannedStage
from infra.artifacts import Artifact, ArtifactStore, Manifest
from infra.errors import ConfigurationError
from tasks import finetuning, quantization, registration
from tasks.download import DownloadConfig, resolve_sources
from tasks.finetuning import (
    AdapterRegistrationConfig,
    ChatEvaluationConfig,
    ConversationsConfig,
    FinetuningConfig,
)
from tasks.finetuning.registration import register_adapters_afterwards
from tasks.quantization import QuantizationConfig
from tasks.registration import RegistrationConfig
from tasks.registration.task import ensure_registered_afterwards

PROFILE_DIRECTORY = Path(__file__).parent / "finetune_profiles"
DEPLOYMENT = "sam2-finetune/local"
LATEST = "latest"
_BUNDLE = "registration"
_SHORTEST_FINGERPRINT = 6

if TYPE_CHECKING:

    class FinetuneProfileName(StrEnum):
        """The profiles that exist, for a form with a list to choose from."""

        CHAT = "chat"
else:
    # The members are the files that are there.
    FinetuneProfileName = StrEnum(
        "FinetuneProfileName",
        {path.stem.upper().replace("-", "_"): path.stem for path in sorted(PROFILE_DIRECTORY.glob("*.yaml"))},
    )


class MergedConfig(BaseModel):
    """What is made of the merged model, a model like any other."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    quantization: QuantizationConfig = Field(QuantizationConfig(), description="deployment formats")
    registration: RegistrationConfig = Field(description="its bundle and registered name")


class FinetuneConfig(BaseModel):
    """Everything instruction tuning needs. A profile is a YAML file of it; any field can be overridden for one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str = Field(description="name of the profile, filled in from the file")
    description: str = Field("", description="what the profile is for")
    experiment: str = Field("sam2-finetune", description="MLflow experiment the run is logged to")
    artifact_root: str | None = Field(
        None,
        description="where artifacts are kept and the base is looked for: a directory or s3://bucket/prefix; "
        "default <SAM2_HOME>/artifacts",
    )
    budget: BudgetConfig = Field(BudgetConfig(), description="ceiling and price")
    base: str = Field(
        LATEST,
        min_length=1,
        description="the model to tune: latest, the name of a registered model (its newest bundle), or the beginning "
        "of a bundle's fingerprint",
    )
    conversations: ConversationsConfig = Field(description="chat files")
    finetuning: FinetuningConfig = Field(FinetuningConfig(), description="adapters and their training")
    evaluation: ChatEvaluationConfig = Field(ChatEvaluationConfig(), description="before and after, and the gates")
    registration: AdapterRegistrationConfig = Field(AdapterRegistrationConfig(), description="the adapters' version")
    merged: MergedConfig | None = Field(
        None, description="quantize and register the merged model too; left out: it is only an artifact"
    )


# The same with every field optional: the form in the Prefect UI and `--set` on the command line.
if TYPE_CHECKING:
    FinetuneOverrides = BaseModel
else:
    FinetuneOverrides = partial_model(FinetuneConfig)


def load_finetune_profile(name: str, changes: Mapping[str, Any] | None = None) -> FinetuneConfig:
    """Read flows/finetune_profiles/<name>.yaml, apply `changes`, validate.

    Raises ConfigurationError naming the file or override, the field and the fix.
    """
    path = PROFILE_DIRECTORY / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(entry.stem for entry in PROFILE_DIRECTORY.glob("*.yaml")))
        raise ConfigurationError(f"there is no finetuning profile '{name}'.", f"choose one of: {known}.")
    where = f"profile {path.name}" + (" with overrides" if changes else "")
    try:
        return FinetuneConfig.model_validate(merge({"profile": name, **read_yaml(path)}, changes or {}))
    except ValidationError as error:
        raise explain_validation(error, where, FinetuneConfig) from error


def overrides_of(data: Sequence[Path], base: str | None, name: str | None) -> dict[str, Any]:
    """What the command line's own options change: files of conversations, the base, the adapters' name.

    Raises ConfigurationError for a path that does not exist.
    """
    missing = [str(path) for path in data if not path.exists()]
    if missing:
        raise ConfigurationError(f"there is no file or directory {', '.join(missing)}.", "correct --data.")
    changes: dict[str, Any] = {}
    if data:
        # Runs have another working directory.
        paths = [path.resolve() for path in data]
        changes["conversations"] = {
            "sources": [
                {"name": f"chats-{number}", "uri": f"chat+file://{path}"} for number, path in enumerate(paths, 1)
            ]
        }
    if base is not None:
        changes["base"] = base
    if name is not None:
        changes["finetuning"] = {"name": name}
    return changes


def find_base(store: ArtifactStore, base: str) -> dict[str, Artifact]:
    """The base's bundle (`base`) and the tokens it was trained on (`tokens`), verified.

    Raises ConfigurationError when there is no such bundle, or its tokens are gone.
    """
    bundles = [manifest for manifest in store.manifests() if manifest.kind == _BUNDLE]
    matching = [manifest for manifest in bundles if _is_meant(manifest, base)]
    if not matching:
        names = sorted({str(manifest.config.get("model_name")) for manifest in bundles})
        known = f"choose one of: {', '.join(names)}." if names else "run the pipeline first: `sam2 run`."
        raise ConfigurationError(f"there is no base model '{base}' among the bundles of this store.", known)
    newest = max(matching, key=lambda manifest: manifest.created_at)
    found = {"base": store.find(_BUNDLE, newest.fingerprint)}
    kind, _, fingerprint = newest.inputs["tokens"].partition("/")
    found["tokens"] = store.find(kind, fingerprint)
    missing = [name for name, artifact in found.items() if artifact is None]
    if missing:
        raise ConfigurationError(
            f"of the base model '{base}' the {' and '.join(missing)} artifact is gone.",
            "run the pipeline that made it again: it is rebuilt.",
        )
    return {name: artifact for name, artifact in found.items() if artifact is not None}


def resolve(config: FinetuneConfig, base: Artifact, downloads: Path) -> FinetuneConfig:
    """The configuration with its sources pinned and the adapters' registered name filled in."""
    pinned = resolve_sources(DownloadConfig(sources=config.conversations.sources), downloads)
    conversations = config.conversations.model_copy(
        update={"sources": pinned.sources, "unavailable": pinned.unavailable, "cache_directory": downloads}
    )
    name = config.registration.model_name or f"{base.manifest.config['model_name']}-lora-{config.finetuning.name}"
    return config.model_copy(
        update={
            "conversations": conversations,
            "registration": config.registration.model_copy(update={"model_name": name}),
        }
    )


def build_finetune_graph(config: FinetuneConfig) -> list[PlannedStage]:
    """The stages in an order in which they can run; `base` and `tokens` are artifacts of the base's own run."""
    measured = {"base": "base", "tuned": "finetuning", "conversations": "conversations", "tokens": "tokens"}
    nodes = [
        PlannedStage("conversations", "Conversations", finetuning.CONVERSATIONS, config.conversations),
        PlannedStage(
            "finetuning",
            f"Finetuning: {config.finetuning.name}",
            finetuning.FINETUNING,
            config.finetuning,
            {"base": "base", "conversations": "conversations"},
        ),
        PlannedStage("chat-evaluation", "Before and after", finetuning.EVALUATION, config.evaluation, measured),
    ]
    if config.merged is not None:
        nodes += _merged_stages(config.merged)
    limit = config.registration.copy_limit_megabytes
    nodes.append(
        PlannedStage(
            "adapter-registration",
            "Registration of the adapters",
            finetuning.REGISTRATION,
            config.registration,
            {"base": "base", "tuned": "finetuning", "evaluation": "chat-evaluation"},
            partial(register_adapters_afterwards, copy_limit_megabytes=limit),
        )
    )
    return nodes


def _merged_stages(config: MergedConfig) -> list[PlannedStage]:
    inputs = {"checkpoint": "finetuning", "tokens": "tokens", "evaluation": "chat-evaluation"}
    limit = config.registration.copy_limit_megabytes
    return [
        PlannedStage(
            "quantization", "Quantization of the merged model", quantization.STAGE, config.quantization, inputs
        ),
        PlannedStage(
            "registration",
            "Registration of the merged model",
            registration.STAGE,
            config.registration,
            {**inputs, "quantized": "quantization"},
            partial(
                ensure_registered_afterwards,
                copy_limit_megabytes=limit,
                promotion=config.registration.promotion,
            ),
        ),
    ]


def _is_meant(manifest: Manifest, base: str) -> bool:
    wanted = base.removeprefix(f"{_BUNDLE}/")
    by_fingerprint = len(wanted) >= _SHORTEST_FINGERPRINT and manifest.fingerprint.startswith(wanted)
    by_name = base == LATEST or manifest.config.get("model_name") == base
    # A model whose training was stopped early is only taken when it is asked for.
    return by_fingerprint or (by_name and not manifest.config.get("partial"))
