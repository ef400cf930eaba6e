"""Deduplication: exact and verified near-duplicates, with precision and recall measured in every run.

Public surface: `STAGE`, `DeduplicationConfig`.
"""

from tasks.deduplication.config import DeduplicationConfig
from tasks.deduplication.stage import STAGE

__all__ = ["STAGE", "DeduplicationConfig"]
