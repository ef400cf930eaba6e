"""A Hugging Face `config.json`, read field by field: what our model cannot be is refused by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoint_files import CONFIG_FILE
from model.errors import CheckpointError, ConfigurationError


@dataclass(frozen=True)
class Fields:
    """The fields of one file. Every reader takes the value that transformers or fla assumes where one is absent."""

    values: dict[str, Any]
    path: Path

    @classmethod
    def read(cls, directory: Path) -> Fields:
        """The `config.json` of a model directory. Raises CheckpointError where there is none."""
        path = directory / CONFIG_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"), object_hook=_decode_float)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing: {directory} is not a saved model") from error
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): restore it or save the model again") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path} holds no fields: restore it or save the model again")
        return cls(values, path)

    def get(self, name: str, default: Any = None) -> Any:
        """A field's value; null counts as absent."""
        value = self.values.get(name)
        return default if value is None else value

    def whole(self, name: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.refusal(name, value, "a positive whole number")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.refusal(name, value, "a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.refusal(name, value, "true or false")
        return value

    def expect(self, name: str, *accepted: object, default: object) -> None:
        """Refuse the file unless the field has one of the `accepted` values, the only ones our model has."""
        value = self.get(name, default)
        if value not in accepted:
            raise self.refusal(name, value, " or ".join(json.dumps(choice) for choice in accepted))

    def layer_kinds(self, name: str, kinds: dict[str, str], default: Sequence[str]) -> tuple[str, ...]:
        """Our mixer kind of every layer, from a list of their names."""
        listed = self.get(name, default)
        if not isinstance(listed, list | tuple) or not set(listed) <= kinds.keys():
            raise self.refusal(name, listed, f"a list of {', '.join(sorted(kinds))}")
        return tuple(kinds[kind] for kind in listed)

    def rope_theta(self) -> float:
        """Base of the rotary frequencies, of files with `rope_parameters` and of older ones.

        Raises ConfigurationError for scaled or partial rotation.
        """
        parameters = Fields(self.get("rope_parameters", {}) | self.get("rope_scaling", {}), self.path)
        parameters.expect("rope_type", "default", default=parameters.get("type", "default"))
        factor = parameters.get("partial_rotary_factor", self.get("partial_rotary_factor", 1.0))
        if factor != 1.0:
            raise self.refusal("partial_rotary_factor", factor, "1.0, because every channel of a head is rotated")
        return parameters.number("rope_theta", self.number("rope_theta", 10_000.0))

    def refusal(self, name: str, value: object, needed: str) -> ConfigurationError:
        """The error for a value that our model does not have."""
        return ConfigurationError(
            f"{self.path}: {name} is {json.dumps(value, default=str)}, and this model can only represent {needed}"
        )


def _decode_float(values: dict[str, Any]) -> Any:
    """transformers writes what JSON has no number for as `{"__float__": "Infinity"}`."""
    tagged = values.get("__float__") if len(values) == 1 else None
    return float(tagged) if isinstance(tagged, str) else values
