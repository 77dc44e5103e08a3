"""Simulation-based calibration: is a method right on data whose true latents are known."""

from pyrolvm.calibration.inference import calibrate
from pyrolvm.calibration.result import Calibration

__all__ = ["Calibration", "calibrate"]
