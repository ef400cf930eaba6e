"""Where a stage's units of work run."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Executor(StrEnum):
    """`processes` is this machine's own pool; the others are datatrove's executors."""

    PROCESSES = "processes"
    DATATROVE = "datatrove"
    RAY = "ray"
    SLURM = "slurm"


class SlurmSettings(BaseModel):
    """What Slurm asks for each job."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    partition: str = Field(default="", description="partition to submit to")
    time_limit: str = Field(default="04:00:00", description="time limit of one job, as sbatch takes it")
    quality_of_service: str = Field(default="", description="--qos; empty leaves it out")
    gigabytes_per_core: int = Field(default=4, ge=1, description="memory per core, GB")
    sbatch_options: dict[str, str] = Field(default={}, description="further sbatch options, such as `account`")
    poll_seconds: float = Field(default=20.0, gt=0, description="how often squeue is asked whether the jobs live")


class ExecutionConfig(BaseModel):
    """Where units run. Nodes other than this one must see the artifact root's working directory (NFS, Lustre, FSx)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    executor: Executor = Field(default=Executor.PROCESSES, description="who runs the units of work")
    ray_address: str = Field(
        default="local", description="`local` starts Ray on this machine; else `auto` or host:port"
    )
    slurm: SlurmSettings = Field(default=SlurmSettings(), description="what Slurm asks for")
    silence_seconds: float = Field(
        default=120.0, gt=10, description="a task that gives no sign of life for so long was killed"
    )
    units_per_task: int = Field(default=1, ge=1, description="units in one task; more of them for very short units")

    @model_validator(mode="after")
    def _slurm_has_a_partition(self) -> ExecutionConfig:
        if self.executor is Executor.SLURM and not self.slurm.partition:
            raise ValueError("execution.slurm.partition: name the partition to submit to (`sinfo` lists them)")
        return self
