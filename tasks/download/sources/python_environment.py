"""`python://` sources: what every Python installation carries, so that a run needs no network at all.

Files are parsed with `ast`, never imported. The order is that of names, so the same interpreter and
the same installed versions give the same documents.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal

from pydantic import Field

from infra.errors import SourceError
from tasks.download.formats import Record
from tasks.download.sources.source import Source

_MINIMUM_DOCSTRING_CHARACTERS = 40
_SKIPPED_DIRECTORIES = {"site-packages", "__pycache__", "lib2to3", "idlelib", "turtledemo", "test", "tests"}


class StandardLibraryDocs(Source):
    """Docstrings of the running interpreter's standard library, and its language reference topics."""

    uri: Literal["python://stdlib-docs"] = "python://stdlib-docs"
    licence: str = "PSF-2.0"

    def pin(self, cache_directory: Path) -> str:
        return _interpreter()

    def records(self, cache_directory: Path) -> Iterator[Record]:
        root = _library_root()
        for path in _python_files(root):
            relative = path.relative_to(root).as_posix()
            if relative == "pydoc_data/topics.py":
                yield from _topics(path, relative)
            else:
                yield from _docstrings_of(path, relative)


class StandardLibrarySources(Source):
    """Source files of the running interpreter's standard library."""

    uri: Literal["python://stdlib-sources"] = "python://stdlib-sources"
    licence: str = "PSF-2.0"

    def pin(self, cache_directory: Path) -> str:
        return _interpreter()

    def records(self, cache_directory: Path) -> Iterator[Record]:
        root = _library_root()
        for path in _python_files(root):
            relative = path.relative_to(root).as_posix()
            if relative != "pydoc_data/topics.py":  # the prose of stdlib-docs, escaped
                yield _whole_file(path, relative)


class InstalledDocs(Source):
    """READMEs (METADATA long descriptions) and docstrings of the installed distributions."""

    uri: Literal["python://installed-docs"] = "python://installed-docs"
    licence: str = "as installed"
    packages: tuple[str, ...] = Field(
        default=(), description="distributions to read, in this order; empty: all of them by name"
    )
    maximum_bytes_per_package: int | None = Field(
        default=None,
        gt=0,
        description="stop a distribution after this many bytes, so that a large one does not take all",
    )

    def pin(self, cache_directory: Path) -> str:
        chosen = [f"{name}=={found.version}" for name, found in self._distributions()]
        return f"{_interpreter()} {hashlib.sha256(chr(10).join(chosen).encode()).hexdigest()[:16]}"

    def records(self, cache_directory: Path) -> Iterator[Record]:
        for name, distribution in self._distributions():
            yield from _capped(_distribution_records(name, distribution), self.maximum_bytes_per_package)

    def _distributions(self) -> list[tuple[str, metadata.Distribution]]:
        installed = {_normal_name(found.metadata["Name"]): found for found in metadata.distributions()}
        if not self.packages:
            return sorted(installed.items())
        names = [_normal_name(package) for package in self.packages]
        missing = [name for name in names if name not in installed]
        if missing:
            raise SourceError(
                f"source '{self.name}': distributions {missing} are not installed.",
                "install them, or take them out of `packages`.",
            )
        return [(name, installed[name]) for name in names]


def _normal_name(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _interpreter() -> str:
    return "python {}.{}.{}".format(*sys.version_info[:3])


def _library_root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _python_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        if not _SKIPPED_DIRECTORIES.intersection(path.relative_to(root).parts[:-1]):
            yield path


def _whole_file(path: Path, origin: str) -> Record:
    data = path.read_bytes()
    try:
        return Record(data.decode("utf-8"), origin)
    except UnicodeDecodeError as error:
        return Record(data[:2000].decode("utf-8", "replace"), origin, f"undecodable byte at {error.start}")


def _topics(path: Path, origin: str) -> Iterator[Record]:
    """`pydoc_data/topics.py` is one dictionary of reference chapters."""
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for key, text in sorted(ast.literal_eval(node.value).items()):
                yield Record(text, f"{origin}#{key}")


def _docstrings_of(path: Path, origin: str) -> Iterator[Record]:
    """All docstrings of one file as one document, each under its qualified name."""
    record = _whole_file(path, origin)
    if record.defect is not None:
        yield record
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's files are not ours to report
            tree = ast.parse(record.text)
    except (SyntaxError, ValueError, RecursionError):
        yield Record(record.text[:2000], origin, "Python file does not parse")
        return
    parts = list(_named_docstrings(tree, ""))
    if parts:
        yield Record("\n\n".join(parts), origin)


def _named_docstrings(node: ast.AST, prefix: str) -> Iterator[str]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text and len(text) >= _MINIMUM_DOCSTRING_CHARACTERS and _is_encodable(text):
            yield f"{prefix}\n{text}" if prefix else text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _named_docstrings(child, f"{prefix}.{child.name}".lstrip("."))
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from _named_docstrings(child, prefix)


def _is_encodable(text: str) -> bool:
    """Lone surrogates (an escape in a docstring) have no UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _distribution_records(name: str, distribution: metadata.Distribution) -> Iterator[Record]:
    # Everything after the header of METADATA; older ones have it as a header of its own.
    description = distribution.metadata.json.get("description", "")
    if isinstance(description, str) and description.strip() and _is_encodable(description):
        yield Record(description, f"{name}/README")
    for file in sorted(distribution.files or [], key=lambda entry: entry.as_posix()):
        relative = file.as_posix()
        skipped = relative.startswith("..") or _SKIPPED_DIRECTORIES.intersection(file.parts[:-1])
        path = Path(str(distribution.locate_file(file)))
        if relative.endswith(".py") and not skipped and path.is_file():
            yield from _docstrings_of(path, f"{name}/{relative}")


def _capped(records: Iterable[Record], maximum_bytes: int | None) -> Iterator[Record]:
    total = 0
    for record in records:
        yield record
        total += len(record.text.encode("utf-8", "replace"))
        if maximum_bytes is not None and total >= maximum_bytes:
            return
