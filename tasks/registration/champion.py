"""Who is champion: the rule for versions that are registered, promotion by hand, and the way back."""

from __future__ import annotations

import getpass
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from infra.artifacts import Artifact
from infra.errors import ConfigurationError, PipelineError
from tasks.evaluation.items import ItemScores
from tasks.registration.comparison import Comparison, Verdict, compare
from tasks.registration.comparison_report import write_comparison
from tasks.registration.config import PromotionRule
from tasks.registration.evidence import items_of_artifact, items_of_version
from tasks.registration.gates import Decision
from tasks.registration.promotion_lock import promotion_lock
from tasks.registration.version import RegisteredVersion
from tasks.registration.versions import (
    CHAMPION,
    COMPARED_WITH,
    COMPARISON,
    GATES,
    GATES_PASSED,
    MISSED,
    PENDING,
    PREVIOUS,
    PROMOTION,
    ROLLED_BACK,
    TEXT_LIMIT,
    UNEVALUATED,
    aliased,
    all_versions,
    describe,
    get_version,
    number_of,
    open_registry,
)

COMPARISON_PATH = "comparison"
PROMOTED_ANYWAY = "sam2.promoted_anyway"
CHAMPION_SINCE = "sam2.champion_since"
ReadItems = Callable[[], list[ItemScores] | None]


@dataclass(frozen=True)
class Evidence:
    """A comparison as far as it could be made; `unreadable` when results that should be there could not be read."""

    comparison: Comparison
    unreadable: bool = False

    @property
    def objections(self) -> list[str]:
        """What speaks against the candidate."""
        return [self.comparison.not_run] if self.unreadable else self.comparison.objections


class PromotionRefused(PipelineError):
    """The evidence speaks against the version; `comparison` is None when there was no champion to compare with."""

    def __init__(self, version: ModelVersion, objections: Sequence[str], comparison: Comparison | None) -> None:
        super().__init__(
            f"version {version.version} of '{version.name}' may not become champion: {'; '.join(objections)}.",
            "train or evaluate it again, or promote it anyway with a reason (--anyway --reason TEXT).",
        )
        self.comparison = comparison


def decide_promotion(
    client: MlflowClient, version: ModelVersion, artifact: Artifact, decision: Decision, rule: PromotionRule
) -> None:
    """Compare a new version with the champion, record the outcome, and move `champion` when the rule allows it.

    When another run moves the alias meanwhile, the comparison is made again, with the champion there is then.
    """
    name = str(version.name)
    while True:
        champion = aliased(client, name, CHAMPION)
        rival = None if champion is None or number_of(champion) == number_of(version) else champion
        evidence = None
        if rival is not None:
            evidence = gather(client, version, rival, lambda: items_of_artifact(artifact))
            _store_report(client, version, evidence.comparison)
        with promotion_lock(client, name) as check:
            if number_of(aliased(client, name, CHAMPION)) != number_of(champion):
                continue
            if client.get_model_version(name, version.version).tags.get(PROMOTION, PENDING) != PENDING and champion:
                return  # a run of the same bundle decided it meanwhile
            refusal = _refusal(version, rival, decision, evidence, rule)
            told = f" {evidence.comparison.sentence}" if evidence else ""
            if refusal is None:
                check()
                _move(client, version, champion)
            outcome = "It became champion." if refusal is None else f"It is not champion: {refusal}."
            if rival is not None and evidence is not None:
                _tag(client, version, {COMPARED_WITH: rival.version, COMPARISON: evidence.comparison.sentence})
            _tag(client, version, {PROMOTION: outcome + told})
            return


def promote(
    tracking_uri: str, name: str, version: str, *, anyway: bool = False, reason: str = "", by: str | None = None
) -> RegisteredVersion:
    """Make a version champion by hand.

    Raises PromotionRefused, naming the gates or the metrics, when it did not pass them or is worse than the champion;
    with `anyway` and a reason it becomes champion all the same, and tags keep who, when, why and against what.
    """
    client = open_registry(tracking_uri)
    chosen = get_version(client, name, version)
    if anyway and not reason.strip():
        raise ConfigurationError("a promotion against the evidence needs a reason.", "say why with --reason TEXT.")
    while True:
        champion = aliased(client, name, CHAMPION)
        evidence = None if number_of(champion) in (None, number_of(chosen)) else gather(client, chosen, champion)
        objections = _missed_gates(chosen) + (evidence.objections if evidence else [])
        if objections and not anyway:
            raise PromotionRefused(chosen, objections, evidence.comparison if evidence else None)
        with promotion_lock(client, name) as check:
            if number_of(aliased(client, name, CHAMPION)) != number_of(champion):
                continue
            check()
            _tag(client, chosen, _by_hand(by or _user(), reason, objections))
            _move(client, chosen, champion)
            if ROLLED_BACK in client.get_model_version(name, chosen.version).tags:
                client.delete_model_version_tag(name, chosen.version, ROLLED_BACK)
        return describe(client, name, chosen.version, created=False)


