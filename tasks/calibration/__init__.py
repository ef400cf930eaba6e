"""Calibration: what training really takes on the machine at hand, measured in two minutes, and what follows from it.

Public surface: `calibrate`, `Calibration`, `CalibrationStore`, `Hardware`, `Measurement`, `MemoryMeasurement`,
`Setup`, `StepTime`, `Variant`, `fit_step_time`, `predicted_memory`, `this_hardware`.
"""

from tasks.calibration.calibrate import calibrate
from tasks.calibration.calibration import Calibration
from tasks.calibration.hardware import Hardware, this_hardware
from tasks.calibration.measurement import Measurement, MemoryMeasurement
from tasks.calibration.peak_memory import predicted_memory
from tasks.calibration.setup import Setup, Variant
from tasks.calibration.step_time import StepTime, fit_step_time
from tasks.calibration.store import CalibrationStore

__all__ = [
    "Calibration",
    "CalibrationStore",
    "Hardware",
    "Measurement",
    "MemoryMeasurement",
    "Setup",
    "StepTime",
    "Variant",
    "calibrate",
    "fit_step_time",
    "predicted_memory",
    "this_hardware",
]
