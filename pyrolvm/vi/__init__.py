"""Stochastic variational inference."""

from pyrolvm.vi.inference import fit
from pyrolvm.vi.loop import Step
from pyrolvm.vi.objectives import ParticleELBO

__all__ = ["ParticleELBO", "Step", "fit"]