def _missed_gates(version: ModelVersion) -> list[str]:
    return [] if version.tags.get(GATES_PASSED) == "true" else [version.tags.get(MISSED) or "no gate was judged"]


def rollback(tracking_uri: str, name: str) -> RegisteredVersion:
    """Return to the champion before this one; the one that is left is never promoted by itself again."""
    client = open_registry(tracking_uri)
    if not all_versions(client, name):
        get_version(client, name, CHAMPION)  # raises, naming the models there are
    with promotion_lock(client, name) as check:
        champion = aliased(client, name, CHAMPION)
        previous = None if champion is None else champion.tags.get(PREVIOUS)
        if champion is None or not previous:
            raise ConfigurationError(
                f"model '{name}' has no champion before the present one.", "promote the version you want instead."
            )
        target = get_version(client, name, previous)
        check()
        client.set_model_version_tag(name, champion.version, ROLLED_BACK, "true")
        client.set_registered_model_alias(name, CHAMPION, previous)
        _tag(client, target, {CHAMPION_SINCE: _now()})
    return describe(client, name, previous, created=False)


def gather(
    client: MlflowClient, candidate: ModelVersion, champion: ModelVersion, read: ReadItems | None = None
) -> Evidence:
    """Compare two versions; `read` gives the candidate's items where they are at hand."""
    names = (f"{candidate.name} version {candidate.version}", f"{champion.name} version {champion.version}")
    unmeasured = [
        label
        for label, version in zip(names, (candidate, champion), strict=True)
        if version.tags.get(GATES) == UNEVALUATED
    ]
    if unmeasured:
        reason = f"there is no evaluation of {' nor of '.join(unmeasured)}, whose training was stopped early"
        return Evidence(Comparison(*names, not_run=reason))
    try:
        ours = read() if read else items_of_version(client, candidate)
        theirs = items_of_version(client, champion)
    except PipelineError as error:
        return Evidence(Comparison(*names, not_run=error.problem.rstrip(".")), unreadable=True)
    lacking = [label for label, items in zip(names, (ours, theirs), strict=True) if items is None]
    if lacking or ours is None or theirs is None:
        reason = f"the bundle of {' and of '.join(lacking)} has no results item by item"
        return Evidence(Comparison(*names, not_run=reason))
    return Evidence(compare(ours, theirs, names))


def _refusal(
    version: ModelVersion, rival: ModelVersion | None, decision: Decision, evidence: Evidence | None,
    rule: PromotionRule,
) -> str | None:  # fmt: skip
    """Why the version does not become champion by itself; None when it does."""
    if not decision.passed:
        return decision.withheld or ("not every gate passed" if decision.rows else "no gate was judged")
    if rival is None or evidence is None:
        return None
    if rule == "not-worse" and evidence.objections:
        return "; ".join(evidence.objections) if evidence.unreadable else f"it is worse than version {rival.version}"
    is_better = bool(evidence.comparison.with_verdict(Verdict.BETTER)) and not evidence.objections
    if int(rival.version) > int(version.version) and not is_better:
        return f"version {rival.version}, which is newer, is champion"
    return None


def _move(client: MlflowClient, version: ModelVersion, champion: ModelVersion | None) -> None:
    """Point `champion` at the version; the one it leaves is remembered first, so that a crash loses nothing."""
    if champion is not None and number_of(champion) == number_of(version):
        return
    if champion is not None:
        client.set_model_version_tag(version.name, version.version, PREVIOUS, champion.version)
    client.set_registered_model_alias(version.name, CHAMPION, version.version)
    _tag(client, version, {CHAMPION_SINCE: _now()})


def _store_report(client: MlflowClient, version: ModelVersion, comparison: Comparison) -> None:
    """Keep the comparison's files with the version's MLflow run."""
    with tempfile.TemporaryDirectory() as temporary:
        write_comparison(Path(temporary), comparison)
        client.log_artifacts(version.run_id, temporary, COMPARISON_PATH)


def _by_hand(by: str, reason: str, objections: Sequence[str]) -> dict[str, str]:
    """The tags of a promotion by hand: never silent about what spoke against it."""
    why = f": {' '.join(reason.split())}" if reason.strip() else ""
    if not objections:
        return {PROMOTION: f"{by} made it champion at {_now()}{why}."}
    against = "; ".join(objections)
    return {
        PROMOTION: f"{by} made it champion at {_now()} against the evidence ({against}){why}.",
        PROMOTED_ANYWAY: against,
        f"{PROMOTED_ANYWAY}_by": by,
        f"{PROMOTED_ANYWAY}_at": _now(),
        f"{PROMOTED_ANYWAY}_reason": reason,
    }


def _tag(client: MlflowClient, version: ModelVersion, tags: dict[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, str(value)[:TEXT_LIMIT])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
