"""One stream of uniform random numbers for each uncertain figure, found by its name.

A figure keeps its luck when another one is removed or changed: two models are compared on common random numbers. Each
stream is read in the order of the draws, so that it makes no difference how many are drawn at once.
"""

from __future__ import annotations

import hashlib

import numpy as np

from tasks.risk.distributions import Floats

#: Generators give multiples of 2**-53 from zero on; quantiles want shares above zero.
_LEAST_SHARE = 2.0**-54


class Streams:
    """The streams of one seed; a stream continues where its last reader stopped."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._generators: dict[str, np.random.Generator] = {}

    def generator(self, name: str) -> np.random.Generator:
        """The stream of this name."""
        if name not in self._generators:
            key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
            self._generators[name] = np.random.default_rng([self._seed, key])
        return self._generators[name]

    def uniform(self, name: str, draws: int) -> Floats:
        """The next shares of this stream, [draws], strictly between 0 and 1."""
        return np.maximum(self.generator(name).random(draws), _LEAST_SHARE)
