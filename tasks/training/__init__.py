"""Training: one curriculum stage at a time, exactly resumable, on one CPU process or many GPUs.

Public surface: `STAGE`, `CurriculumStage`, `TrainingConfig`, `TrainingStageConfig`, `place_stages`.
"""

from tasks.training.config import CurriculumStage, TrainingConfig, TrainingStageConfig
from tasks.training.curriculum import place_stages
from tasks.training.stage import STAGE

__all__ = ["STAGE", "CurriculumStage", "TrainingConfig", "TrainingStageConfig", "place_stages"]
