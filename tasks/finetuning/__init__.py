"""Instruction tuning with LoRA adapters: conversations in; adapters, a merged model, its measurement and version out.

Public surface: the stages `CONVERSATIONS`, `FINETUNING`, `EVALUATION` and `REGISTRATION` with their configurations.
"""

from tasks.finetuning.config import (
    AdapterRegistrationConfig,
    ChatEvaluationConfig,
    ConversationsConfig,
    FinetuningConfig,
    LoraConfig,
)
from tasks.finetuning.conversations import STAGE as CONVERSATIONS
from tasks.finetuning.evaluation import STAGE as EVALUATION
from tasks.finetuning.registration import STAGE as REGISTRATION
from tasks.finetuning.stage import STAGE as FINETUNING

__all__ = [
    "CONVERSATIONS",
    "EVALUATION",
    "FINETUNING",
    "REGISTRATION",
    "AdapterRegistrationConfig",
    "ChatEvaluationConfig",
    "ConversationsConfig",
    "FinetuningConfig",
    "LoraConfig",
]
