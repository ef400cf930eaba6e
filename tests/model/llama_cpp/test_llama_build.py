"""Building the patched library: every step that needs no compiler, and the whole where it was done."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from model import ModelError
from model.llama_cpp import Build, source
from model.llama_cpp import build as building
from model.llama_cpp.build import apply_patch, build, default_jobs, main, unpack, verify
from tests.support.llama_builds import require_build


def archive_of(folder: Path, files: dict[str, str]) -> Path:
    """A source archive like the release's, with these files."""
    path = folder / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{source.PACKAGE}-{source.VERSION}/{name}")
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))
    return path


def original_files() -> dict[str, list[str]]:
    """What the patch expects to find, reconstructed from its context: enough source to apply it to."""
    files: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in source.PATCH.read_text().splitlines():
        if line.startswith("--- "):
            lines = files.setdefault(line.removeprefix("--- a/"), []) if "/dev/null" not in line else []
        elif line.startswith("@@"):
            start = int(line.split()[1].removeprefix("-").split(",")[0])
            lines += [f"// line {number}" for number in range(len(lines) + 1, start)]
        elif line.startswith((" ", "-")):
            lines.append(line[1:])
    return files


def write_sources(folder: Path) -> Path:
    if shutil.which("patch") is None:
        pytest.skip("the program 'patch', with which the build adds the architecture, is not installed")
    for name, lines in original_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(lines) + "\n")
    (folder / "src/models").mkdir(exist_ok=True)
    return folder


def test_the_patch_registers_the_architecture_everywhere_it_must(tmp_path: Path) -> None:
    folder = write_sources(tmp_path)
    apply_patch(folder)
    assert (folder / "src/llama-arch.h").read_text().count("LLM_ARCH_HGRN2") == 1
    assert (folder / "src/llama-arch.cpp").read_text().count("LLM_ARCH_HGRN2") == 3  # name, hybrid, no tensor split
    assert (folder / "src/llama-model.cpp").read_text().count("LLM_ARCH_HGRN2") == 2  # factory, rotary form
    assert "ggml_gated_linear_attn" in (folder / "src/models/hgrn2.cpp").read_text()
    with pytest.raises(ModelError, match="does not apply"):
        apply_patch(folder)  # twice


def test_another_source_is_left_as_it_is(tmp_path: Path) -> None:
    folder = write_sources(tmp_path)
    place = folder / "src/llama-model.cpp"
    place.write_text(place.read_text().replace("case LLM_ARCH_GRANITE_SWA:", "case LLM_ARCH_RENAMED:"))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(ModelError, match=r"(?s)does not apply.*llama-model\.cpp\nHunk #1 FAILED"):
        apply_patch(folder)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_only_the_pinned_archive_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no source archive"):
        verify(tmp_path / "absent.tar.gz")
    with pytest.raises(ModelError, match=rf"sha256.*{source.VERSION} has {source.ARCHIVE_SHA256}"):
        verify(archive_of(tmp_path, {"a": "b"}))


def test_only_llama_cpp_is_unpacked(tmp_path: Path) -> None:
    folder = source.SOURCE_FOLDER
    archive = archive_of(tmp_path, {f"{folder}/CMakeLists.txt": "project", "setup.py": "no", f"{folder}/src/a.cpp": ""})
    unpacked = unpack(archive, tmp_path / "source")
    assert sorted(file.name for file in unpacked.rglob("*") if file.is_file()) == ["CMakeLists.txt", "a.cpp"]
    with pytest.raises(ModelError, match="layout has changed"):
        unpack(archive_of(tmp_path, {"setup.py": "no"}), tmp_path / "other")


def pretend_steps(monkeypatch: pytest.MonkeyPatch, calls: list[str], failing: str = "") -> None:
    """Every slow step replaced by a note that it was taken."""

    def step(name: str, result: object = None) -> object:
        def pretend(*arguments: object) -> object:
            calls.append(name)
            if name == failing:
                raise ModelError(f"{name} failed")
            if name == "install":
                target = arguments[-1]
                assert isinstance(target, Path)
                target.mkdir()
                (target / source.MANIFEST_NAME).write_text("{}")
                (target / source.LIBRARY_NAME).touch()
            return result

        return pretend

    for name in ("download", "verify", "unpack", "apply_patch", "compile_libraries", "install", "prove"):
        monkeypatch.setattr(building, name, step(name, Path("somewhere") if name in ("download", "unpack") else None))


def test_a_finished_build_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    pretend_steps(monkeypatch, calls)
    library = build(tmp_path / "cache/build", None, 1)
    assert library == tmp_path / "cache/build/libllama.so" and library.is_file()
    assert calls == ["download", "verify", "unpack", "apply_patch", "compile_libraries", "install", "prove"]
    assert build(tmp_path / "cache/build", None, 1) == library
    assert len(calls) == 7


@pytest.mark.parametrize("failing", ["verify", "compile_libraries", "prove"])
def test_a_failed_build_leaves_nothing(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_steps(monkeypatch, [], failing)
    with pytest.raises(ModelError, match=failing):
        build(tmp_path / "build", None, 1)
    assert [file.name for file in tmp_path.iterdir()] == ["build.lock"]


def test_a_folder_that_is_no_build_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_steps(monkeypatch, [])
    (tmp_path / "build").mkdir()
    (tmp_path / "build/notes.txt").touch()
    with pytest.raises(ModelError, match="is no build of llama"):
        build(tmp_path / "build", None, 1)
    assert [file.name for file in (tmp_path / "build").iterdir()] == ["notes.txt"]


def test_the_command_line_reports_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAM2_LLAMA_CPP", str(tmp_path / "build"))
    assert main(["--archive", str(archive_of(tmp_path, {"a": "b"}))]) == 1
    assert "was not built" in capsys.readouterr().err
    assert 1 <= default_jobs() <= (os.cpu_count() or 1)


def test_the_build_on_this_machine_proves_itself() -> None:
    require_build(Build.PATCHED)
    manifest = json.loads((source.build_directory() / source.MANIFEST_NAME).read_text())
    assert manifest["version"] == source.VERSION and manifest["patch"] == source.patch_digest()
    subprocess.run([sys.executable, "-m", "model.llama_cpp.self_check"], check=True, timeout=300)
