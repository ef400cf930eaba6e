"""The chances that formulas ask for are those of the risk simulation."""

from __future__ import annotations

import pytest

from infra.errors import ConfigurationError
from tasks.audit import chances
from tasks.audit.chances import Chances
from tasks.risk import check_tiers, spot_interruptions

HOURS = {"all": 1300.0}


def test_they_are_the_simulations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chances, "DRAWS", 2_000)
    spot = spot_interruptions(
        0.05, 1, checkpoint_interval_hours=1 / 6, restart_hours=0.25, checkpoint_write_hours=0.0, wait_hours=1.0
    )
    asked = Chances(lambda: HOURS, 0.05)
    for finding in check_tiers(HOURS, spot, draws=2_000, seed=0):
        percent = asked.chance_percent(finding.tier.name, finding.basis)
        assert percent == pytest.approx(100 * finding.chance.probability, abs=0.05)


def test_they_are_simulated_once_and_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chances, "DRAWS", 100)
    asked_for_hours: list[int] = []

    def hours() -> dict[str, float]:
        asked_for_hours.append(1)
        return HOURS

    asked = Chances(hours, 0.05)
    assert not asked_for_hours
    asked.chance_percent("conservative", "flops")
    asked.chance_percent("enterprise", "stated")
    assert len(asked_for_hours) == 1


def test_an_unknown_basis_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chances, "DRAWS", 100)
    with pytest.raises(ConfigurationError, match="basis 'hopes'"):
        Chances(lambda: HOURS, 0.05).chance_percent("conservative", "hopes")
