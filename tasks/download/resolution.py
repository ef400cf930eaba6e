"""Pin what the machine provides before anything is fingerprinted.

A fingerprint made from `python://installed-docs` alone would be the same on two machines with
different packages; one made from an optional source that is missing would later pass for the
complete artifact. So sources are resolved first: each is pinned by a digest of what it provides, and
optional ones that cannot be had are taken out and recorded. Where the config has a mixture, each source
that is left is then told how many bytes are needed of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from infra.errors import SourceError
from tasks.download.config import DownloadConfig, UnavailableSource
from tasks.download.mixture import with_mixture_targets
from tasks.download.sources import Source


def resolve_sources(config: DownloadConfig, cache_directory: Path | None = None) -> DownloadConfig:
    """The same config with every source and evaluation set pinned, and missing optional ones recorded.

    Fetches wheels and web files into `cache_directory` (default: the config's). Raises SourceError
    when a source that is not optional cannot be had.
    """
    cache = cache_directory if cache_directory is not None else config.cache_directory
    failures: dict[str, SourceError] = {}
    unavailable: list[UnavailableSource] = []
    sources = _pinned(config.sources, cache, failures, unavailable)
    evaluation_sets = _pinned(config.decontamination.evaluation_sets, cache, failures, unavailable)
    if not sources:
        reasons = "; ".join(source.reason for source in unavailable)
        raise SourceError(f"none of the sources can be had: {reasons}", "add a python:// source; it needs no network.")
    decontamination = config.decontamination.model_copy(update={"evaluation_sets": evaluation_sets})
    return config.model_copy(
        update={
            "sources": with_mixture_targets(sources, config.mixture),
            "decontamination": decontamination,
            "unavailable": tuple(unavailable),
            "cache_directory": cache,
        }
    )


def _pinned(
    sources: Iterable[Source], cache: Path, failures: dict[str, SourceError], unavailable: list[UnavailableSource]
) -> tuple[Source, ...]:
    """`failures` remembers addresses that did not answer, so that each is waited for once."""
    pinned = []
    for source in sources:
        try:
            if source.uri in failures:
                raise failures[source.uri]
            pinned.append(source.model_copy(update={"pinned": source.pin(cache)}))
        except SourceError as error:
            if not source.optional:
                raise
            if "://" in source.uri:
                failures[source.uri] = error
            unavailable.append(UnavailableSource(name=source.name, uri=source.uri, reason=error.problem))
    return tuple(pinned)
