"""What the registry holds for a bundle."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RegisteredVersion(BaseModel):
    """A version of a registered model."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    version: str
    aliases: list[str] = Field(default_factory=list)
    note: str = Field(default="", description="why it is champion, or which gate kept it from becoming one")
    created: bool = Field(default=False, description="made by this call, not found")

    @property
    def is_champion(self) -> bool:
        return "champion" in self.aliases
