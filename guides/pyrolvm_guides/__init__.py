"""The guide zoo: variational families for any Pyro model.

Every family is a builder ``family(problem, **options)`` that returns a fresh Pyro guide for the problem. Guides work
in unconstrained space, ``biject_to(site.support)``, and the log probabilities of their sites sum to the exact log
density of the draw, Jacobians included. Discrete latent sites are left out: they are summed over in the model.

A guide may have a method ``finalize(*args, **kwargs)``. It is called once, after optimisation, with the arguments of
the full problem, and returns the guide that holds the posterior.
"""

from pyrolvm_guides.amortized import amortized
from pyrolvm_guides.autoregressive import autoregressive
from pyrolvm_guides.flow import flow
from pyrolvm_guides.full_rank import full_rank
from pyrolvm_guides.laplace import laplace
from pyrolvm_guides.low_rank import low_rank
from pyrolvm_guides.mean_field import mean_field
from pyrolvm_guides.mixture import mixture

__all__ = ["amortized", "autoregressive", "flow", "full_rank", "laplace", "low_rank", "mean_field", "mixture"]
