"""Calibrations are kept whole and found by what they measured."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.errors import ConfigurationError
from tasks.calibration import CalibrationStore, Setup
from tests.tasks.calibration import synthetic


def test_what_is_saved_is_found_again(tmp_path: Path) -> None:
    store, calibration = CalibrationStore(tmp_path), synthetic.calibration()
    path = store.save(calibration)
    assert path == tmp_path / f"{calibration.digest}.json"
    assert store.find(synthetic.MODEL, Setup(), synthetic.HARDWARE) == calibration
    assert store.all() == [calibration]


def test_a_later_calibration_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path)
    store.save(synthetic.calibration())
    store.save(synthetic.calibration(measured_at=datetime(2026, 12, 1, tzinfo=UTC)))
    assert [one.measured_at.month for one in store.all()] == [12]


def test_other_hardware_setups_and_models_are_not_taken_for_it(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path)
    store.save(synthetic.calibration())
    slower = synthetic.HARDWARE.model_copy(update={"cores": 1})
    assert store.find(synthetic.MODEL, Setup(), slower) is None
    assert store.find(synthetic.MODEL, Setup(threads_per_rank=1), synthetic.HARDWARE) is None
    assert store.find(synthetic.MODEL.changed(width=128), Setup(), synthetic.HARDWARE) is None


def test_a_stage_of_another_model_gets_the_nearest_one_transferred(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path)
    small, large = synthetic.calibration(), synthetic.calibration().transfer(synthetic.MODEL.changed(layer_count=32))
    store.save(small)
    store.save(large.model_copy(update={"transferred_from": None}))
    wanted = synthetic.MODEL.changed(layer_count=24)
    found = store.find_for(synthetic.stage(model=wanted), synthetic.HARDWARE)
    assert found is not None
    assert (found.model, found.transferred_from) == (wanted, large.model)
    exact = store.find_for(synthetic.stage(), synthetic.HARDWARE)
    assert exact == small
    assert store.find_for(synthetic.stage(optimizer="muon"), synthetic.HARDWARE) is None


def test_an_empty_home_has_none(tmp_path: Path) -> None:
    store = CalibrationStore.of_home(tmp_path)
    assert store.all() == []
    assert store.find_for(synthetic.stage()) is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path)
    path = store.save(synthetic.calibration())
    path.write_text("{}")
    with pytest.raises(ConfigurationError, match=path.name):
        store.find(synthetic.MODEL, Setup(), synthetic.HARDWARE)
