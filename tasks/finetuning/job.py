"""What the stage hands to the trainer's processes: a training job with a base model and adapters."""

from __future__ import annotations

from pathlib import Path

from tasks.finetuning.answers import AdapterStageConfig, Conversations
from tasks.finetuning.config import LoraConfig
from tasks.training.job import TrainingJob


class AdapterJob(TrainingJob):
    """Adapters to train. The shards are of conversations; beside each lies the one that marks the answers."""

    config: AdapterStageConfig
    base_model: Path
    """Directory of the model that the adapters are for."""
    base: str
    """The base's artifact, `kind/fingerprint`."""
    lora: LoraConfig

    def training_documents(self) -> Conversations:
        return Conversations(self.train_shards[0])

    def validation_documents(self) -> Conversations:
        return Conversations(self.validation_shards[0])
