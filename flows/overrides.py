"""Partial configurations: every field optional, so that a form or a file states only what differs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from infra.errors import ConfigurationError


@cache
def partial_model(model: type[BaseModel]) -> type[BaseModel]:
    """The same model with every field optional and without cross-field checks (those run on the whole)."""
    fields: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        fields[name] = (_partial_annotation(info) | None, Field(None, description=_describe(info)))
    partial: type[BaseModel] = create_model(
        f"{model.__name__}Overrides",
        __config__=ConfigDict(extra="forbid", protected_namespaces=()),
        __doc__=model.__doc__,
        **fields,
    )
    return partial


def _partial_annotation(info: FieldInfo) -> Any:
    annotation = info.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return partial_model(annotation)
    # Lists (sources, curriculum stages) are replaced as a whole, so their items stay complete.
    return annotation


def _describe(info: FieldInfo) -> str:
    description = info.description or ""
    if info.is_required() or isinstance(info.default, BaseModel) or info.default_factory is not None:
        return description
    return f"{description} (default: {info.default})"


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, mapping by mapping; anything that is not a mapping is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        present = merged.get(key)
        merged[key] = merge(present, value) if isinstance(value, Mapping) and isinstance(present, Mapping) else value
    return merged


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """`["training.seed=3", "budget.ceiling_usd=1.5"]` as a nested mapping; values are YAML.

    Raises ConfigurationError for an assignment without '='.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise ConfigurationError(
                f"override '{assignment}' is not of the form field.path=value.", "write e.g. --set seed=7."
            )
        value: Any = yaml.safe_load(text)
        for name in reversed(path.split(".")):
            value = {name: value}
        changes = merge(changes, value)
    return changes


def explain_validation(error: ValidationError, where: str, model: type[BaseModel]) -> ConfigurationError:
    """Every problem of a configuration in one message: field path, what is wrong, what is known there."""
    problems = []
    for detail in error.errors():
        path = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            problems.append(f"unknown key '{path}'{_suggestion(detail['loc'], model)}")
        else:
            value = f" (got {json.dumps(detail['input'], default=str)[:80]})" if "input" in detail else ""
            problems.append(
                f"'{path}': {detail['msg'].removeprefix('Value error, ')}{value}" if path else detail["msg"]
            )
    return ConfigurationError(f"{where}: " + "; ".join(problems) + ".", "correct the named fields; nothing was run.")


def _suggestion(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    known = _fields_at(location[:-1], model)
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (known: {', '.join(sorted(known))})" if known else ""


def _fields_at(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue
        info = current.model_fields.get(part) if current else None
        current = _model_in(info.annotation) if info else None
    return list(current.model_fields) if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is not None:
        for argument in get_args(annotation):
            found = _model_in(argument)
            if found:
                return found
    return None
