"""Models whose training stages were made shorter on the way, and came to their new end."""

from __future__ import annotations

from tasks.registration.lineage import Lineage

SHORTENED, SHORTENED_STAGES = "sam2.shortened", "sam2.shortened_stages"


def shortened_stages(lineage: Lineage) -> list[str]:
    """What the training stages that were shortened say of it, in order; empty for a model trained as planned."""
    manifests = lineage.of_kind("checkpoint")
    told = ((manifest.config.get("name"), manifest.statistics.get("shortening")) for manifest in manifests)
    return [f"stage '{name}' was {text}" for name, text in told if text]


def shortening_tags(lineage: Lineage) -> dict[str, str]:
    """For the registry; none for a model trained as planned."""
    stages = shortened_stages(lineage)
    return {SHORTENED: "true", SHORTENED_STAGES: "; ".join(stages)} if stages else {}
