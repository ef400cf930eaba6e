"""What can be chosen about the quality stage. Limits are the literature's; the source is named at each."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.artifacts import StageConfig, run_argument


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RuleLimits(_Settings):
    """Limits on one document's measures; None turns a rule off.

    Gopher: Rae et al. 2021, table A1. C4: Raffel et al. 2020, section 2.2. FineWeb: Penedo et al.
    2024, section 3.5. Code: the filters of StarCoder (Li et al. 2023, section 3.1) and Codex.
    """

    minimum_words: int = Field(default=50, ge=0, description="Gopher: words in the document")
    maximum_words: int = Field(default=100_000, ge=1, description="Gopher: words in the document")
    mean_word_length: tuple[float, float] | None = Field(default=(3.0, 10.0), description="Gopher: characters a word")
    maximum_symbols_per_word: float | None = Field(default=0.1, description="Gopher: hash signs and ellipses a word")
    maximum_bullet_lines: float | None = Field(
        default=0.9, description="Gopher: share of lines that start with a bullet"
    )
    maximum_ellipsis_lines: float | None = Field(
        default=0.3, description="Gopher: share of lines that end in an ellipsis"
    )
    minimum_alphabetic_words: float | None = Field(
        default=0.8, description="Gopher: share of words with a letter in them"
    )
    minimum_stop_words: int = Field(
        default=2, ge=0, le=8, description="Gopher: different words of the/be/to/of/and/that/have/with"
    )
    maximum_duplicate_lines: float | None = Field(default=0.3, description="Gopher: share of lines seen before")
    maximum_duplicate_line_characters: float | None = Field(
        default=0.1, description="FineWeb: share of characters in lines seen before (Gopher: 0.2)"
    )
    maximum_top_2gram: float | None = Field(
        default=0.2, description="Gopher: share of characters in the commonest 2-gram"
    )
    maximum_top_3gram: float | None = Field(
        default=0.18, description="Gopher: share of characters in the commonest 3-gram"
    )
    maximum_top_4gram: float | None = Field(
        default=0.16, description="Gopher: share of characters in the commonest 4-gram"
    )
    maximum_duplicate_5grams: float | None = Field(
        default=0.15, description="Gopher: share of characters in repeated 5-grams"
    )
    maximum_duplicate_10grams: float | None = Field(
        default=0.1, description="Gopher: share of characters in repeated 10-grams"
    )
    minimum_terminal_lines: float | None = Field(
        default=0.12, description="FineWeb: share of lines that end in punctuation"
    )
    maximum_short_lines: float | None = Field(
        default=0.67, description="FineWeb: share of lines of at most 30 characters"
    )
    forbid_placeholders: bool = Field(default=True, description="C4: no 'lorem ipsum', no 'enable javascript'")
    forbid_braces: bool = Field(default=True, description="C4: no '{', which marks code")
    maximum_mean_line_characters: float | None = Field(default=None, description="Code: mean line length (100)")
    maximum_line_characters: float | None = Field(default=None, description="Code: longest line (1,000)")
    minimum_letters: float | None = Field(
        default=None, description="Code: share of letters among visible characters (0.25)"
    )


PROSE = RuleLimits()
#: Technical documentation: prose mixed with signatures, tables and examples. Line rules written for
#: web pages would take most of it.
DOCUMENTATION = RuleLimits(
    maximum_symbols_per_word=0.3,
    minimum_alphabetic_words=0.6,
    maximum_duplicate_lines=0.45,
    maximum_duplicate_line_characters=0.3,
    maximum_duplicate_5grams=0.4,
    maximum_duplicate_10grams=0.3,
    minimum_terminal_lines=0.05,
    maximum_short_lines=0.9,
    forbid_braces=False,
    minimum_letters=0.4,
)
CODE = RuleLimits(
    minimum_words=20,
    mean_word_length=(2.0, 15.0),
    maximum_symbols_per_word=None,
    maximum_bullet_lines=None,
    maximum_ellipsis_lines=None,
    minimum_alphabetic_words=0.5,
    minimum_stop_words=0,
    maximum_duplicate_lines=0.6,
    maximum_duplicate_line_characters=0.5,
    maximum_duplicate_5grams=0.7,
    maximum_duplicate_10grams=0.6,
    minimum_terminal_lines=None,
    maximum_short_lines=None,
    forbid_placeholders=False,
    forbid_braces=False,
    maximum_mean_line_characters=100,
    maximum_line_characters=1000,
    minimum_letters=0.25,
)


class SourceSettings(_Settings):
    """How one source is judged."""

    rules: str = Field(default="prose", description="name of the rule set")
    minimum_language_probability: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="fastText probability of the language; 0.9 keeps prose but a fifth of technical text",
    )
    expected_loss: float = Field(
        default=0.9, ge=0, le=1, description="alarm when a larger share of the source is removed"
    )


class ProfanityConfig(_Settings):
    """Density rule: single hits remove great literature (half of Moby Dick's chapters have one)."""

    minimum_hits: int = Field(default=2, ge=1, description="hits below this never remove a document")
    maximum_share: float = Field(default=0.002, ge=0, le=1, description="share of words that may be profane")


class SpamConfig(_Settings):
    """Rules against link farms and sales copy."""

    maximum_links_per_word: float = Field(default=0.15, ge=0, description="addresses a word")
    maximum_phrases: int = Field(default=2, ge=0, description="different sales phrases that may occur")


class PiiKind(StrEnum):
    """Kinds of personal data and secrets that are recognised."""

    SECRET = "secret"  # noqa: S105 - the kind's name
    EMAIL = "email"
    IBAN = "iban"
    CARD = "card"
    SSN = "ssn"
    NATIONAL_ID = "national_id"
    PHONE = "phone"
    IP_ADDRESS = "ip_address"


class PiiPolicy(StrEnum):
    """What happens on a hit: `mask` puts a typed placeholder, `drop` removes the document."""

    MASK = "mask"
    DROP = "drop"
    KEEP = "keep"


class PiiConfig(_Settings):
    """Personal data: policy by kind, and the density above which a document is a contact list."""

    policies: dict[PiiKind, PiiPolicy] = Field(
        default=dict.fromkeys(PiiKind, PiiPolicy.MASK), description="what to do with each kind"
    )
    maximum_per_thousand_words: float = Field(
        default=30.0, ge=0, description="hits per 1,000 words above which it is dropped"
    )
    minimum_hits_to_drop: int = Field(default=5, ge=1, description="fewer hits than this never drop a document")


class QualityConfig(StageConfig):
    """Filters from cheap to dear, then the global cut by quality score."""

    minimum_characters: int = Field(default=100, ge=1, description="shorter documents are removed")
    maximum_characters: int = Field(default=1_000_000, ge=1, description="longer documents are removed")
    language: str = Field(default="en", min_length=2, description="language to keep (fastText label)")
    rule_sets: dict[str, RuleLimits] = Field(
        default={"prose": PROSE, "documentation": DOCUMENTATION, "code": CODE}, description="rule sets by name"
    )
    default_settings: SourceSettings = Field(
        default=SourceSettings(), description="settings of sources not named below"
    )
    sources: dict[str, SourceSettings] = Field(default={}, description="settings by source name")
    profanity: ProfanityConfig = Field(default=ProfanityConfig(), description="profanity by density")
    spam: SpamConfig = Field(default=SpamConfig(), description="links and sales phrases")
    pii: PiiConfig = Field(default=PiiConfig(), description="personal data and secrets")
    drop_fraction: float = Field(
        default=0.3, ge=0, lt=1, description="share with the lowest quality score that is removed"
    )
    quantile_over: Literal["all", "rule_set", "source"] = Field(
        default="rule_set",
        description="take the lowest share of all documents, of every rule set (the score only ranks texts of one "
        "kind), or of every source (keeps the mixture as it is)",
    )
    workers: int = run_argument(2, "processes that filter shards at the same time", ge=1)

    @model_validator(mode="after")
    def _rule_sets_exist(self) -> QualityConfig:
        for name, settings in {"default_settings": self.default_settings, **self.sources}.items():
            if settings.rules not in self.rule_sets:
                raise ValueError(f"sources.{name}.rules: '{settings.rules}' is not one of {sorted(self.rule_sets)}")
        return self

    def settings_for(self, source: str) -> SourceSettings:
        """The settings that apply to a source."""
        return self.sources.get(source, self.default_settings)
