"""Stochastic variational inference."""

from pyrolvm._methods.fit.inference import fit
from pyrolvm._methods.fit.loop import Step
from pyrolvm._methods.fit.objectives import ParticleELBO

__all__ = ["ParticleELBO", "Step", "fit"]
