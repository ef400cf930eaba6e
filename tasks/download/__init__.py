"""Download: from sources of many kinds to document shards with licence and origin.

Public surface: `STAGE`, `DownloadConfig`, `DecontaminationConfig`, `resolve_sources`.
"""

from tasks.download.config import DecontaminationConfig, DownloadConfig, UnavailableSource
from tasks.download.resolution import resolve_sources
from tasks.download.stage import STAGE

__all__ = ["STAGE", "DecontaminationConfig", "DownloadConfig", "UnavailableSource", "resolve_sources"]
