"""A risk model from a plan's plain numbers, with the founding report's risks and stated assumptions as defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.risk.distributions import Distribution, Fixed, Lognormal, Triangular, Uniform, scaled
from tasks.risk.model import HOURS_PER_DAY, HOURS_PER_WEEK, CostLine, Interruptions, Phase, RiskEvent, RiskModel, Stage

# The three risks of the founding report (seeds/000-budget-planning.md, "Risk Assessment & Mitigation", 2025-07-12).
# Its cost buffer for a training failure (5,000 USD) is what the extra time was thought to cost; the time counts here.
TRAINING_FAILURE = RiskEvent(name="training failure", probability=0.20, extra_training=Fixed(value=0.5))
HARDWARE_ISSUE = RiskEvent(
    name="hardware issue", probability=0.10, usd=Fixed(value=2000.0), delay_hours=Uniform(low=0.0, high=HOURS_PER_WEEK)
)
DATASET_QUALITY = RiskEvent(name="dataset quality", probability=0.15, usd=Fixed(value=3000.0))
SEED_EVENTS = (TRAINING_FAILURE, HARDWARE_ISSUE, DATASET_QUALITY)

#: Assumption: MFU assumed from others' reports is right within a factor of 1.3 in four cases of five. A calibration
#: replaces it by its own relative error.
ASSUMED_MFU_RATIO = Lognormal.between(1 / 1.3, 1.3)
#: Assumption: a listed price moves by up to 10 % either way until the last hour is paid.
ASSUMED_PRICE_RATIO = Uniform(low=0.9, high=1.1)
#: Work by people, over its estimate. Mean 1.3: surveys of software projects find a mean overrun of 30 to 40 %
#: (Moløkken and Jørgensen, "A review of surveys on software effort estimation", ISESE 2003); its shape is assumed.
WORK_RATIO = Triangular(low=0.9, mode=1.0, high=2.0)
#: Assumption: machines and storage that are rented by the month are known within a fifth.
RENTED_RATIO = Uniform(low=0.8, high=1.2)

#: The founding report's phases around the training: two weeks of implementation, two to three days of preprocessing,
#: one week of validation.
IMPLEMENTATION = Phase(name="implementation", hours=Fixed(value=2 * HOURS_PER_WEEK))
PREPROCESSING = Phase(name="preprocessing", hours=Uniform(low=2 * HOURS_PER_DAY, high=3 * HOURS_PER_DAY))
VALIDATION = Phase(name="validation", hours=Fixed(value=HOURS_PER_WEEK))


def risk_model_of(
    name: str,
    hours_by_stage: Mapping[str, float],
    usd_per_hour: float,
    *,
    work_usd: Mapping[str, float] | None = None,
    rented_usd: Mapping[str, float] | None = None,
    mfu_ratio: Distribution = ASSUMED_MFU_RATIO,
    price_ratio: Distribution = ASSUMED_PRICE_RATIO,
    discount: float = 0.0,
    events: Sequence[RiskEvent] = SEED_EVENTS,
    interruptions: Interruptions | None = None,
    preparation: Sequence[Phase] = (IMPLEMENTATION, PREPROCESSING),
    wrap_up: Sequence[Phase] = (VALIDATION,),
) -> RiskModel:
    """The model of a plan that says single figures.

    hours_by_stage: wall-clock hours at the planned MFU, in order; usd_per_hour: of all instances together. work_usd:
    what people do (development, validation), spread like software estimates; rented_usd: storage, preprocessing and
    the like, spread by a fifth. Lines of zero USD are left out.
    """
    lines = [CostLine(name=line, usd=scaled(WORK_RATIO, usd)) for line, usd in (work_usd or {}).items() if usd]
    lines += [CostLine(name=line, usd=scaled(RENTED_RATIO, usd)) for line, usd in (rented_usd or {}).items() if usd]
    return RiskModel(
        name=name,
        stages=tuple(Stage(name=stage, hours=hours) for stage, hours in hours_by_stage.items()),
        usd_per_hour=usd_per_hour,
        discount=discount,
        price_ratio=price_ratio,
        mfu_ratio=mfu_ratio,
        lines=tuple(lines),
        events=tuple(events),
        interruptions=interruptions,
        preparation=tuple(preparation),
        wrap_up=tuple(wrap_up),
    )


def spot_interruptions(
    preemptions_per_hour: float,
    instances: int,
    *,
    checkpoint_interval_hours: float,
    restart_hours: float,
    checkpoint_write_hours: float,
    wait_hours: float,
) -> Interruptions:
    """Preemptions of `instances` instances that are each taken away `preemptions_per_hour` times an hour.

    A published rate is a range at best: it is taken as the most likely and the mean one of a triangle from none to
    twice as many. (It must have an upper end: the expected time grows exponentially with the rate.)
    """
    rate = preemptions_per_hour * instances
    return Interruptions(
        per_hour=Triangular(low=0.0, mode=rate, high=2 * rate) if rate else Fixed(value=0.0),
        restart_hours=restart_hours,
        wait_hours=wait_hours,
        checkpoint_interval_hours=checkpoint_interval_hours,
        checkpoint_write_hours=checkpoint_write_hours,
    )
