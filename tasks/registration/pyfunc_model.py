"""The registered model, as code: MLflow runs this file in whatever process loads the model. Nothing is pickled.

Besides MLflow it needs the `model` package alone, which is stored beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext


class TextModel(PythonModel):
    """Continues prompts."""

    #: The stored signature says what comes in; without this MLflow asks for type hints on every load.
    _skip_type_hint_validation = True

    def load_context(self, context: PythonModelContext) -> None:
        """Open the bundle: copied beside this file, or at the address it was registered by."""
        from model.interface import open_model

        configured = context.model_config or {}
        copied = context.artifacts.get("bundle")
        bundle = Path(copied) if copied else self._fetch(configured)
        self._model = open_model(bundle / configured["weights"], bundle / "tokenizer.json")

    # `model_input` has no type hint: MLflow would take its schema from it, and lose the parameters.
    def predict(  # type: ignore[no-untyped-def]
        self, context: PythonModelContext, model_input, params: dict[str, Any] | None = None
    ) -> list[str]:
        """The continuation of each prompt: a list of strings, or the first column of a data frame."""
        from model import SamplingConfig
        from model.interface import GenerationSettings

        chosen = params or {}
        seed = int(chosen.get("seed", -1))
        sampling = SamplingConfig(
            temperature=float(chosen.get("temperature", 0.0)),
            top_p=float(chosen.get("top_p", 1.0)),
            seed=None if seed < 0 else seed,
        )
        settings = GenerationSettings(maximum_new_tokens=int(chosen.get("maximum_new_tokens", 64)), sampling=sampling)
        return [answer.text for answer in self._model.generate(_prompts(model_input), settings)]

    def _fetch(self, configured: dict[str, Any]) -> Path:
        """Bring a bundle that was registered by address here, and check every file against its checksum."""
        from model.checkpoint_files import damaged_file

        address = configured["bundle_uri"]
        bundle = Path(mlflow.artifacts.download_artifacts(artifact_uri=address))
        name = damaged_file(bundle, json.loads(configured["checksums"]))
        if name is not None:
            raise ValueError(f"file '{name}' of '{address}' is not the one that was registered: register it again")
        return bundle


def _prompts(model_input: Any) -> list[str]:
    if hasattr(model_input, "iloc"):
        model_input = model_input.iloc[:, 0].tolist()
    if isinstance(model_input, str):
        model_input = [model_input]
    return [str(prompt) for prompt in model_input]


mlflow.models.set_model(TextModel())
