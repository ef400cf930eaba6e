"""The kinds of sources. To add one: write a `Source` subclass in a module here and list it in `SOURCE_TYPES`.

Public surface: `Source`, the subclasses, and `AnySource`, the field type that picks the subclass by uri.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, GetJsonSchemaHandler, Tag
from pydantic_core import CoreSchema

from infra.errors import ConfigurationError
from tasks.download.sources.buckets import BucketFiles
from tasks.download.sources.conversations import ConversationLogs
from tasks.download.sources.debian_packages import DebianPackages
from tasks.download.sources.hub_datasets import HubDataset
from tasks.download.sources.local_files import LocalFiles
from tasks.download.sources.python_environment import InstalledDocs, StandardLibraryDocs, StandardLibrarySources
from tasks.download.sources.session_events import SessionLogs
from tasks.download.sources.source import Source
from tasks.download.sources.structured_rows import INNER_KINDS
from tasks.download.sources.web import WebFile
from tasks.download.sources.wheels import WheelMember, WheelSource

#: Beginning of a uri -> kind of source. A plain path has no scheme and is a local file.
SOURCE_TYPES: dict[str, type[Source]] = {
    "python://stdlib-docs": StandardLibraryDocs,
    "python://stdlib-sources": StandardLibrarySources,
    "python://installed-docs": InstalledDocs,
    "pypi://": WheelSource,
    "https://": WebFile,
    "http://": WebFile,
    "s3://": BucketFiles,
    "debian://": DebianPackages,
    "hf://": HubDataset,
    **dict.fromkeys((f"chat+{inner}" for inner in INNER_KINDS), ConversationLogs),
    **dict.fromkeys((f"events+{inner}" for inner in INNER_KINDS), SessionLogs),
    "file://": LocalFiles,
}


def source_type_of(uri: str) -> type[Source]:
    """The kind of source behind a uri; raises ConfigurationError listing the known ones."""
    for beginning, source_type in SOURCE_TYPES.items():
        if uri == beginning or (beginning.endswith("//") and uri.startswith(beginning)):
            return source_type
    if "://" not in uri:
        return LocalFiles
    raise ConfigurationError(
        f"source uri '{uri}' is of an unknown kind.", f"use a local path or one of {', '.join(SOURCE_TYPES)}."
    )


def _tag_of(value: Any) -> str:
    uri = value.get("uri") if isinstance(value, dict) else getattr(value, "uri", None)
    if not isinstance(uri, str) or not uri:
        raise ConfigurationError(f"a source has no `uri`: {value!r}.", "give every source a `name` and a `uri`.")
    return source_type_of(uri).__name__


class _AnyOf:
    """Say `anyOf` in the JSON schema: one source may look like several kinds to a form that cannot read uris.

    Prefect checks parameters against the schema, and under `oneOf` would refuse every plain source.
    """

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        described = dict(handler(schema))
        if "oneOf" in described:
            described["anyOf"] = described.pop("oneOf")
        return described


AnySource = Annotated[
    Annotated[StandardLibraryDocs, Tag("StandardLibraryDocs")]
    | Annotated[StandardLibrarySources, Tag("StandardLibrarySources")]
    | Annotated[InstalledDocs, Tag("InstalledDocs")]
    | Annotated[WheelSource, Tag("WheelSource")]
    | Annotated[WebFile, Tag("WebFile")]
    | Annotated[BucketFiles, Tag("BucketFiles")]
    | Annotated[DebianPackages, Tag("DebianPackages")]
    | Annotated[HubDataset, Tag("HubDataset")]
    | Annotated[ConversationLogs, Tag("ConversationLogs")]
    | Annotated[SessionLogs, Tag("SessionLogs")]
    | Annotated[LocalFiles, Tag("LocalFiles")],
    Discriminator(_tag_of),
    _AnyOf(),
]

__all__ = [
    "SOURCE_TYPES",
    "AnySource",
    "BucketFiles",
    "ConversationLogs",
    "DebianPackages",
    "HubDataset",
    "InstalledDocs",
    "LocalFiles",
    "SessionLogs",
    "Source",
    "StandardLibraryDocs",
    "StandardLibrarySources",
    "WebFile",
    "WheelMember",
    "WheelSource",
    "source_type_of",
]
