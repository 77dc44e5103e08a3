"""Factor analysis beside probabilistic PCA: densities by formula, maximum likelihood, and fits that reach it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.model_selection import train_test_split
from torch.distributions import LogNormal, MultivariateNormal, Normal

import pyrolvm as lvm
from pyrolvm_models import factor_analysis, ppca
from pyrolvm_models._factors import Factors

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(scope="module", params=[1, 2, 3])
def q(request):
    return request.param


def _integrated(x, loadings, sigma):
    covariance = loadings @ loadings.mT + sigma.square().diag()
    prior = Normal(0.0, 1.0).log_prob(loadings).sum() + LogNormal(-0.5, 0.5).log_prob(sigma).sum()
    return prior + MultivariateNormal(x.new_zeros(len(loadings)), covariance).log_prob(x).sum()


def test_the_marginal_density_is_the_integrated_one(q, prior_draw, log_joint):
    problem = lvm.problem("factor_analysis", q=q, marginal=True).to(dtype=torch.float64)
    draw = prior_draw(problem)
    expected = _integrated(problem.args[0], draw["W"], draw["sigma"])
    torch.testing.assert_close(log_joint(problem, draw), expected, rtol=1e-9, atol=1e-6)


def test_the_explicit_density_integrates_to_it(q, prior_draw, log_joint):
    problem = lvm.problem("factor_analysis", q=q).to(dtype=torch.float64)
    draw = prior_draw(problem)
    (x,) = problem.args
    loadings, sigma, z = draw["W"], draw["sigma"], draw["z"]
    means, covariance = Factors(x.new_zeros(13), loadings, sigma.square(), []).posterior(x)
    marginal = log_joint(problem, draw) - MultivariateNormal(means, covariance).log_prob(z).sum()
    torch.testing.assert_close(marginal, _integrated(x, loadings, sigma), rtol=1e-8, atol=1e-6)


def test_neither_density_nor_quantities_see_rotations(q, prior_draw, log_joint):
    problem = lvm.problem("factor_analysis", q=q).to(dtype=torch.float64)
    draw = prior_draw(problem)
    rotation = torch.linalg.qr(torch.randn(q, q, generator=torch.Generator().manual_seed(1))).Q
    rotated = {"W": draw["W"] @ rotation, "sigma": draw["sigma"], "z": draw["z"] @ rotation}
    torch.testing.assert_close(log_joint(problem, rotated), log_joint(problem, draw))
    for name, function in problem.quantities.items():
        torch.testing.assert_close(function(rotated), function(draw), msg=lambda text, name=name: f"{name}: {text}")


def test_quantities_are_what_they_say(q, prior_draw):
    problem = lvm.problem("factor_analysis", q=q).to(dtype=torch.float64)
    draw = prior_draw(problem)
    values = {name: function(draw) for name, function in problem.quantities.items()}
    noise = draw["sigma"].square()
    covariance = draw["W"] @ draw["W"].mT + noise.diag()
    variance = covariance.diagonal()
    torch.testing.assert_close(values["communality"], 1 - noise / variance)
    torch.testing.assert_close(values["correlation"][0], covariance[5, 6] / (variance[5] * variance[6]).sqrt())
    standard = covariance / (draw["sigma"].unsqueeze(-1) * draw["sigma"])
    torch.testing.assert_close(values["log_eigenvalue"].exp(), torch.linalg.eigvalsh(standard).flip(0)[:q] - 1)


# --- maximum likelihood -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    """Digits, dequantized, 75% and 25%."""
    x = load_digits().data
    x = (x + np.random.default_rng(0).uniform(size=x.shape)) / 17
    return train_test_split(x, test_size=0.25, random_state=0)


def _of(fitted, noise):
    components = torch.tensor(fitted.components_)
    if isinstance(fitted, PCA):
        scale = np.sqrt(fitted.explained_variance_ - fitted.noise_variance_)
        components = components * torch.tensor(scale).unsqueeze(-1)
    return Factors(torch.tensor(fitted.mean_), components.mT, torch.as_tensor(noise), [])


def test_densities_of_scikit_learns_parameters_on_digits(digits):
    train, test = digits
    pca = PCA(20).fit(train)
    ours = _of(pca, np.full(64, pca.noise_variance_))
    np.testing.assert_allclose(ours.log_density(test), pca.score_samples(test), rtol=0, atol=1e-6)
    assert pca.score(test) == pytest.approx(28.36, abs=0.01)
    fa = FactorAnalysis(20, svd_method="lapack").fit(train)
    ours = _of(fa, fa.noise_variance_)
    np.testing.assert_allclose(ours.log_density(test), fa.score_samples(test), rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.posterior(test)[0], fa.transform(test), rtol=0, atol=1e-8)


def test_ppca_has_the_likelihood_of_the_published_closed_form(digits):
    train, test = digits
    n, d, q = *train.shape, 20
    found = ppca.maximum_likelihood(train, q)
    eigenvalues = np.linalg.eigvalsh(np.cov(train.T, bias=True))[::-1]
    noise = eigenvalues[q:].mean()
    expected = -n / 2 * (d * np.log(2 * np.pi) + np.log(eigenvalues[:q]).sum() + (d - q) * np.log(noise) + d)
    assert found.log_likelihoods == [pytest.approx(expected, rel=1e-10)]
    assert float(found.log_density(train).sum()) == pytest.approx(expected, rel=1e-10)
    assert float(found.log_density(test).mean()) == pytest.approx(28.36, abs=0.01)


def test_ppca_estimates_are_scikit_learns_up_to_its_divisor(digits):
    """Its PCA divides by n - 1, so all of its variances are n / (n - 1) times the maximum likelihood ones."""
    x = digits[0]
    found, theirs = ppca.maximum_likelihood(x, 5), PCA(5).fit(x)
    np.testing.assert_allclose(found.covariance, theirs.get_covariance() * (len(x) - 1) / len(x), rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.noise, theirs.noise_variance_ * (len(x) - 1) / len(x), rtol=1e-10)


@pytest.mark.parametrize(("factors", "held_out"), [(20, 47.52), pytest.param(30, 48.71, marks=pytest.mark.slow)])
def test_factor_analysis_of_digits_is_no_worse_than_published(digits, factors, held_out):
    train, test = digits
    theirs = FactorAnalysis(factors, svd_method="lapack").fit(train)
    found = factor_analysis.maximum_likelihood(train, factors, tolerance=1e-6)
    assert (np.diff(found.log_likelihoods) > -1e-7).all()
    assert found.log_likelihoods[-1] >= theirs.score(train) * len(train)
    assert float(found.log_density(train).sum()) == pytest.approx(found.log_likelihoods[-1], rel=1e-9)
    assert float(found.log_density(test).mean()) >= held_out - 0.01


def test_factor_analysis_agrees_with_scikit_learn_at_convergence():
    x = load_wine().data
    found = factor_analysis.maximum_likelihood(x, 2, tolerance=1e-12)
    theirs = FactorAnalysis(2, svd_method="lapack", tol=1e-10, max_iter=20_000).fit(x / x.std(0))
    scale = x.std(0)
    assert found.converged
    np.testing.assert_allclose(found.noise, theirs.noise_variance_ * scale**2, rtol=1e-3)
    np.testing.assert_allclose(
        found.covariance.numpy() / np.outer(scale, scale), theirs.get_covariance(), rtol=0, atol=1e-4
    )


def test_factor_analysis_does_not_see_units():
    x = load_wine().data
    scale = np.geomspace(1e-3, 1e3, 13)
    plain, scaled = (factor_analysis.maximum_likelihood(data, 2) for data in (x, x * scale))
    np.testing.assert_allclose(scaled.noise, plain.noise.numpy() * scale**2, rtol=1e-6)
    np.testing.assert_allclose(scaled.loadings.numpy() / scale[:, None], plain.loadings, rtol=0, atol=1e-4 * x.std())


@pytest.mark.parametrize("estimate", [ppca.maximum_likelihood, factor_analysis.maximum_likelihood])
def test_the_posterior_of_the_latents_is_that_of_a_joint_normal(estimate):
    x = load_wine().data[:, :4]
    found = estimate(x, 2)
    means, covariance = found.posterior(x[:1])
    z, other = torch.tensor([0.3, -0.8]), torch.tensor([-1.0, 0.4])

    def joint(point):
        mean = found.mean + found.loadings @ point
        return multivariate_normal(mean, np.diag(found.noise)).logpdf(x[0]) + float(
            Normal(0.0, 1.0).log_prob(point).sum()
        )

    ours = MultivariateNormal(means[0], covariance)
    assert joint(z) - joint(other) == pytest.approx(float(ours.log_prob(z) - ours.log_prob(other)), rel=1e-9)
    evidence = joint(z) - float(ours.log_prob(z))
    assert float(found.log_density(x[:1])) == pytest.approx(evidence, rel=1e-9)


def test_loadings_are_turned_to_orthogonal_axes_longest_first():
    found = factor_analysis.maximum_likelihood(load_wine().data, 3)
    weighted = found.loadings / found.noise.sqrt().unsqueeze(-1)
    gram = weighted.mT @ weighted
    torch.testing.assert_close(gram, gram.diagonal().diag(), rtol=0, atol=1e-8)
    assert (gram.diagonal().diff() < 0).all()
    assert (found.loadings.gather(0, found.loadings.abs().argmax(0, keepdim=True)) > 0).all()


@pytest.mark.parametrize(("module", "gap"), [(ppca, 0.2), pytest.param(factor_analysis, 2.0, marks=pytest.mark.slow)])
def test_a_mean_field_fit_of_learnable_loadings_reaches_the_maximum(module, gap):
    """In the axes in which the posterior of the latents is independent, mean-field is exact: nothing is lost.

    The gap is in nats over 178 data; what is left of it is where the optimizer stops.
    """
    problem = lvm.problem(module.__name__.rpartition(".")[2], learn=True)
    x = problem.args[0].double()
    best = module.maximum_likelihood(x, 2)
    fit = lvm.fit(problem, "mean_field", draws=500, progress=False)
    noise = fit.params["sigma"].double().exp().square().expand(13)
    reached = float(Factors(x.new_zeros(13), fit.params["W"].double(), noise, []).log_density(x).sum())
    assert best.log_likelihoods[-1] - gap < reached < best.log_likelihoods[-1] + 1e-3
    assert fit.elbo == pytest.approx(reached, abs=0.5)


WINE = load_wine().data


@pytest.mark.parametrize("estimate", [ppca.maximum_likelihood, factor_analysis.maximum_likelihood])
@pytest.mark.parametrize(
    "x, q, error, message",
    [
        (np.column_stack([WINE, WINE[:, 0] - WINE[:, 1]]), 2, lvm.DataError, "178 rows of 14 columns, have rank 13"),
        (WINE[[0, 60, 140]], 1, lvm.DataError, "3 rows of 13 columns, have rank 2"),
        (np.column_stack([WINE, np.ones(178)]), 2, lvm.DataError, "column 13 is constant"),
        (WINE, 13, lvm.ArgumentError, "option 'q' of function 'maximum_likelihood' is 13"),
        (WINE, 0, lvm.ArgumentError, "option 'q' of function 'maximum_likelihood' is 0"),
        (WINE[:, :1], 1, lvm.DataError, "one column"),
        (WINE[:1], 1, lvm.DataError, r"shape \(1, 13\)"),
        (np.full((4, 3), np.inf), 1, lvm.DataError, "not finite"),
    ],
)
def test_bad_input_is_named(estimate, x, q, error, message):
    with pytest.raises(error, match=f"(?s){message}.*Fix: "):
        estimate(x, q)


def test_other_columns_than_fitted_are_refused():
    with pytest.raises(lvm.DataError, match=r"x has 12 columns, expected 13.*Fix: "):
        ppca.maximum_likelihood(WINE, 2).log_density(WINE[:, :12])


@pytest.mark.parametrize("name", ["ppca", "factor_analysis"])
def test_nothing_latent_is_refused(name):
    with pytest.raises(lvm.ArgumentError, match=r"no latent variable.*Fix: "):
        lvm.problem(name, learn=True, marginal=True)
