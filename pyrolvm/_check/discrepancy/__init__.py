"""Data that a model makes beside the data that there are, before and after inference."""

from pyrolvm._check.discrepancy.inference import check
from pyrolvm._check.discrepancy.result import Check
from pyrolvm._check.discrepancy.simulating import Simulation, simulate

__all__ = ["Check", "Simulation", "check", "simulate"]
