"""Conjugate pairs: the posterior's density and the evidence are textbook formulas."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats
from torch import Tensor

import pyrolvm as lvm

TIGHT = 1e-10


def double(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def check(result, law, evidence, *site):
    """The law of one site, its density at the draws, and the evidence."""
    draws = result.data["posterior"][site[0]].values[0]
    for index in site[1:]:
        draws = draws[..., index]
    assert result.evidence.value == pytest.approx(evidence, abs=TIGHT * (1 + abs(evidence)))
    np.testing.assert_allclose(result.log_p - result.log_q, evidence, atol=1e-8)
    assert result.verdict.trusted
    assert stats.kstest(draws, law.cdf).pvalue > 1e-4


def test_beta_bernoulli(exact):
    def model(y: Tensor) -> None:
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    y = [1.0, 0, 1, 1, 0, 1, 1]
    evidence = special.betaln(2 + 5, 3 + 2) - special.betaln(2, 3)
    result = exact(model, double(y))
    check(result, stats.beta(7, 5), evidence, "p")
    assert result.family == "conjugate: Beta for 'p'"
    np.testing.assert_allclose(
        result.log_q[0], stats.beta(7, 5).logpdf(result.data["posterior"]["p"].values[0]), atol=1e-9
    )


def test_beta_binomial_in_a_plate_under_a_uniform_prior(exact):
    def model(n: Tensor, y: Tensor) -> None:
        with pyro.plate("rows", len(y)):
            p = pyro.sample("p", dist.Uniform(0.0, 1.0))
            pyro.sample("y", dist.Binomial(n, p), obs=y)

    n, y = np.array([5.0, 9.0, 3.0]), np.array([2.0, 0.0, 3.0])
    evidence = (special.betaln(1 + y, 1 + n - y) + np.log(special.comb(n, y))).sum()
    check(exact(model, double(n), double(y)), stats.beta(1, 10), evidence, "p", 1)


def test_gamma_poisson(exact):
    def model(y: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Poisson(3.0 * rate), obs=y)

    y = np.array([4.0, 1.0, 7.0])
    a, b = 2 + y.sum(), 0.5 + 9.0
    evidence = (
        2 * math.log(0.5) + math.lgamma(a) - a * math.log(b) + y.sum() * math.log(3) - special.gammaln(y + 1).sum()
    )
    check(exact(model, double(y)), stats.gamma(a, scale=1 / b), evidence, "rate")


def test_gamma_exponential_with_an_exponential_prior(exact):
    def model(y: Tensor) -> None:
        rate = pyro.sample("rate", dist.Exponential(2.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Exponential(rate), obs=y)

    y = np.array([0.3, 1.4, 0.2, 5.0])
    a, b = 5.0, 2 + y.sum()
    evidence = math.log(2) + math.lgamma(a) - a * math.log(b)
    check(exact(model, double(y)), stats.gamma(a, scale=1 / b), evidence, "rate")


def test_dirichlet_categorical_and_multinomial(exact):
    prior = np.array([0.5, 1.0, 2.5])

    def model(z: Tensor, counts: Tensor) -> None:
        p = pyro.sample("p", dist.Dirichlet(double(prior)))
        with pyro.plate("rows", len(z)):
            pyro.sample("z", dist.Categorical(p), obs=z)
        pyro.sample("counts", dist.Multinomial(9, p), obs=counts)

    z, counts = np.array([0, 2, 2, 1]), np.array([4.0, 0.0, 5.0])
    after = prior + np.bincount(z, minlength=3) + counts

    def log_norm(a):
        return special.gammaln(a).sum() - special.gammaln(a.sum())

    evidence = log_norm(after) - log_norm(prior) + special.gammaln(10) - special.gammaln(counts + 1).sum()
    result = exact(model, torch.as_tensor(z), double(counts))
    check(result, stats.beta(after[0], after[1:].sum()), evidence, "p", 0)
    draws = result.data["posterior"]["p"].values[0]
    np.testing.assert_allclose(draws.sum(-1), 1.0, atol=1e-12)
    wanted = [stats.dirichlet(after).logpdf(row / row.sum()) for row in draws[:50]]
    np.testing.assert_allclose(result.log_q[0, :50], wanted, atol=1e-9)


def test_rows_of_dirichlets(exact):
    def model(z: Tensor) -> None:
        with pyro.plate("groups", 2):
            p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("rows", len(z)):
            pyro.sample("z", dist.Categorical(p[0]), obs=z)

    evidence = special.gammaln(3) + special.gammaln([2, 1, 3]).sum() - special.gammaln(6)
    check(exact(model, torch.tensor([0, 2, 2])), stats.beta(2, 4), evidence, "p", 0, 0)


@pytest.mark.parametrize("as_precision", [True, False])
def test_a_normal_with_known_mean_and_unknown_variance(exact, rng, as_precision):
    def model(y: Tensor) -> None:
        if as_precision:
            sd = pyro.sample("s", dist.Gamma(3.0, 2.0)).rsqrt()
        else:
            sd = pyro.sample("s", dist.InverseGamma(3.0, 2.0)).sqrt()
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(1.0, sd), obs=y)

    y = rng.normal(size=8)
    a, b = 3 + 4.0, 2 + 0.5 * ((y - 1) ** 2).sum()
    evidence = 3 * math.log(2) - math.lgamma(3) - 4 * math.log(2 * math.pi) + math.lgamma(a) - a * math.log(b)
    law = stats.gamma(a, scale=1 / b) if as_precision else stats.invgamma(a, scale=b)
    check(exact(model, double(y)), law, evidence, "s")


@pytest.mark.parametrize("as_precision", [True, False])
def test_conjugate_regression(exact, rng, as_precision):
    """The marginal of y is a multivariate Student t."""

    def model(x: Tensor, y: Tensor) -> None:
        if as_precision:
            sd = pyro.sample("s", dist.Gamma(3.0, 2.0)).rsqrt()
        else:
            sd = pyro.sample("s", dist.InverseGamma(3.0, 2.0)).sqrt()
        beta = pyro.sample("beta", dist.Normal(0.5, 2 * sd).expand([x.shape[1]]).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(x @ beta, sd), obs=y)

    x = rng.normal(size=(15, 2))
    y = x @ [1.0, -1.0] + rng.normal(size=15)
    shape = (np.eye(15) + 4 * x @ x.T) * 2 / 3
    evidence = stats.multivariate_t(x @ [0.5, 0.5], shape, df=6).logpdf(y)
    result = exact(model, double(x), double(y), draws=2000)
    precision = np.eye(2) / 4 + x.T @ x
    mean = np.linalg.solve(precision, np.full(2, 0.5 / 4) + x.T @ y)
    a = 3 + 7.5
    b = 2 + 0.5 * (y @ y + 2 * 0.25 / 4 - mean @ precision @ mean)
    law = stats.gamma(a, scale=1 / b) if as_precision else stats.invgamma(a, scale=b)
    check(result, law, evidence, "s")
    spread = math.sqrt(b / a * np.linalg.inv(precision)[0, 0])
    assert (
        stats.kstest(result.data["posterior"]["beta"].values[0, :, 0], stats.t(2 * a, mean[0], spread).cdf).pvalue
        > 1e-4
    )


def test_several_kinds_side_by_side(exact):
    def model(y: Tensor, k: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        pyro.sample("y", dist.Poisson(rate), obs=y)
        pyro.sample("k", dist.Bernoulli(p), obs=k)

    result = exact(model, double(3.0), double(1.0))
    evidence = math.lgamma(5) - 5 * math.log(2) - math.log(6) + math.log(0.5)
    check(result, stats.beta(2, 1), evidence, "p")
    check(result, stats.gamma(5, scale=0.5), evidence, "rate")


def test_an_improper_posterior_names_its_site(exact):
    def model(y: Tensor) -> None:
        p = pyro.sample("p", dist.ImproperUniform(dist.constraints.positive, (), ()))
        pyro.factor("jeffreys", -p.log())
        pyro.sample("y", dist.Poisson(p), obs=y)

    with pytest.raises(lvm.ProblemError, match=r"posterior of site 'p' is improper: it would be Gamma\(.*Fix:"):
        exact(model, double(0.0))
    assert exact(model, double(2.0)).verdict.trusted


# --- what only looks like it ------------------------------------------------------------------------------------------


def product_of_rates(y: Tensor) -> None:
    a = pyro.sample("a", dist.Gamma(2.0, 1.0))
    b = pyro.sample("b", dist.Gamma(2.0, 1.0))
    pyro.sample("y", dist.Poisson(a * b), obs=y)


def sum_of_rates(y: Tensor) -> None:
    a = pyro.sample("a", dist.Gamma(2.0, 1.0))
    b = pyro.sample("b", dist.Gamma(2.0, 1.0))
    pyro.sample("y", dist.Poisson(a + b), obs=y)


def half_cauchy(y: Tensor) -> None:
    a = pyro.sample("a", dist.HalfCauchy(1.0))
    pyro.sample("y", dist.Poisson(a), obs=y)


def masked_far_out(y: Tensor) -> None:
    a = pyro.sample("a", dist.Gamma(2.0, 1.0))
    with pyro.poutine.mask(mask=a < 1e6):
        pyro.sample("y", dist.Poisson(a), obs=y)


def standard_deviation_as_gamma(y: Tensor) -> None:
    a = pyro.sample("a", dist.Gamma(2.0, 1.0))
    pyro.sample("y", dist.Normal(0.0, a), obs=y)


def only_the_noise_scales(y: Tensor) -> None:
    a = pyro.sample("a", dist.Gamma(2.0, 1.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(mu, a.rsqrt()), obs=y)


def logistic_normal(y: Tensor) -> None:
    a = pyro.sample("a", dist.LogNormal(0.0, 1.0))
    pyro.sample("y", dist.Poisson(a), obs=y)


@pytest.mark.parametrize(
    "model",
    [
        product_of_rates,
        sum_of_rates,
        half_cauchy,
        masked_far_out,
        standard_deviation_as_gamma,
        only_the_noise_scales,
        logistic_normal,
    ],
    ids=lambda model: model.__name__,
)
def test_near_misses_are_refused_and_named(exact, model):
    with pytest.raises(lvm.ProblemError, match=r"('a'|`lt\.).*Fix: use lvm\.infer\(problem\) or lvm\.nuts\(problem\)"):
        exact(model, double(2.0))
