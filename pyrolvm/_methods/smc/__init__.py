"""Tempered sequential Monte Carlo, with the evidence."""

from pyrolvm._methods.smc.inference import smc
from pyrolvm._methods.smc.result import Particles

__all__ = ["Particles", "smc"]
