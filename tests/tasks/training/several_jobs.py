"""One of torchrun's ranks that trains several jobs in turn, so that a test pays for starting DeepSpeed once."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tasks.training.engine import import_deepspeed, start_distributed
from tasks.training.job import TrainingJob
from tasks.training.trainer import train

jobs = [TrainingJob.read(Path(path)) for path in sys.argv[1:]]
deepspeed = import_deepspeed()
placement = start_distributed(jobs[0].config, deepspeed)
codes = [train(job, placement, deepspeed) for job in jobs]
torch.distributed.destroy_process_group()
sys.exit(max(codes))
