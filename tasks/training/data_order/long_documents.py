"""What share of the rows comes from long documents."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from infra.artifacts import StageConfig


class LongDocuments(StageConfig):
    """Rows of each source are drawn from its long documents and from its other documents in a fixed proportion.

    The two are disjoint, so no token is seen twice before all of its kind were seen once. Long-context stages that
    keep each domain's share and raise the share of long documents within it learn most (Fu et al. 2024,
    arXiv:2402.10171, "per-source upsampling").
    """

    minimum_tokens: int | None = Field(
        None, ge=1, description="a document of so many tokens is long; left out: half of context_tokens"
    )
    share: float = Field(0.7, gt=0, le=1, description="share of each source's rows that long documents give")
    when_missing: Literal["error", "any"] = Field(
        "error",
        description="a source without long documents: error, or any to take all of its rows from what it has, "
        "which the statistics tell",
    )

    def threshold(self, context_tokens: int) -> int:
        """Tokens from which a document is long in rows of `context_tokens`."""
        return self.minimum_tokens if self.minimum_tokens is not None else max(1, context_tokens // 2)
