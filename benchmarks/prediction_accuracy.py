"""What is told before a run beside what is measured: peak memory, and seconds of an update, on this machine's CPU.

    python -m benchmarks.prediction_accuracy [--what memory speed transfer] [--seconds 40] [--as-the-trainer]

memory: `model.sizing.training_memory` beside the growth of the resident set of a fresh process for each configuration
(tasks/calibration/peak_memory.py says what is measured). With --as-the-trainer also with the system's own allocator
settings, which keep part of what was freed: the slack that is not predicted.

speed: the line fitted to some contexts beside contexts and micro-batches that it has not seen. All take turns in one
process, so that other load on the machine meets them alike.

transfer: the line fitted to one model beside another model's updates, which `Calibration.transfer` widens its
error for.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

from infra.quiet import apply_quiet_environment

apply_quiet_environment()

from datetime import UTC, datetime  # noqa: E402

import torch  # noqa: E402

from model import ModelConfig, preset  # noqa: E402
from tasks.calibration import Calibration, Measurement, Setup, fit_step_time, this_hardware  # noqa: E402
from tasks.calibration.collecting import Collected, measure_memory, measure_speed  # noqa: E402
from tasks.calibration.peak_memory import predicted_memory  # noqa: E402
from tasks.calibration.points import point  # noqa: E402
from tasks.calibration.work import work_of  # noqa: E402
from tasks.training import TrainingStageConfig  # noqa: E402

THREADS = 2
_SMOKE = preset("smoke").changed(maximum_context=8192)
FAMILIES: dict[str, ModelConfig] = {
    "hgrn2 3:1": _SMOKE,
    "gated_deltanet 3:1": _SMOKE.changed(
        pattern=("gated_deltanet", "gated_deltanet", "gated_deltanet", "attention"), gated_deltanet_head_dim=64
    ),
    "mamba2 1:1": _SMOKE.changed(
        layer_kinds=("attention", "mamba2", "mamba2", "attention"), mamba2_head_dim=64, mamba2_state_size=64
    ),
    "attention": _SMOKE.changed(pattern=("attention",)),
}
#: (family, context, rows, micro-batches an update, recomputation, optimiser)
MEMORY_CASES: tuple[tuple[str, int, int, int, bool, str], ...] = (
    ("hgrn2 3:1", 1024, 4, 2, False, "muon"),
    ("hgrn2 3:1", 4096, 1, 1, True, "adamw"),
    ("gated_deltanet 3:1", 512, 4, 1, False, "adamw"),
    ("gated_deltanet 3:1", 1024, 4, 1, True, "adamw"),
    ("mamba2 1:1", 1024, 4, 1, False, "adamw"),
    ("mamba2 1:1", 2048, 2, 2, True, "adamw"),
    ("attention", 1024, 4, 1, False, "adamw"),
)
FITTED = ((128, 2), (128, 8), (512, 1), (512, 4), (2048, 1))
HELD_OUT = ((256, 1), (256, 6), (512, 2), (1024, 1), (1024, 2), (3072, 1))
#: The other model of `transfer`: more than twice the work a token.
_LARGER = _SMOKE.changed(width=384, layer_count=8, feed_forward_width=1024, attention_heads=6)
TRANSFERRED = ((128, 4), (512, 1), (1024, 1))


def stage(model: ModelConfig, context: int, rows: int, accumulation: int = 1, **fields: Any) -> TrainingStageConfig:
    """A configuration to measure."""
    batch_tokens = context * rows * accumulation
    whole = TrainingStageConfig(
        name="accuracy", context_tokens=context, batch_tokens=batch_tokens, tokens=batch_tokens, micro_batch=rows,
        learning_rate=1e-6, threads_per_rank=THREADS, model=model, **fields,
    )  # fmt: skip
    return point(whole, context, rows, accumulation)


def compare_memory(as_the_trainer: bool) -> None:
    """One line a configuration, each in a process of its own."""
    slack = f"{'trainer MB':>12}{'slack':>8}" if as_the_trainer else ""
    print(f"{'model':<20}{'context':>8}{'rows':>5}{'x':>3}  {'options':<20}", end="")
    print(f"{'predicted MB':>13}{'measured MB':>12}{'difference':>11}{slack}")
    differences = []
    for family, context, rows, accumulation, recomputed, optimizer in MEMORY_CASES:
        case = stage(
            FAMILIES[family], context, rows, accumulation, gradient_checkpointing=recomputed, optimizer=optimizer
        )
        measured = measure_memory([case]).peaks[0]
        predicted = predicted_memory(case, "cpu")
        assert predicted is not None
        differences.append(predicted / measured - 1)
        options = optimizer + (", recomputed" if recomputed else "")
        line = f"{family:<20}{context:>8,}{rows:>5}{accumulation:>3}  {options:<20}"
        line += f"{predicted / 1e6:>13,.1f}{measured / 1e6:>12,.1f}{differences[-1]:>+11.1%}"
        if as_the_trainer:
            kept = measure_memory([case], returning=False).peaks[0]
            line += f"{kept / 1e6:>12,.1f}{kept / measured - 1:>+8.0%}"
        print(line, flush=True)
    print(f"largest difference {max(map(abs, differences)):.1%}\n")


def compare_speed(seconds: float) -> Calibration:
    """One line a configuration that was left out of the fit; the calibration of those that were not."""
    seen = [stage(_SMOKE, *sizes) for sizes in FITTED]
    found = measure_speed(_ordered([*seen, *(stage(_SMOKE, *sizes) for sizes in HELD_OUT)]), seconds, lambda text: None)
    measured = {(one.context_tokens, one.micro_batch): one for one in found.measurements()}
    calibration = _calibration(_SMOKE, [measured[sizes] for sizes in FITTED if sizes in measured], found)
    print(f"fitted to {', '.join(f'{context:,} x {rows}' for context, rows in FITTED)}; ", end="")
    print(f"its own expectation {calibration.relative_error:.1%}")
    _print_updates(calibration, [measured[sizes] for sizes in HELD_OUT if sizes in measured])
    return calibration


def compare_transfer(calibration: Calibration, seconds: float) -> None:
    """One line a configuration of another model."""
    found = measure_speed(_ordered([stage(_LARGER, *sizes) for sizes in TRANSFERRED]), seconds, lambda text: None)
    transferred = calibration.transfer(_LARGER)
    print(f"the same line, transferred to a larger model; its own expectation {transferred.relative_error:.1%}")
    _print_updates(transferred, found.measurements())


def _ordered(points: Sequence[TrainingStageConfig]) -> list[TrainingStageConfig]:
    return sorted(points, key=lambda one: one.batch_tokens)


def _calibration(model: ModelConfig, measurements: list[Measurement], found: Collected) -> Calibration:
    return Calibration(
        measured_at=datetime.now(UTC),
        hardware=this_hardware(),
        setup=Setup(threads_per_rank=THREADS),
        model=model,
        torch_version=torch.__version__,
        peak_flops=found.facts["peak_flops"],
        peak_origin=found.facts["peak_origin"],
        measurements=tuple(measurements),
        step_times=(fit_step_time(model, measurements),),
        startup_seconds=found.facts["startup_seconds"],
        evaluation_share=found.facts["evaluation_share"],
        checkpoint_stall_seconds=found.facts["checkpoint_stall_seconds"],
        measuring_seconds=0.0,
    )


def _print_updates(calibration: Calibration, measurements: Sequence[Measurement]) -> None:
    print(f"{'context':>8}{'rows':>5}{'updates':>8}{'predicted s':>12}{'measured s':>11}{'difference':>11}")
    differences = []
    for one in measurements:
        work = work_of(calibration.model, one.context_tokens, one.micro_batch, one.variant)
        predicted = calibration.step_times[0].update_seconds(work, 1)
        measured = one.micro_batch_seconds + one.update_seconds
        differences.append(predicted / measured - 1)
        print(
            f"{one.context_tokens:>8,}{one.micro_batch:>5}{one.updates:>8}{predicted:>12.4f}{measured:>11.4f}"
            f"{differences[-1]:>+11.1%}",
            flush=True,
        )
    typical = statistics.median(map(abs, differences))
    print(f"largest difference {max(map(abs, differences)):.1%}, median {typical:.1%}\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = ("memory", "speed", "transfer")
    parser.add_argument("--what", nargs="+", choices=choices, default=list(choices))
    parser.add_argument("--seconds", type=float, default=36.0, help="of measuring speed; half of it for transfer")
    parser.add_argument("--as-the-trainer", action="store_true", help="also with the system's allocator settings")
    arguments = parser.parse_args()
    print(f"{this_hardware().describe()}, {THREADS} threads, torch {torch.__version__}\n")
    if "memory" in arguments.what:
        compare_memory(arguments.as_the_trainer)
    if {"speed", "transfer"} & set(arguments.what):
        calibration = compare_speed(arguments.seconds)
        if "transfer" in arguments.what:
            compare_transfer(calibration, arguments.seconds / 2)


if __name__ == "__main__":
    main()
