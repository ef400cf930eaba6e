"""Checkpoints that any number of ranks and any ZeRO stage can continue from, written beside training, never pickle.

A checkpoint is a directory `step-00000120/`: of every rank the pieces of the fp32 weights and of the optimiser's
moments that it holds (`weights-00003-of-00008-….safetensors`, `optimizer-…`), what the trainer keeps besides, and
`checkpoint.json`, written last, with every file's checksum and where the slices of every whole tensor are.

Public surface: `CheckpointStore`, `RetentionPolicy`, `Checkpoint`, `Fragment`; `weight_key` and `moment_key` (names of
tensors), `deal`; `TensorSource`, `WholeTensors`, `whole` (reading by slices); `write_model`, `write_optimizer`,
`OptimizerState` (a finished stage's files); `CheckpointFailed`.
"""

from tasks.training.checkpoints.errors import CheckpointFailed
from tasks.training.checkpoints.finished import OptimizerState, write_model, write_optimizer
from tasks.training.checkpoints.fragments import Fragment, deal, moment_key, weight_key
from tasks.training.checkpoints.reading import Checkpoint, TensorSource, WholeTensors, whole
from tasks.training.checkpoints.retention import RetentionPolicy
from tasks.training.checkpoints.store import CheckpointStore

__all__ = [
    "Checkpoint",
    "CheckpointFailed",
    "CheckpointStore",
    "Fragment",
    "OptimizerState",
    "RetentionPolicy",
    "TensorSource",
    "WholeTensors",
    "deal",
    "moment_key",
    "weight_key",
    "whole",
    "write_model",
    "write_optimizer",
]
