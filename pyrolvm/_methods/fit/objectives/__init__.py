"""Objectives and their gradient estimators, as Pyro ELBOs."""

from pyrolvm._methods.fit.objectives.annealed import Beta_ELBO, Warmup
from pyrolvm._methods.fit.objectives.base import PureELBO
from pyrolvm._methods.fit.objectives.choice import choose_objective
from pyrolvm._methods.fit.objectives.particles import ParticleELBO
from pyrolvm._methods.fit.objectives.weighted import ImportanceWeighted_ELBO

__all__ = [
    "Beta_ELBO", "ImportanceWeighted_ELBO", "ParticleELBO", "PureELBO", "Warmup", "choose_objective",
]  # fmt: skip
