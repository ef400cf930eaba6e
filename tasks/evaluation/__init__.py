"""Evaluation: perplexity, baselines, needle recall, speed, samples, and the gates that decide promotion.

Public surface: `STAGE` (kind `evaluation`), `EvaluationConfig`, `resolve_evaluation`, `Gate`.
"""

from tasks.evaluation.config import EvaluationConfig
from tasks.evaluation.gates import Gate
from tasks.evaluation.resolution import resolve_evaluation
from tasks.evaluation.stage import STAGE

__all__ = ["STAGE", "EvaluationConfig", "Gate", "resolve_evaluation"]
