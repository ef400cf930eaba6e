"""Deduplication: exact and verified near-duplicates, with precision and recall measured in every run.

Public surface: `STAGE`, `DeduplicationConfig`, `resolve_references`; `find_duplicates` and `SketchSettings` for
texts in memory.
"""

from tasks.deduplication.config import DeduplicationConfig, resolve_references
from tasks.deduplication.in_memory import find_duplicates
from tasks.deduplication.sketch import SketchSettings
from tasks.deduplication.stage import STAGE

__all__ = ["STAGE", "DeduplicationConfig", "SketchSettings", "find_duplicates", "resolve_references"]
