"""Registered adapters, as code: MLflow runs this file in whatever process loads them. Nothing is pickled.

Besides MLflow and peft it needs the `model` package alone, which is stored beside it. The base is fetched from the
address it was registered with, and every file of it checked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext


class ChatModel(PythonModel):
    """Replies to questions."""

    #: The stored signature says what comes in; without this MLflow asks for type hints on every load.
    _skip_type_hint_validation = True

    def load_context(self, context: PythonModelContext) -> None:
        """Put the adapters on their base, and merge them there."""
        from peft import PeftModel
        from transformers import AutoTokenizer

        from model import load

        configured = context.model_config or {}
        copied = context.artifacts.get("bundle")
        bundle = Path(copied) if copied else _fetch(configured["bundle_uri"], configured["checksums"])
        base = _fetch(configured["base_uri"], configured["base_checksums"])
        adapted: Any = PeftModel.from_pretrained(load(base / "model"), str(bundle / "adapter"))  # type: ignore[arg-type, unused-ignore]
        self._model = adapted.merge_and_unload().eval()
        self._tokenizer = AutoTokenizer.from_pretrained(str(bundle / "adapter"))

    # `model_input` has no type hint: MLflow would take its schema from it, and lose the parameters.
    def predict(  # type: ignore[no-untyped-def]
        self, context: PythonModelContext, model_input, params: dict[str, Any] | None = None
    ) -> list[str]:
        """The reply to each question: a list of strings, or the first column of a data frame."""
        from model import SamplingConfig, generate

        chosen = params or {}
        seed = int(chosen.get("seed", -1))
        sampling = SamplingConfig(
            temperature=float(chosen.get("temperature", 0.0)),
            top_p=float(chosen.get("top_p", 1.0)),
            seed=None if seed < 0 else seed,
        )
        replies = []
        for question in _texts(model_input):
            prompt = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
            )
            (new,) = generate(
                self._model,
                prompt,
                int(chosen.get("maximum_new_tokens", 64)),
                sampling,
                stop_tokens=tuple(self._tokenizer.all_special_ids),
            )
            replies.append(self._tokenizer.decode(new, skip_special_tokens=True).strip())
        return replies


def _fetch(address: str, checksums: str) -> Path:
    """Bring an artifact here, and check every listed file against its checksum."""
    from model.checkpoint_files import damaged_file

    directory = Path(mlflow.artifacts.download_artifacts(artifact_uri=address))
    name = damaged_file(directory, json.loads(checksums))
    if name is not None:
        raise ValueError(f"file '{name}' of '{address}' is not the one that was registered: register it again")
    return directory


def _texts(model_input: Any) -> list[str]:
    if hasattr(model_input, "iloc"):
        model_input = model_input.iloc[:, 0].tolist()
    if isinstance(model_input, str):
        model_input = [model_input]
    return [str(text) for text in model_input]


mlflow.models.set_model(ChatModel())
