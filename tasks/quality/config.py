"""What can be chosen about the quality stage. Limits are the literature's; the source is named at each."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.sharded_work import ShardedStageConfig


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RuleLimits(_Settings):
    """Limits on one document's measures; None turns a rule off. The defaults are the published ones.

    Gopher: Rae et al. 2021, section A.1.1 and table A1. C4: Raffel et al. 2020, section 2.2. FineWeb:
    Penedo et al. 2024, section 3.5. All four as datatrove 0.10.1 defines them, with FineWeb's choice of
    C4 rules. Code: the filters of StarCoder (Li et al. 2023, section 3.1) and Codex.
    """

    minimum_words: int = Field(default=50, ge=0, description="Gopher: words in the document")
    maximum_words: int = Field(default=100_000, ge=1, description="Gopher: words in the document")
    mean_word_length: tuple[float, float] | None = Field(default=(3.0, 10.0), description="Gopher: characters a word")
    maximum_symbols_per_word: float | None = Field(
        default=0.1, description="Gopher: hash signs a token, and ellipses a token"
    )
    maximum_bullet_lines: float | None = Field(
        default=0.9, description="Gopher: share of lines that start with a bullet"
    )
    maximum_ellipsis_lines: float | None = Field(
        default=0.3, description="Gopher: share of lines that end in an ellipsis"
    )
    minimum_alphabetic_words: float | None = Field(
        default=0.8, description="Gopher: share of tokens with a letter in them"
    )
    minimum_stop_words: int = Field(
        default=2, ge=0, le=8, description="Gopher: different words of the/be/to/of/and/that/have/with"
    )
    maximum_duplicate_paragraphs: float | None = Field(default=0.3, description="Gopher: share seen before")
    maximum_duplicate_paragraph_characters: float | None = Field(
        default=0.2, description="Gopher: share of characters in paragraphs seen before"
    )
    maximum_duplicate_lines: float | None = Field(default=0.3, description="Gopher: share of lines seen before")
    maximum_duplicate_line_characters: float | None = Field(
        default=0.2, description="Gopher: share of characters in lines seen before"
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
    maximum_duplicate_6grams: float | None = Field(default=0.14, description="Gopher: the same of 6-grams")
    maximum_duplicate_7grams: float | None = Field(default=0.13, description="Gopher: the same of 7-grams")
    maximum_duplicate_8grams: float | None = Field(default=0.12, description="Gopher: the same of 8-grams")
    maximum_duplicate_9grams: float | None = Field(default=0.11, description="Gopher: the same of 9-grams")
    maximum_duplicate_10grams: float | None = Field(default=0.1, description="Gopher: the same of 10-grams")
    line_filter: Literal["none", "c4", "c4_closed"] = Field(
        default="c4",
        description="lines the rules below look at: all, those C4 keeps, or also with a closing mark (FineWeb: c4)",
    )
    forbid_placeholders: bool = Field(default=True, description="C4: no 'lorem ipsum' in those lines")
    forbid_braces: bool = Field(default=True, description="C4: no '{' in those lines, which marks code")
    minimum_sentences: int = Field(default=5, ge=0, description="C4: sentences in those lines")
    minimum_terminal_lines: float | None = Field(
        default=0.12, description="FineWeb: share of those lines that end in punctuation"
    )
    maximum_short_lines: float | None = Field(
        default=0.67, description="FineWeb: share of those lines of at most 30 characters"
    )
    maximum_repeated_line_characters: float | None = Field(
        default=0.01, description="FineWeb: share of their characters in lines seen before"
    )
    maximum_lines_per_word: float | None = Field(default=0.3, description="FineWeb: line breaks a token")
    maximum_mean_line_characters: float | None = Field(default=None, description="Code: mean line length (100)")
    maximum_line_characters: float | None = Field(default=None, description="Code: longest line (1,000)")
    minimum_letters: float | None = Field(
        default=None, description="Code: share of letters among visible characters (0.25)"
    )


#: Pages of the web: Gopher, C4 and FineWeb as published.
WEB = RuleLimits()
#: Texts that were edited before they were published (books, articles, abstracts): often one paragraph, or a
#: few long lines, so C4's five sentences and FineWeb's repeated lines would take good ones. Punctuation marks
#: count as words without a letter, as in datatrove: at its limit of 0.8 three quarters of abstracts, full of
#: figures and commas, would go.
PROSE = RuleLimits(
    minimum_alphabetic_words=0.7,
    line_filter="none",
    minimum_sentences=2,
    maximum_repeated_line_characters=0.1,
    maximum_lines_per_word=None,
)
#: Technical documentation: prose mixed with signatures, tables and examples. Line rules written for
#: web pages would take most of it.
DOCUMENTATION = RuleLimits(
    maximum_symbols_per_word=0.3,
    minimum_alphabetic_words=0.5,
    maximum_duplicate_lines=0.45,
    maximum_duplicate_line_characters=0.3,
    maximum_duplicate_paragraphs=0.45,
    maximum_duplicate_paragraph_characters=0.3,
    maximum_duplicate_5grams=0.4,
    maximum_duplicate_6grams=0.38,
    maximum_duplicate_7grams=0.36,
    maximum_duplicate_8grams=0.34,
    maximum_duplicate_9grams=0.32,
    maximum_duplicate_10grams=0.3,
    line_filter="none",
    forbid_braces=False,
    minimum_sentences=0,
    minimum_terminal_lines=0.05,
    maximum_short_lines=0.9,
    maximum_repeated_line_characters=0.3,
    maximum_lines_per_word=None,
    minimum_letters=0.4,
)
CODE = RuleLimits(
    minimum_words=20,
    mean_word_length=(2.0, 15.0),
    maximum_symbols_per_word=None,
    maximum_bullet_lines=None,
    maximum_ellipsis_lines=None,
    minimum_alphabetic_words=0.3,
    minimum_stop_words=0,
    maximum_duplicate_paragraphs=0.6,
    maximum_duplicate_paragraph_characters=0.5,
    maximum_duplicate_lines=0.6,
    maximum_duplicate_line_characters=0.5,
    maximum_duplicate_5grams=0.7,
    maximum_duplicate_6grams=0.68,
    maximum_duplicate_7grams=0.66,
    maximum_duplicate_8grams=0.64,
    maximum_duplicate_9grams=0.62,
    maximum_duplicate_10grams=0.6,
    line_filter="none",
    forbid_placeholders=False,
    forbid_braces=False,
    minimum_sentences=0,
    minimum_terminal_lines=None,
    maximum_short_lines=None,
    maximum_repeated_line_characters=None,
    maximum_lines_per_word=None,
    maximum_mean_line_characters=100,
    maximum_line_characters=1000,
    minimum_letters=0.25,
)

#: No rule at all.
UNRULED = RuleLimits(
    minimum_words=0,
    mean_word_length=None,
    maximum_symbols_per_word=None,
    maximum_bullet_lines=None,
    maximum_ellipsis_lines=None,
    minimum_alphabetic_words=None,
    minimum_stop_words=0,
    maximum_duplicate_paragraphs=None,
    maximum_duplicate_paragraph_characters=None,
    maximum_duplicate_lines=None,
    maximum_duplicate_line_characters=None,
    maximum_top_2gram=None,
    maximum_top_3gram=None,
    maximum_top_4gram=None,
    maximum_duplicate_5grams=None,
    maximum_duplicate_6grams=None,
    maximum_duplicate_7grams=None,
    maximum_duplicate_8grams=None,
    maximum_duplicate_9grams=None,
    maximum_duplicate_10grams=None,
    line_filter="none",
    forbid_placeholders=False,
    forbid_braces=False,
    minimum_sentences=0,
    minimum_terminal_lines=None,
    maximum_short_lines=None,
    maximum_repeated_line_characters=None,
    maximum_lines_per_word=None,
)


class SourceSettings(_Settings):
    """How one source is judged."""

    rules: str = Field(default="web", description="name of the rule set")
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


class ClassifierConfig(_Settings):
    """A supervised fastText model (.bin or .ftz), for instance one trained by this project."""

    path: str = Field(min_length=1, description="path of the model file")
    checksum: str | None = Field(default=None, description="checksum the file must have; None accepts any")
    label: str = Field(min_length=1, description="label whose probability is the score")


class SpamConfig(_Settings):
    """Rules against link farms and sales copy, and a classifier's word where there is one."""

    maximum_links_per_word: float = Field(default=0.15, ge=0, description="addresses a word")
    maximum_phrases: int = Field(default=2, ge=0, description="different sales phrases that may occur")
    classifier: ClassifierConfig | None = Field(default=None, description="model whose label means spam")
    maximum_probability: float = Field(
        default=0.9, ge=0, le=1, description="probability of that label above which a document is removed"
    )


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


