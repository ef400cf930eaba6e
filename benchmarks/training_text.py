"""Real text for the training benchmarks, made into token artifacts by the project's own stages.

Everything comes from the Python installation itself (its standard library, the docstrings of packages that the
project depends on), so that it is there without a network, and from WikiText where a directory with its
`validation.jsonl` and `test.jsonl` (one article a line, in the field `page`) is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from infra.artifacts import Artifact, ArtifactStore, build_stage
from tasks import deduplication, download, tokenization
from tasks.download.formats.record import FieldChoice
from tasks.download.sources import (
    AnySource,
    InstalledDocs,
    LocalFiles,
    StandardLibraryDocs,
    StandardLibrarySources,
)

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "benchmarks"
#: Packages with much documentation that an installation of the project always has.
PACKAGES = ("scikit-learn", "scipy", "pandas", "numpy", "sqlalchemy")
BYTES_PER_PACKAGE = 2_500_000


def standard_library_docs() -> AnySource:
    """The standard library's docstrings and reference chapters."""
    return StandardLibraryDocs(name="stdlib-docs")


def standard_library_sources() -> AnySource:
    """The standard library's source files, docstrings among them: not to be mixed with its docs."""
    return StandardLibrarySources(name="stdlib-sources")


def installed_docs() -> AnySource:
    """Docstrings of `PACKAGES`."""
    return InstalledDocs(name="installed-docs", packages=PACKAGES, maximum_bytes_per_package=BYTES_PER_PACKAGE)


def wikitext(directory: Path, splits: Sequence[str] = ("validation", "test")) -> AnySource:
    """WikiText's articles, each one document."""
    files = tuple(f"{split}.jsonl" for split in splits)
    return LocalFiles(name="wikitext", uri=str(directory), include=files, fields=FieldChoice(text_fields=("page",)))


def tokens_of(
    sources: Sequence[AnySource],
    store: ArtifactStore,
    *,
    vocabulary: int = 4096,
    held_out_share: float = 0.05,
    tokenizer_of: Artifact | None = None,
) -> Artifact:
    """The texts without near-duplicates as token shards, with a share of the documents in the `validation` split.

    The vocabulary is trained on the texts themselves, or taken from the tokens artifact `tokenizer_of`.
    """
    config = tokenization.TokenizationConfig(
        vocabulary_size=vocabulary,
        validation_fraction=held_out_share,
        minimum_validation_documents=0,
        tokenizer_path=tokenizer_of.path(tokenization.TOKENIZER_FILE) if tokenizer_of else None,
    )
    documents = build_stage(
        download.STAGE,
        download.DownloadConfig(sources=tuple(sources), cache_directory=CACHE / "downloads"),
        {},
        store,
    ).artifact
    distinct = build_stage(
        deduplication.STAGE, deduplication.DeduplicationConfig(), {"documents": documents}, store
    ).artifact
    return build_stage(
        tokenization.STAGE, tokenization.resolve_tokenizer(config), {"documents": distinct}, store
    ).artifact
