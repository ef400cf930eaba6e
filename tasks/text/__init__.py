"""Text as bytes: what every hot path of the data engine is built on.

Texts stay in the Arrow buffers they were read into; loops over their bytes are compiled by numba at
first use (no compiler is needed) and have a numpy counterpart with identical results.

Public surface: `TextBatch`, `engine`.
"""

from tasks.text.batch import TextBatch
from tasks.text.engine import engine

__all__ = ["TextBatch", "engine"]
