"""Simulation-based calibration: is a method right on data whose true latents are known."""

from pyrolvm._check.calibrate.inference import calibrate
from pyrolvm._check.calibrate.result import Calibration

__all__ = ["Calibration", "calibrate"]
