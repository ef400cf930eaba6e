"""A calibration of a miniature model, by the trainer's own processes; none of its times are judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import ConfigurationError
from model import ModelConfig
from tasks.calibration import CalibrationStore, Hardware, calibrate, collecting, this_hardware
from tasks.calibration.calibrate import _check
from tasks.calibration.collecting import measure_memory, measurement_of
from tasks.calibration.points import point
from tests.tasks.calibration import synthetic

#: All four mixers; activations outweigh everything else.
MIXED = ModelConfig(
    vocabulary_size=512, width=128, layer_count=4,
    layer_kinds=("hgrn2", "gated_deltanet", "mamba2", "attention"),
    attention_heads=4, key_value_heads=2, feed_forward_width=256, hgrn2_head_dim=64, gated_deltanet_head_dim=64,
    mamba2_head_dim=32, mamba2_state_size=32, maximum_context=4096,
)  # fmt: skip


def test_a_curriculum_is_measured_and_found_again(tmp_path: Path) -> None:
    stages = [
        synthetic.stage(context, batch_tokens=256, optimizer="muon", threads_per_rank=1) for context in (32, 64, 128)
    ]
    told: list[float] = []
    found = calibrate(stages, seconds=1.0, with_memory=False, report=lambda share, what: told.append(share))
    assert len(found.measurements) >= 3  # the rest where there is time
    assert {one.context_tokens for one in found.measurements} <= {32, 64, 128}
    assert all(one.updates >= 2 and one.micro_batch_seconds > 0 for one in found.measurements)
    assert found.startup_seconds > 0
    assert found.checkpoint_stall_seconds > 0
    assert 0 < found.evaluation_share < 1.5
    assert (found.process_peak_bytes or 0) > 1e8
    assert all(0 <= share <= 1 for share in told)
    assert told
    store = CalibrationStore(tmp_path)
    store.save(found)
    assert store.find_for(stages[0]) == found
    assert 0 < found.mfu(stages[0]) < 1
    assert found.stage_seconds(stages[0]) > stages[0].steps * found.step_seconds(stages[0])


def test_the_peak_that_the_system_sees_is_predicted() -> None:
    stage = synthetic.stage(512, model=MIXED, threads_per_rank=1)
    memory = measure_memory([point(stage, 512, 2, 1), point(stage, 512, 6, 1)]).memory("cpu")
    assert len(memory) == 2
    assert memory[1].measured_bytes > 2 * memory[0].measured_bytes
    assert all(abs(one.difference) < 0.1 for one in memory), memory


def test_quartiles_are_kept_because_load_only_adds_time() -> None:
    pairs = [(1.0, 0.2), (1.0, 0.2), (1.0, 0.2), (1.0, 0.2), (5.0, 3.0)]
    found = measurement_of(synthetic.stage(256, batch_tokens=1024, micro_batch=4), pairs)
    assert (found.micro_batch_seconds, found.update_seconds, found.updates) == (1.0, 0.2, 5)
    assert (found.context_tokens, found.micro_batch) == (256, 4)


def test_uneven_updates_have_a_spread() -> None:
    stage = synthetic.stage()
    even, uneven = (measurement_of(stage, [(seconds, 0.1) for seconds in own]) for own in ([1, 1, 1, 1], [1, 2, 1, 2]))
    assert even.spread == 0
    assert uneven.spread > 0.1
    assert measurement_of(stage, [(1.0, 0.1)]).spread == 0


def test_what_the_machine_cannot_train_is_told_before_anything_starts() -> None:
    small = this_hardware().model_copy(update={"memory_bytes": 1 << 20, "kind": "cpu"})
    with pytest.raises(ConfigurationError, match="GB"):
        _check([synthetic.stage(1024)], small)
    gpus = Hardware(kind="cuda", name="Imagined", devices=2, cores=8, memory_bytes=80 << 30)
    with pytest.raises(ConfigurationError, match=r"training.ranks=2"):
        _check([synthetic.stage(1024, ranks=4)], gpus)
    with pytest.raises(ConfigurationError, match="one machine"):
        _check([synthetic.stage(1024, ranks=4, nodes=2, rendezvous_address="host:1")], small)


def test_a_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "MEASURING_MODULE", "no_such_module")
    with pytest.raises(ConfigurationError, match=r"failed: .*no_such_module"):
        measure_memory([point(synthetic.stage(64), 64, 1, 1)])
