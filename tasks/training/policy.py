"""What training does by itself when something goes wrong: data, chosen in the profile and recorded in the run."""

from __future__ import annotations

from pydantic import Field

from infra.artifacts import StageConfig, run_argument


class RollBackPolicy(StageConfig):
    """A loss that is no number, or leaps up: back to the last good checkpoint, past the batch, at a lower rate.

    A leap is a loss above the median of the last `window` losses by more than `spike_deviations` robust standard
    deviations and by more than `spike_rise` nats. What follows depends on the losses alone, not on which checkpoints
    there happen to be: the updates between the checkpoint and the bad one are made again as they were.
    """

    spike_deviations: float = Field(
        12.0, gt=0, description="a loss so many robust standard deviations above the recent median is a spike"
    )
    spike_rise: float = Field(1.0, gt=0, description="and it must be so many nats above it")
    window: int = Field(64, ge=8, description="updates whose losses are the measure; fewer than half: no judgement")
    skip_before: int = Field(0, ge=0, description="batches skipped before the offending one, which is always skipped")
    rate_factor: float = Field(0.5, gt=0, le=1, description="learning rate from the bad update on, as a share")
    rate_recovery_steps: int = Field(50, ge=1, description="updates over which the rate climbs back to the plan's")
    rewind_steps: int = Field(
        8, ge=1, description="when the next batch is bad too, the rate falls so many updates earlier; doubles each time"
    )
    maximum: int = Field(5, ge=0, description="roll-backs of one stage; one more ends it")


class RestartPolicy(StageConfig):
    """A dead rank, a hung step, a spot notice, too little memory: started again from the last checkpoint."""

    maximum: int = run_argument(
        8, "starts in a row that get no further than the ones before; then the stage ends", ge=0
    )
    backoff_seconds: float = run_argument(
        1.0, "pause before a second start in a row; doubles with each, to a minute", ge=0
    )
    hang_seconds: float | None = run_argument(
        None,
        "time in one phase of an update after which a rank is taken for hung; left out: 60 s or twenty usual updates",
        gt=0,
    )
    stop_seconds: float = run_argument(
        300.0, "time that a rank told to stop may take for its update and checkpoint before it is killed", gt=0
    )
    start_seconds: float = run_argument(
        1800.0, "time that starting, restoring, validation or writing the result may take, seconds", gt=0
    )
