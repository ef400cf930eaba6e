"""How often to write a checkpoint when work is interrupted at random moments.

Exponential failures at rate 1/M (M: mean time between them), work in segments of tau hours, each closed by a
checkpoint of delta hours, R hours of restart after a failure, in which it may fail again. The expected time for Ts
hours of work is

    M e^{R/M} (e^{(tau + delta)/M} - 1) Ts / tau

(J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future Generation Computer
Systems 22 (2006) 303-312, its complete model). It is exact when tau divides Ts. Hours everywhere.
"""

from __future__ import annotations

import math

from scipy.special import lambertw

from infra.errors import ConfigurationError


def expected_hours(
    work_hours: float, interval_hours: float, write_hours: float, restart_hours: float, mtbf_hours: float
) -> float:
    """Expected paid time for the work by the formula above; `mtbf_hours` may be infinite."""
    segment = interval_hours + write_hours
    if math.isinf(mtbf_hours):
        return segment * work_hours / interval_hours
    one = mtbf_hours * math.exp(restart_hours / mtbf_hours) * math.expm1(segment / mtbf_hours)
    return one * work_hours / interval_hours


def young_interval(write_hours: float, mtbf_hours: float) -> float:
    """sqrt(2 delta M): J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17, 1974."""
    _check(write_hours, mtbf_hours)
    return math.sqrt(2 * write_hours * mtbf_hours)


def daly_interval(write_hours: float, mtbf_hours: float) -> float:
    """Daly's higher-order estimate (2006): the perturbation solution below delta = 2 M, M from there on."""
    _check(write_hours, mtbf_hours)
    if write_hours >= 2 * mtbf_hours:
        return mtbf_hours
    share = write_hours / (2 * mtbf_hours)
    return math.sqrt(2 * write_hours * mtbf_hours) * (1 + math.sqrt(share) / 3 + share / 9) - write_hours


def exact_interval(write_hours: float, mtbf_hours: float) -> float:
    """The interval with the least expected time.

    Setting the derivative of Daly's formula by tau to zero gives (1 - tau/M) e^{tau/M} = e^{-delta/M}, solved by
    Lambert's function: tau = M (1 + W0(-e^{-delta/M - 1})). It does not depend on R.
    """
    _check(write_hours, mtbf_hours)
    return mtbf_hours * (1 + float(lambertw(-math.exp(-write_hours / mtbf_hours - 1)).real))


def _check(write_hours: float, mtbf_hours: float) -> None:
    if not (0 < write_hours < math.inf and 0 < mtbf_hours < math.inf):
        raise ConfigurationError(
            f"no best checkpoint interval for {write_hours} hours of writing and {mtbf_hours} hours between failures.",
            "give positive numbers for both; what costs nothing to write is written after every step.",
        )
