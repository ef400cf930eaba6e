"""Quantization: smaller formats of a trained model, each measured and judged.

Public surface: `STAGE` (kind `quantized`), `QuantizationConfig`, `WeightFormat`.
"""

from tasks.quantization.config import QuantizationConfig, WeightFormat
from tasks.quantization.stage import STAGE

__all__ = ["STAGE", "QuantizationConfig", "WeightFormat"]
