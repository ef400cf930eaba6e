"""Imports point one way: flows -> tasks -> {model, infra}; the model is usable alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("flows", "tasks", "model", "infra")
ALLOWED = {
    "flows": {"flows", "tasks", "model", "infra"},
    "tasks": {"tasks", "model", "infra"},
    "model": {"model"},
    "infra": {"infra"},
}
FORBIDDEN_LIBRARIES = {"model": {"prefect", "mlflow"}}
UNHELPFUL_NAMES = {"utils", "helpers", "common", "misc", "base", "core"}


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        names = imported(path)
        wrong = (names & set(PACKAGES)) - ALLOWED[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"
        wrong = names & FORBIDDEN_LIBRARIES.get(package, set())
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_are_named_by_their_subject(package: str) -> None:
    assert not [path for path in (ROOT / package).rglob("*.py") if path.stem in UNHELPFUL_NAMES]


def test_nothing_is_read_with_pickle() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert not imported(path) & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}, path
            assert "torch.load(" not in path.read_text(), path
            assert "allow_pickle=True" not in path.read_text(), path
