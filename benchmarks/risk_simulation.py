"""The risk simulation against the loop one would write: the same project, draw by draw and failure by failure.

    python benchmarks/risk_simulation.py [--draws 100000] [--peer-draws 2000] [--repeats 3]

The peer is plain Python with the random module's own distributions. Both means are compared first: a ratio between
simulations of different things says nothing. Times are CPU seconds, the best of the repeats, per 100,000 draws.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tasks.risk import Lognormal, RiskModel, Triangular, Uniform, risk_model_of, simulate, spot_interruptions

MODEL = risk_model_of(
    "three stages on spot instances",
    {"foundation": 918.0, "context-scaling": 400.0, "long-context": 300.0},
    4.80,
    work_usd={"development": 10_000.0, "validation": 3_000.0},
    rented_usd={"preprocessing": 500.0, "storage and bandwidth": 300.0, "monitoring": 200.0},
    interruptions=spot_interruptions(
        0.05, 1, checkpoint_interval_hours=1.0, restart_hours=0.3, checkpoint_write_hours=0.02, wait_hours=0.5
    ),
)
_AGREE_ERRORS = 4.5


def drawn(figure: object) -> float:
    """One value, by the standard library."""
    match figure:
        case Uniform():
            return random.uniform(figure.low, figure.high)
        case Triangular():
            return random.triangular(figure.low, figure.high, figure.mode)
        case Lognormal():
            return random.lognormvariate(math.log(figure.median), figure.sigma)
        case _:
            return figure.value  # type: ignore[attr-defined]


def peer_cost(model: RiskModel) -> float:
    """Cost of one draw, every segment and every failure in turn."""
    settings = model.interruptions
    assert settings is not None
    rate = drawn(settings.per_hour)
    own = sum(drawn(line.usd) for line in model.lines)
    longer = 1.0
    for event in model.events:
        if random.random() < event.probability:
            longer += drawn(event.extra_training)
            own += drawn(event.usd)
    longer /= drawn(model.mfu_ratio)
    paid = 0.0
    for stage in model.stages:
        left = stage.hours * longer
        while left > 0:
            work = min(settings.checkpoint_interval_hours, left)
            needed = work + settings.checkpoint_write_hours
            while (failure := random.expovariate(rate)) < needed:
                paid += failure
                needed = work + settings.checkpoint_write_hours + settings.restart_hours
            paid += needed
            left -= work
    return own + paid * model.paid_usd_per_hour * drawn(model.price_ratio)


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    """Least CPU time of the repeats."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def main() -> None:
    """Compare the means, then print both times and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=100_000)
    parser.add_argument("--peer-draws", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    random.seed(0)
    ours, theirs = simulate(MODEL, arguments.draws), [peer_cost(MODEL) for _ in range(arguments.peer_draws)]
    error = math.hypot(ours.cost_usd.standard_error, stdev(theirs) / math.sqrt(len(theirs)))
    print(f"mean cost: ours {ours.cost_usd.mean:,.0f} USD, loop {fmean(theirs):,.0f} USD, standard error {error:,.0f}")
    if abs(ours.cost_usd.mean - fmean(theirs)) > _AGREE_ERRORS * error:
        raise SystemExit("the two do not simulate the same project")
    our_seconds = best_seconds(lambda: simulate(MODEL, arguments.draws), arguments.repeats)
    peer_seconds = best_seconds(lambda: [peer_cost(MODEL) for _ in range(arguments.peer_draws)], arguments.repeats)
    our_seconds *= 1e5 / arguments.draws
    peer_seconds *= 1e5 / arguments.peer_draws
    print(f"interruptions a draw: {ours.interruptions.mean:.0f}; per 100,000 draws:")
    print(f"ours {our_seconds:.2f} s, loop {peer_seconds:.1f} s: {peer_seconds / our_seconds:.0f} times as fast")


if __name__ == "__main__":
    main()
