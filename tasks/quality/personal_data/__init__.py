"""Personal data and secrets: candidates by pattern, decided by validators, replaced by typed placeholders.

Public surface: `KINDS`, `Findings`, `Masked`, `find_personal_data`, `mask`, `mask_text`, `placeholder`.
"""

from tasks.quality.personal_data.findings import Findings, find_personal_data
from tasks.quality.personal_data.masking import Masked, mask, mask_text, placeholder
from tasks.quality.personal_data.patterns import KINDS

__all__ = ["KINDS", "Findings", "Masked", "find_personal_data", "mask", "mask_text", "placeholder"]
