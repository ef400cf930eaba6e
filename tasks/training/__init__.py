"""Training: one curriculum stage at a time, exactly resumable, on one CPU process or many GPUs.

Public surface: `STAGE`, `CurriculumStage`, `TrainingConfig`, `TrainingStageConfig`, `place_stages`. For a curriculum
made shorter on its way: `Cut`, `shorten_curriculum`, `stop_at`, `remaining_steps`, `done_updates`, `carry_over`.
"""

from tasks.training.config import CurriculumStage, TrainingConfig, TrainingStageConfig
from tasks.training.curriculum import place_stages
from tasks.training.schedule import Cut
from tasks.training.shortening import remaining_steps, shorten_curriculum, stop_at
from tasks.training.stage import STAGE
from tasks.training.unfinished import carry_over, done_updates

__all__ = [
    "STAGE",
    "CurriculumStage",
    "Cut",
    "TrainingConfig",
    "TrainingStageConfig",
    "carry_over",
    "done_updates",
    "place_stages",
    "remaining_steps",
    "shorten_curriculum",
    "stop_at",
]
