"""A bundle as an MLflow model directory: code by path, pinned requirements, a signature."""

from __future__ import annotations

import json
import warnings
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

import model
from infra.artifacts import Artifact
from tasks.registration.formats import FORMATS, stored_format

#: What the `model` package imports; the versions are those of this process.
_REQUIRED = ("mlflow", "torch", "safetensors", "tokenizers", "numpy", "pydantic", "gguf", "xllamacpp", "xxhash")
_CODE = Path(__file__).with_name("pyfunc_model.py")


def save_mlflow_model(artifact: Artifact, directory: Path, copy_limit_bytes: float) -> None:
    """Write the MLflow model; bundles over the limit stay where they are and are checked when loaded."""
    artifacts, configured = copied_or_addressed(artifact, copy_limit_bytes)
    configured["weights"] = served_weights(artifact)
    with warnings.catch_warnings():
        # MLflow wants type hints or an input example; the explicit signature has the parameters they cannot say.
        warnings.simplefilter("ignore", UserWarning)
        mlflow.pyfunc.save_model(
            path=str(directory),
            python_model=str(_CODE),
            artifacts=artifacts,
            model_config=configured,
            code_paths=[str(Path(model.__file__).parent)],
            signature=text_signature(),
            pip_requirements=pinned_requirements(*format_requirements(artifact)),
            metadata={"fingerprint": artifact.manifest.fingerprint},
        )


def copied_or_addressed(artifact: Artifact, copy_limit_bytes: float) -> tuple[dict[str, str] | None, dict[str, str]]:
    """What MLflow is to copy, and how to find and check the bundle where it is not copied."""
    if artifact.manifest.size_bytes <= copy_limit_bytes:
        return {"bundle": str(artifact.directory)}, {}
    checksums = {entry.path: entry.checksum for entry in artifact.manifest.files}
    return None, {"bundle_uri": artifact.uri, "checksums": json.dumps(checksums)}


def served_weights(artifact: Artifact) -> str:
    """Path within the bundle of the format that predict() opens."""
    return stored_format(str(artifact.manifest.config["serve_format"])).opened


def format_requirements(artifact: Artifact) -> list[str]:
    """What opening the bundle's formats needs besides what the `model` package always imports."""
    needed = (name for chosen in artifact.manifest.statistics["formats"] for name in FORMATS[chosen].requirements)
    return [name for name in dict.fromkeys(needed) if name not in _REQUIRED]


def pinned_requirements(*more: str) -> list[str]:
    """Exact versions; a local build tag (torch's +cpu) names no version on an index and is cut."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in (*_REQUIRED, *more)]


def text_signature() -> ModelSignature:
    """Texts in, texts out, and how they are chosen."""
    text = DataType.string
    parameters = [
        ParamSpec("maximum_new_tokens", DataType.long, 64),
        ParamSpec("temperature", DataType.double, 0.0),
        ParamSpec("top_p", DataType.double, 1.0),
        ParamSpec("seed", DataType.long, -1),
    ]
    return ModelSignature(Schema([ColSpec(text)]), Schema([ColSpec(text)]), ParamSchema(parameters))
