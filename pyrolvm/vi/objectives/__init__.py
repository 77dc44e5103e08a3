"""Objectives and their gradient estimators, as Pyro ELBOs."""

from pyrolvm.vi.objectives.base import PureELBO
from pyrolvm.vi.objectives.choice import choose_objective
from pyrolvm.vi.objectives.particles import ParticleELBO
from pyrolvm.vi.objectives.weighted import ImportanceWeighted_ELBO

__all__ = ["ImportanceWeighted_ELBO", "ParticleELBO", "PureELBO", "choose_objective"]
