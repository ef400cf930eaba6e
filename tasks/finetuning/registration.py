"""The registration of adapters: one bundle of them, under a model name of their own, with what they belong to.

Files: `adapter/` (peft's layout, the tokenizer and its chat template), `model_card.md`, `lineage.json`. The base is not
copied: its artifact's address, fingerprint and checksums are recorded, and checked when the adapters are loaded.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.pyfunc

import model
from infra.artifacts import Artifact, Stage, StageContext, StageResult
from infra.errors import ConfigurationError
from infra.storage.local import atomic_file
from tasks.finetuning.adapters import ADAPTER_DIRECTORY
from tasks.finetuning.config import AdapterRegistrationConfig
from tasks.registration.gates import Decision, decide
from tasks.registration.lineage import Lineage, lookup_beside, trace
from tasks.registration.model_card import markdown_table
from tasks.registration.packaging import copied_or_addressed, pinned_requirements, text_signature
from tasks.registration.task import ensure_registered_afterwards
from tasks.run_context import RunContext
from tasks.training.job import MODEL_DIRECTORY

MODEL_CARD, LINEAGE = "model_card.md", "lineage.json"
_CODE = Path(__file__).with_name("adapter_model.py")
_LIMITATIONS = (
    "The adapters change one base model, named above; on another they are noise.",
    "They were tuned on the conversations listed, for their style of answers: nothing makes the model true or safe.",
    "What tuning made the base forget was measured on the base's own held-out text alone.",
)


def bundle(context: StageContext[AdapterRegistrationConfig]) -> StageResult:
    """Copy the adapters, write card and lineage, and carry the gates' verdicts on.

    Inputs: `base`, `tuned`, `evaluation`. Raises ConfigurationError without a model name.
    """
    if context.config.model_name is None:
        raise ConfigurationError("registration.model_name is not set.", "name the adapters' registered model.")
    inputs, directory = context.inputs, context.directory
    shutil.rmtree(directory / ADAPTER_DIRECTORY, ignore_errors=True)
    for path in inputs["tuned"].paths(f"{ADAPTER_DIRECTORY}/"):
        target = directory / ADAPTER_DIRECTORY / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    lineage = trace(inputs, lookup_beside(inputs.values()))
    decision = decide(inputs["evaluation"].manifest)
    _write(directory / MODEL_CARD, model_card(context.config.model_name, inputs, decision))
    _write(directory / LINEAGE, json.dumps(lineage.as_json(), indent=1, ensure_ascii=False))
    return _result(context, decision, lineage)


STAGE: Stage[AdapterRegistrationConfig] = Stage("adapter-registration", "adapter", 1, AdapterRegistrationConfig, bundle)


def register_adapters_afterwards(artifact: Artifact, run: RunContext, copy_limit_megabytes: float) -> Mapping[str, str]:
    """Bring the registry in line with the bundle; returns links to show (title -> address)."""
    return ensure_registered_afterwards(artifact, run, copy_limit_megabytes, save=save_adapter_model, stage=STAGE.name)


def save_adapter_model(artifact: Artifact, directory: Path, copy_limit_bytes: float) -> None:
    """Write the MLflow model of a bundle of adapters; `predict` takes questions and gives replies."""
    artifacts, configured = copied_or_addressed(artifact, copy_limit_bytes)
    with warnings.catch_warnings():
        # MLflow wants type hints or an input example; the explicit signature has the parameters they cannot say.
        warnings.simplefilter("ignore", UserWarning)
        mlflow.pyfunc.save_model(
            path=str(directory),
            python_model=str(_CODE),
            artifacts=artifacts,
            model_config=configured | dict(artifact.manifest.statistics["base"]),
            code_paths=[str(Path(model.__file__).parent)],
            signature=text_signature(),
            pip_requirements=pinned_requirements("peft", "transformers"),
            metadata={"fingerprint": artifact.manifest.fingerprint},
        )


def model_card(name: str, inputs: Mapping[str, Artifact], decision: Decision) -> str:
    """What a person must know before using the adapters, told from the manifests."""
    base, tuned, evaluation = (inputs[key].manifest for key in ("base", "tuned", "evaluation"))
    lora, tables = tuned.statistics["lora"], evaluation.tables
    parts = [
        f"# {name}",
        f"LoRA adapters (r = {lora['rank']}, alpha = {lora['alpha']:g}, dropout = {lora['dropout']:g}) for the model "
        f"`{inputs['base'].reference}` ({base.config.get('model_name', 'a checkpoint')}), in peft's layout. "
        f"Conversations are written by the {tuned.statistics['chat_template']} chat template, which is with the "
        "tokenizer.",
        f"{decision.explanation}",
        f"## Before and after\n\n{markdown_table(tables.get('before and after', []))}",
        f"## Gates\n\n{markdown_table(decision.rows)}",
        f"## Replies to held-out questions\n\n{markdown_table(tables.get('replies', []))}",
        f"## Training\n\n{markdown_table([_training_row(tuned.config, tuned.metrics)])}",
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in _LIMITATIONS),
    ]
    return "\n\n".join(parts) + "\n"


def _training_row(config: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    chosen = ("name", "epochs", "context_tokens", "batch_tokens", "learning_rate", "seed")
    measured = ("train/loss", "lora/parameters", "conversations/answer_tokens")
    return {name: config[name] for name in chosen} | {name: metrics[name] for name in measured}


def _result(context: StageContext[AdapterRegistrationConfig], decision: Decision, lineage: Lineage) -> StageResult:
    base, evaluation = context.inputs["base"], context.inputs["evaluation"].manifest
    files = [
        {"file": path.relative_to(context.directory).as_posix(), "size_mb": path.stat().st_size / 1e6}
        for path in sorted((context.directory / ADAPTER_DIRECTORY).iterdir())
    ]
    metrics = {name: value for name, value in evaluation.metrics.items() if name.startswith("eval/")}
    metrics["registration/size_mb"] = sum(float(str(row["size_mb"])) for row in files)
    metrics["registration/gates_passed"] = float(decision.passed)
    checksums = {
        entry.path: entry.checksum for entry in base.manifest.files if entry.path.startswith(f"{MODEL_DIRECTORY}/")
    }
    statistics = {
        "gates_passed": decision.passed,
        "missed_gates": list(decision.missed),
        "explanation": decision.explanation,
        "formats": ["lora"],
        "base": {"base_uri": base.uri, "base_checksums": json.dumps(checksums)},
        "registry_tags": {
            "sam2.base": base.reference,
            "sam2.base_model": str(base.manifest.config.get("model_name", "")),
            "sam2.base_checksum": base.manifest.content_checksum,
            "sam2.answers_perplexity": f"{evaluation.metrics['eval/answers/perplexity']:.4f}",
        },
        "missing_lineage": list(lineage.missing),
    }
    return StageResult(metrics, {"gates": list(decision.rows), "bundle": files}, statistics)


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as stream:
        stream.write(text.encode("utf-8", "replace"))