class QualityConfig(ShardedStageConfig):
    """Filters from cheap to dear, then the global cut by quality score."""

    minimum_characters: int = Field(default=100, ge=1, description="shorter documents are removed")
    maximum_characters: int = Field(default=1_000_000, ge=1, description="longer documents are removed")
    language: str = Field(default="en", min_length=2, description="language to keep (fastText label)")
    rule_sets: dict[str, RuleLimits] = Field(
        default={"web": WEB, "prose": PROSE, "documentation": DOCUMENTATION, "code": CODE},
        description="rule sets by name",
    )
    default_settings: SourceSettings = Field(
        default=SourceSettings(), description="settings of sources not named below"
    )
    sources: dict[str, SourceSettings] = Field(default={}, description="settings by source name")
    profanity: ProfanityConfig = Field(default=ProfanityConfig(), description="profanity by density")
    spam: SpamConfig = Field(default=SpamConfig(), description="links and sales phrases")
    pii: PiiConfig = Field(default=PiiConfig(), description="personal data and secrets")
    quality_classifier: ClassifierConfig | None = Field(
        default=None, description="model whose label means good text; without one the score is linear in the measures"
    )
    drop_fraction: float = Field(
        default=0.3, ge=0, lt=1, description="share with the lowest quality score that is removed"
    )
    quantile_over: Literal["all", "rule_set", "source"] = Field(
        default="all",
        description="take the lowest share of all documents, of every rule set (the linear score only ranks texts of "
        "one kind), or of every source (keeps the mixture as it is)",
    )

    @model_validator(mode="after")
    def _rule_sets_exist(self) -> QualityConfig:
        for name, settings in {"default_settings": self.default_settings, **self.sources}.items():
            if settings.rules not in self.rule_sets:
                raise ValueError(f"sources.{name}.rules: '{settings.rules}' is not one of {sorted(self.rule_sets)}")
        return self

    def settings_for(self, source: str) -> SourceSettings:
        """The settings that apply to a source."""
        return self.sources.get(source, self.default_settings)
