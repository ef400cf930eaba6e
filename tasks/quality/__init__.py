"""Quality: from raw documents to ones worth training on, with every removal explained.

Public surface: `STAGE`, `QualityConfig`, `SourceSettings`, `RuleLimits`.
"""

from tasks.quality.config import PiiKind, PiiPolicy, QualityConfig, RuleLimits, SourceSettings
from tasks.quality.resolution import resolve_classifiers
from tasks.quality.stage import STAGE

__all__ = ["STAGE", "PiiKind", "PiiPolicy", "QualityConfig", "RuleLimits", "SourceSettings", "resolve_classifiers"]
