"""The registration stage: gather what is deployed into one bundle. The registry itself is not touched here.

Files: `model/` (float32 safetensors and configuration), `tokenizer.json`, the accepted quantized formats (their places
are in `formats.py`), `evaluation/` (figures, and results item by item where the evaluation has them), `model_card.md`,
`lineage.json`. Of a model whose training was stopped early there may be no formats and no evaluation.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from infra.artifacts import Artifact, Stage, StageContext, StageResult
from infra.errors import ConfigurationError
from infra.storage.local import atomic_file
from model.checkpoints import load_config
from tasks.evaluation.items import ITEMS_FILE
from tasks.registration.config import RegistrationConfig
from tasks.registration.formats import EVALUATION_DIRECTORY, FLOAT32, FORMATS, format_files
from tasks.registration.gates import WITHHELD, Decision, decide_bundle
from tasks.registration.lineage import Lineage, lookup_beside, trace
from tasks.registration.model_card import model_card
from tasks.registration.shortened import shortening_tags

MODEL_CARD, LINEAGE, TOKENIZER = "model_card.md", "lineage.json", "tokenizer.json"
#: What later versions are compared by; evaluations of earlier versions have no items.
_EVIDENCE = ("evaluation.json", ITEMS_FILE)
#: Figures of earlier stages that the registry shows beside the version.
_CARRIED_METRICS = ("eval/bits_per_byte", "eval/perplexity", "eval/needle/recall")


def bundle(context: StageContext[RegistrationConfig]) -> StageResult:
    """Copy the files, write card and lineage, and carry the gates' verdicts on.

    Inputs: `tokens`, `checkpoint`, and where the run got so far `evaluation` and `quantized`. Raises
    ConfigurationError when the format to serve is not in the bundle.
    """
    config, inputs = context.config, context.inputs
    lineage = trace(inputs, lookup_beside(inputs.values()))
    formats = available_formats(config, inputs["quantized"]) if "quantized" in inputs else []
    if config.serve_format not in (FLOAT32, *formats):
        raise ConfigurationError(
            f"registration.serve_format is '{config.serve_format}', which is not in the bundle "
            f"({', '.join((FLOAT32, *formats))}): it was not made, or its quality gate refused it.",
            "choose one of these, or add the format to quantization.formats and registration.formats.",
        )
    context.report(0.1, "copying files", None)
    _copy_files(context, formats)
    decision = _decision(context)
    fingerprint = context.directory.name
    mixers = load_config(context.directory / "model").mixer_kinds
    card = model_card(config, fingerprint, lineage, decision, formats, mixers)
    _write(context.directory / MODEL_CARD, card)
    _write(context.directory / LINEAGE, json.dumps(lineage.as_json(), indent=1, ensure_ascii=False))
    context.report(1.0, "bundle complete", None)
    return _result(context, lineage, formats)


def _decision(context: StageContext[RegistrationConfig]) -> Decision:
    evaluation = context.inputs.get("evaluation")
    return decide_bundle(evaluation.manifest if evaluation else None, context.config.partial)


def available_formats(config: RegistrationConfig, quantized: Artifact) -> list[str]:
    """The wanted formats that the quantization stage made and accepted."""
    accepted = quantized.manifest.statistics.get("accepted", [])
    return [name for name in config.formats if name in accepted and format_files(quantized, name)]


def _copy_files(context: StageContext[RegistrationConfig], formats: list[str]) -> None:
    inputs, directory = context.inputs, context.directory
    for stale in {*(known.top for known in FORMATS.values()), EVALUATION_DIRECTORY}:
        shutil.rmtree(directory / stale, ignore_errors=True)  # left by an interrupted attempt with other formats
    for path in inputs["checkpoint"].paths("model/"):
        _copy(path, directory / "model" / path.name)
    _copy(inputs["tokens"].path(TOKENIZER), directory / TOKENIZER)
    for name in formats:
        for relative in format_files(inputs["quantized"], name):
            _copy(inputs["quantized"].path(relative), directory / relative)
    measured = {entry.path for entry in inputs["evaluation"].manifest.files} if "evaluation" in inputs else set()
    for name in _EVIDENCE:
        if name in measured:
            _copy(inputs["evaluation"].path(name), directory / EVALUATION_DIRECTORY / name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as stream:
        stream.write(text.encode("utf-8", "replace"))


def _result(context: StageContext[RegistrationConfig], lineage: Lineage, formats: list[str]) -> StageResult:
    inputs, partial = context.inputs, context.config.partial
    measured = inputs["evaluation"].manifest.metrics if "evaluation" in inputs else {}
    refused = inputs["quantized"].manifest.statistics.get("refused", {}) if "quantized" in inputs else {}
    decision = _decision(context)
    files = _files_table(context.directory)
    metrics = {name: measured[name] for name in _CARRIED_METRICS if name in measured}
    metrics["registration/size_mb"] = sum(row["size_mb"] for row in files)
    metrics["registration/gates_passed"] = float(decision.passed)
    statistics: dict[str, Any] = {
        "gates_passed": decision.passed,
        "missed_gates": list(decision.missed),
        "explanation": decision.explanation,
        "formats": [FLOAT32, *formats],
        "refused_formats": refused,
        "lineage": list(lineage.manifests),
        "missing_lineage": list(lineage.missing),
    }
    if partial is not None:
        statistics |= {"partial": partial.as_statistics(), WITHHELD: decision.withheld}
    tags = shortening_tags(lineage) | (partial.tags() if partial else {})
    if tags:
        statistics["registry_tags"] = tags
    return StageResult(metrics, {"gates": list(decision.rows), "bundle": files}, statistics)


def _files_table(directory: Path) -> list[dict[str, Any]]:
    """What is in the bundle. Stage-private files start with a dot."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    relative = [path.relative_to(directory) for path in paths]
    return [
        {"file": name.as_posix(), "size_mb": path.stat().st_size / 1e6}
        for path, name in zip(paths, relative, strict=True)
        if not any(part.startswith(".") for part in name.parts) and name.as_posix() != "manifest.json"
    ]


STAGE = Stage(name="registration", kind="registration", version=2, config_type=RegistrationConfig, run=bundle)
