"""A build of llama.cpp is used only when it is the one the binding was written for."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from model import ModelError
from model.llama_cpp import Build, available_builds, build_for
from model.llama_cpp.library import Library, library_path, open_library
from model.llama_cpp.source import build_directory, patch_digest
from model.llama_cpp.structures import NON_ZERO_DEFAULTS, ContextParameters, ModelParameters, unexpected_defaults


def test_the_wheels_library_is_the_known_version_and_layout() -> None:
    library = open_library(Build.STOCK)
    assert library is open_library(Build.STOCK)
    assert library.functions.llama_context_default_params().n_batch == 2048
    assert not library.has_quantizer


def test_a_build_for_every_architecture() -> None:
    assert build_for("hgrn2") is Build.PATCHED
    assert build_for("granitehybrid") is build_for("llama") is Build.STOCK
    assert Build.STOCK in available_builds()


def test_a_missing_patched_build_says_where_it_looked_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM2_LLAMA_CPP", str(tmp_path / "nothing"))
    assert Build.PATCHED not in available_builds()
    with pytest.raises(ModelError, match=r"nothing'\).*make llama"):
        library_path(Build.PATCHED)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing/libllama.so").touch()  # without its manifest: an interrupted build
    assert Build.PATCHED not in available_builds()


def test_builds_of_different_patches_are_kept_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SAM2_LLAMA_CPP", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build_directory().parent == tmp_path / "sam2"
    assert patch_digest() in build_directory().name


@pytest.mark.parametrize("kind", [ModelParameters, ContextParameters])
def test_a_shifted_layout_is_noticed(kind: type[ctypes.Structure]) -> None:
    """Each field that has a default of its own gives the shift away wherever it happens before it."""
    parameters = kind()
    for name, value in NON_ZERO_DEFAULTS[kind].items():
        setattr(parameters, name, value)
    assert unexpected_defaults(parameters) == []
    shifted = kind.from_buffer_copy(bytes(4) + bytes(parameters)[:-4])
    assert unexpected_defaults(shifted)


def fake_library(folder: Path, version: str | None) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a foreign library with")
    source = folder / "fake.c"
    source.write_text(
        "int unrelated(void) { return 1; }\n"
        if version is None
        else f'const char *llama_version(void) {{ return "{version}"; }}\n'
        'const char *ggml_version(void) { return "0.26.0"; }\n'
    )
    library = folder / "libfake.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


@pytest.mark.parametrize(
    ("version", "complaint"),
    [
        (None, "has no function llama_version"),
        ("9.9.9", r"is llama\.cpp 9\.9\.9 with ggml 0\.26\.0.*binding is for 0\.6\.0-dev"),
        ("0.6.0-dev", "has no function llama_backend_init"),
    ],
)
def test_another_library_is_refused_before_it_is_used(version: str | None, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=complaint):
        Library(fake_library(tmp_path, version))


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "libllama.so").write_text("not a library")
    with pytest.raises(ModelError, match="cannot be loaded"):
        Library(tmp_path / "libllama.so")
