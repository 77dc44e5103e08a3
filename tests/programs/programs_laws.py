"""Distributions and constraints of every kind."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.reparam import LatentStableReparam, LocScaleReparam, ProjectedNormalReparam, TransformReparam

from tests.programs.cases import Case, grid, program

Y = grid(8)
COUNTS = torch.tensor([1.0, 3.0, 0.0, 2.0, 4.0, 1.0])


@program
def correlated_slopes():
    def model(group, x, y):
        scales = pyro.sample("scales", dist.LogNormal(torch.zeros(2), 0.5).to_event(1))
        factor = pyro.sample("factor", dist.LKJCholesky(2, 2.0))
        with pyro.plate("groups", 3):
            slopes = pyro.sample("slopes", dist.MultivariateNormal(torch.zeros(2), scale_tril=scales.diag() @ factor))
        mean = slopes[group, 0] + slopes[group, 1] * x
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return Case(model, (torch.arange(8) % 3, grid(8), Y))


@program
def covariance_by_wishart_factor():
    def model(y):
        rows = pyro.sample("rows_of", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
        law = dist.MultivariateNormal(torch.zeros(2), covariance_matrix=rows @ rows.T + torch.eye(2))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", law, obs=y)

    return Case(model, (grid(4, 2),))


@program
def shares_of_totals():
    def model(counts):
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("rows", len(counts)):
            pyro.sample("counts", dist.Multinomial(total_count=5, probs=shares), obs=counts)

    return Case(model, (torch.tensor([[2.0, 2.0, 1.0], [0.0, 4.0, 1.0]]),))


@program
def overdispersed_shares():
    def model(counts):
        strength = pyro.sample("strength", dist.Gamma(torch.full((3,), 2.0), 1.0).to_event(1))
        with pyro.plate("rows", len(counts)):
            pyro.sample("counts", dist.DirichletMultinomial(strength, total_count=5), obs=counts)

    return Case(model, (torch.tensor([[2.0, 2.0, 1.0], [0.0, 4.0, 1.0]]),))


@program
def ordered_categories():
    def model(x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        base = dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1)
        cuts = pyro.sample("cuts", dist.TransformedDistribution(base, dist.transforms.OrderedTransform()))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.OrderedLogistic(slope * x, cuts), obs=y)

    return Case(model, (Y, torch.arange(8) % 3))


@program
def angles():
    def model(angle):
        centre = pyro.sample("centre", dist.Normal(0.0, 1.0))
        strength = pyro.sample("strength", dist.Gamma(2.0, 1.0))
        with pyro.plate("rows", len(angle)):
            pyro.sample("angle", dist.VonMises(centre, strength), obs=angle)

    return Case(model, (Y,))


@program
def direction_as_a_latent():
    def model(y):
        with poutine.reparam(config={"way": ProjectedNormalReparam()}):
            way = pyro.sample("way", dist.ProjectedNormal(torch.tensor([1.0, 0.5])))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(way, 0.5).to_event(1), obs=y)

    return Case(model, (grid(4, 2),), interpreted="a reparameterisation of Pyro's that reads its values")


@program
def stable_law_by_auxiliary_sites():
    def model(y):
        scale = pyro.sample("scale", dist.LogNormal(-1.0, 0.5))
        with poutine.reparam(config={"z": LatentStableReparam()}), pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Stable(1.7, 0.0, scale, 0.0))
            pyro.sample("y", dist.Normal(z, 0.5), obs=y)

    return Case(model, (Y[:4],))


@program
def mixture_by_a_mask():
    def model(y, special):
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.MaskedMixture(special, dist.Normal(0.0, scale), dist.Cauchy(0.0, scale)), obs=y)

    return Case(model, (Y, Y > 0.5))


@program
def fixed_by_a_point_mass():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        double = pyro.sample("double", dist.Delta(2 * mean), obs=2 * mean)
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(double, 0.5), obs=y)

    return Case(model, (Y,))


@program
def flat_priors():
    def model(y):
        mean = pyro.sample("mean", dist.ImproperUniform(constraints.real, (), ()))
        scale = pyro.sample("scale", dist.ImproperUniform(constraints.positive, (), ()))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, scale), obs=y)

    def guide(y):
        pyro.sample("mean", dist.Normal(pyro.param("m", torch.tensor(0.0)), 0.3))
        pyro.sample("scale", dist.LogNormal(pyro.param("s", torch.tensor(-0.5)), 0.3))

    return Case(model, (Y,), guide=guide)


@program
def intervals_and_half_lines():
    def model(y):
        low = pyro.sample("low", dist.Uniform(-2.0, -0.5))
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        rate = pyro.sample("rate", dist.InverseGamma(3.0, 1.0))
        tail = pyro.sample("tail", dist.Pareto(1.0, 3.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Laplace(low + share, rate + tail), obs=y)

    return Case(model, (Y,))


@program
def simplex_and_sphere_free_vectors():
    def model(y):
        shares = pyro.sample("shares", dist.LogisticNormal(torch.zeros(2), 1.0).to_event(0))
        factor = pyro.sample("factor", dist.LowRankMultivariateNormal(torch.zeros(3), torch.ones(3, 1), torch.ones(3)))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal((shares * factor).sum(-1), 0.5), obs=y)

    return Case(model, (Y,))


@program
def shrinkage_by_half_cauchys():
    def model(x, y):
        overall = pyro.sample("overall", dist.HalfCauchy(0.5))
        with pyro.plate("features", 2):
            local = pyro.sample("local", dist.HalfCauchy(1.0))
            with poutine.reparam(config={"weights": LocScaleReparam(0.0)}):
                weights = pyro.sample("weights", dist.Normal(0.0, overall * local))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(x @ weights, 0.5), obs=y)

    return Case(model, (grid(8, 2), Y))


@program
def transformed_prior():
    def model(y):
        base = dist.Normal(0.0, 1.0)
        law = dist.TransformedDistribution(base, [dist.transforms.AffineTransform(0.5, 2.0)])
        with poutine.reparam(config={"mean": TransformReparam()}):
            mean = pyro.sample("mean", law)
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Logistic(mean, 0.5), obs=y)

    return Case(model, (Y,))


@program
def counts_with_extra_spread():
    def model(y):
        mean = pyro.sample("mean", dist.LogNormal(0.0, 0.5))
        spread = pyro.sample("spread", dist.Exponential(1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.GammaPoisson(spread, spread / mean), obs=y)

    return Case(model, (COUNTS,))


@program
def rates_of_rows():
    def model(y):
        with pyro.plate("rows", len(y)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("y", dist.Poisson(rate), obs=y)

    return Case(model, (COUNTS,))


@program
def trials_of_unequal_size():
    def model(trials, y):
        shape = pyro.sample("shape", dist.Gamma(torch.full((2,), 2.0), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.BetaBinomial(shape[0], shape[1], total_count=trials), obs=y)

    return Case(model, (COUNTS + 2, COUNTS))


@program
def lifetimes():
    def model(y):
        shape = pyro.sample("shape", dist.LogNormal(0.0, 0.5))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Weibull(scale, shape), obs=y)

    return Case(model, (Y.abs() + 0.1,))
