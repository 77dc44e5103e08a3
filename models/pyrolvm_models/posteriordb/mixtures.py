"""A mixture of two normal distributions, labels summed out."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models.posteriordb._data import Maker, fields


def two_normals(y: Tensor) -> None:
    """The posterior ``low_dim_gauss_mix-low_dim_gauss_mix``; ``theta`` is the weight of the component with the smaller mean."""
    mu = pyro.sample("mu", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)))
    pyro.factor("mu_prior", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    weights = dist.Categorical(torch.stack([theta, 1 - theta]))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)


PROBLEMS: dict[str, Maker] = {
    "low_dim_gauss_mix-low_dim_gauss_mix": lambda data: lvm.Problem(two_normals, *fields(data, "y"))
}
