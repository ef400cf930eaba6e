"""What an hour of the machine at hand costs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

#: A laptop under load: 65 W at 0.30 USD/kWh is 0.0195 USD/h of electricity; a 1,200 USD machine
#: written off over 4 years of 8 hours a day is 0.103 USD/h. Together, rounded: 0.12 USD/h.
LAPTOP_USD_PER_HOUR = 0.12
LAPTOP_NOTE = "own machine: electricity (65 W at 0.30 USD/kWh) plus depreciation (1,200 USD over 4 years, 8 h a day)"


class ComputePrice(BaseModel):
    """The price that the ledger multiplies hours with. Set it to what you really pay."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    provider: str = Field("own-machine", description="who is paid: own-machine, lambda, aws, ...")
    usd_per_hour: float = Field(LAPTOP_USD_PER_HOUR, ge=0, description="USD for one hour of this machine")
    note: str = Field(LAPTOP_NOTE, description="where the price comes from; shown beside every total")

    def usd(self, seconds: float) -> float:
        """Price of `seconds` of this machine."""
        return seconds / 3600 * self.usd_per_hour
