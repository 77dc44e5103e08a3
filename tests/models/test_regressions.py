"""Item response, Gaussian process, horseshoe, stochastic volatility: densities by SciPy, published estimates, scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from scipy.special import expit
from sklearn.datasets import load_diabetes
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

import pyrolvm as lvm
from pyrolvm_models import gaussian_process as gp
from pyrolvm_models import item_response as irt
from pyrolvm_models import stochastic_volatility as sv
from pyrolvm_models.horseshoe import shrinkage

pytestmark = pytest.mark.usefixtures("double")


def _problem(name, **options):
    return lvm.problem(name, **options).to(dtype=torch.float64)


def _numbers(draw):
    return {name: value.numpy() for name, value in draw.items()}


# --- item response ----------------------------------------------------------------------------------------------------

PUBLISHED = {
    -2466.938: ([0.755] * 5, [-3.6153, -1.3224, -0.3176, -1.7301, -2.7802]),
    -2466.653: ([0.8254, 0.7229, 0.8905, 0.6886, 0.6575], [-3.3597, -1.3696, -0.2799, -1.8659, -3.1236]),
}
"""Log likelihood, discriminations and difficulties of the Rasch and the 2PL model: Rizopoulos (2006), section 3.1."""


@pytest.mark.parametrize("published", PUBLISHED)
def test_published_estimates_have_their_published_likelihoods(published):
    discrimination, difficulty = (torch.tensor(values) for values in PUBLISHED[published])
    draw = {"discrimination": discrimination, "easiness": -difficulty * discrimination}
    log_p = irt.log_probability(torch.tensor(irt.PATTERNS), draw)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert float(log_p @ torch.tensor(irt.COUNTS, dtype=torch.float64)) == pytest.approx(published, abs=0.005)


def test_the_test_is_that_of_the_paper():
    answers = irt.answers()
    assert answers.shape == (1000, 5)
    assert answers.sum(0).tolist() == [924, 709, 553, 763, 870]
    assert sum(irt.COUNTS) == 1000


@pytest.mark.parametrize("seed", range(2))
def test_abilities_are_integrated_out(seed, prior_draw):
    draw = prior_draw(_problem("item_response"), seed)
    a, b = draw["discrimination"].numpy(), draw["easiness"].numpy()
    pattern = np.array([1.0, 0.0, 1.0, 1.0, 0.0])

    def joint(ability, power=0):
        right = expit(a * ability + b)
        return ability**power * np.exp(stats.norm.logpdf(ability)) * np.prod(np.where(pattern == 1, right, 1 - right))

    total = integrate.quad(joint, -12, 12, epsabs=0, epsrel=1e-12)[0]
    row = torch.tensor(pattern).unsqueeze(0)
    assert float(irt.log_probability(row, draw)) == pytest.approx(math.log(total), abs=1e-8)
    mean = integrate.quad(joint, -12, 12, args=(1,), epsabs=1e-14)[0] / total
    assert float(irt.expected_ability(row, draw)) == pytest.approx(mean, abs=1e-7)


@pytest.mark.parametrize("rasch", [False, True])
def test_the_density_of_the_answers(rasch, prior_draw, log_joint):
    draw = prior_draw(_problem("item_response", rasch=rasch))
    d = _numbers(draw)
    prior = stats.lognorm(0.5).logpdf(d["discrimination"]).sum() + stats.norm(0, 2).logpdf(d["easiness"]).sum()
    full = draw | {"discrimination": draw["discrimination"].expand(5)}
    p = irt.log_probability(torch.tensor(irt.PATTERNS), full).exp().numpy()
    expected = prior + np.array(irt.COUNTS) @ np.log(p)
    assert float(log_joint(_problem("item_response", rasch=rasch), draw)) == pytest.approx(expected, rel=1e-9)

    explicit = _problem("item_response", rasch=rasch, marginal=False)
    draw = draw | {"ability": torch.linspace(-3, 3, 1000)}
    chance = expit(np.multiply.outer(draw["ability"].numpy(), full["discrimination"].numpy()) + d["easiness"])
    expected = prior + stats.norm.logpdf(draw["ability"]).sum() + stats.bernoulli(chance).logpmf(irt.answers()).sum()
    assert float(log_joint(explicit, draw)) == pytest.approx(expected, rel=1e-9)


def test_the_published_estimates_are_where_the_likelihood_is_largest():
    """The gradient, in standard errors of the estimate (the inverse Hessian's), is 0 but for their rounding."""
    discrimination, difficulty = (torch.tensor(values) for values in PUBLISHED[-2466.653])
    point = torch.cat([discrimination, -difficulty * discrimination])

    def log_likelihood(at):
        log_p = irt.log_probability(torch.tensor(irt.PATTERNS), {"discrimination": at[:5], "easiness": at[5:]})
        return log_p @ torch.tensor(irt.COUNTS, dtype=torch.float64)

    gradient = torch.autograd.functional.jacobian(log_likelihood, point)
    covariance = torch.linalg.inv(-torch.autograd.functional.hessian(log_likelihood, point))
    assert (covariance @ gradient).abs().max() < 2e-3
    assert float(gradient @ covariance @ gradient) < 1e-4


# --- Gaussian process -------------------------------------------------------------------------------------------------


def _reference(draw):
    d = {name: float(draw[name]) for name in ("scale", "length", "noise")}
    curve = ConstantKernel(d["scale"] ** 2) * Matern(d["length"], nu=1.5)
    return GaussianProcessRegressor(curve, alpha=d["noise"] ** 2 + gp.JITTER * d["scale"] ** 2, optimizer=None), d


@pytest.mark.parametrize("seed", range(3))
def test_density_and_curve_are_scikit_learns(seed, prior_draw, log_joint):
    problem = _problem("gaussian_process")
    draw = prior_draw(problem, seed)
    theirs, d = _reference(draw)
    times, y = (value.numpy() for value in problem.args)
    theirs.fit(times[:, None], y)
    prior = stats.halfnorm(0, 2).logpdf(d["scale"]) + stats.halfnorm().logpdf(d["noise"])
    prior += stats.lognorm(1, scale=10).logpdf(d["length"])
    expected = theirs.log_marginal_likelihood_value_ + prior
    assert float(log_joint(problem, draw)) == pytest.approx(expected, rel=1e-8)
    mean, sd = gp.curve(*problem.args, torch.tensor([3.0, 14.6, 21.3, 70.0]), draw)
    their_mean, their_sd = theirs.predict([[3.0], [14.6], [21.3], [70.0]], return_std=True)
    np.testing.assert_allclose(mean, their_mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(sd, their_sd, rtol=0, atol=1e-6)


def test_the_curve_as_a_site_integrates_to_the_marginal_form(prior_draw, log_joint):
    """p(y, f | scales) / p(f | y, scales) = p(y | scales), with the joint normal written out."""
    problem, explicit = _problem("gaussian_process"), _problem("gaussian_process", marginal=False)
    draw = prior_draw(explicit)
    scales = {name: draw[name] for name in ("scale", "length", "noise")}
    times, y = (value.numpy() for value in problem.args)
    known, which = np.unique(times, return_inverse=True)
    spread = gp.kernel(torch.tensor(known), torch.tensor(known), draw).numpy()
    spread += gp.JITTER * float(draw["scale"]) ** 2 * np.eye(94)
    design = np.eye(94)[which]
    total = design @ spread @ design.T + float(draw["noise"]) ** 2 * np.eye(133)
    marginal = stats.multivariate_normal(np.zeros(133), total).logpdf(y)
    precision = design.T @ design / float(draw["noise"]) ** 2 + np.linalg.inv(spread)
    mean = np.linalg.solve(precision, design.T @ y / float(draw["noise"]) ** 2)
    away = draw["f"].numpy() - mean
    conditional = 0.5 * (np.linalg.slogdet(precision)[1] - away @ precision @ away - 94 * math.log(2 * math.pi))
    law = torch.distributions.MultivariateNormal(torch.zeros(133), gp.covariance(problem.args[0], draw))
    prior = float(log_joint(problem, scales) - law.log_prob(problem.args[1]))
    assert float(log_joint(explicit, draw)) - conditional == pytest.approx(prior + marginal, rel=1e-6)


def test_the_maximum_is_that_of_scikit_learn():
    times, y = (value.numpy() for value in _problem("gaussian_process").args)
    kernel = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(10.0, (0.1, 1e3), nu=1.5) + WhiteKernel(0.1, (1e-4, 10))
    theirs = GaussianProcessRegressor(kernel, alpha=0.0, n_restarts_optimizer=2, random_state=0).fit(times[:, None], y)

    def loss(logs):
        draw = {name: torch.tensor(math.exp(v)) for name, v in zip(("scale", "length", "noise"), logs, strict=True)}
        law = torch.distributions.MultivariateNormal(torch.zeros(133), gp.covariance(torch.tensor(times), draw))
        return -float(law.log_prob(torch.tensor(y)))

    best = -optimize.minimize(loss, [0.0, 2.0, -1.0], method="Nelder-Mead").fun
    assert best == pytest.approx(theirs.log_marginal_likelihood_value_, abs=0.02)  # the jitter differs


def test_the_crash_is_that_of_the_paper():
    assert (len(gp.TIMES), len(gp.ACCELERATION), len(set(gp.TIMES))) == (133, 133, 94)
    assert gp.TIMES == sorted(gp.TIMES)
    assert (gp.TIMES[0], gp.TIMES[-1], min(gp.ACCELERATION), max(gp.ACCELERATION)) == (2.4, 57.6, -134.0, 75.0)
    assert np.mean(gp.ACCELERATION) == pytest.approx(-25.55, abs=0.01)
    assert np.mean(gp.TIMES) == pytest.approx(25.18, abs=0.01)


# --- horseshoe --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slab", [None, 0.5])
def test_the_density_of_the_horseshoe(slab, prior_draw, log_joint):
    problem = _problem("horseshoe", slab=slab)
    draw = prior_draw(problem)
    d = _numbers(draw)
    table = load_diabetes()
    x = (table.data - table.data.mean(0)) / table.data.std(0)
    y = (table.target - table.target.mean()) / table.target.std()
    width = d["tau"] * d["lambda"]
    if slab is not None:
        width = np.sqrt(slab**2 * width**2 / (slab**2 + width**2))
    expected = stats.halfcauchy(0, 0.1).logpdf(d["tau"]) + stats.halfcauchy().logpdf(d["lambda"]).sum()
    expected += stats.norm(0, width).logpdf(d["beta"]).sum() + stats.halfnorm().logpdf(d["sigma"])
    expected += stats.norm(x @ d["beta"], d["sigma"]).logpdf(y).sum()
    assert float(log_joint(problem, draw)) == pytest.approx(expected, rel=1e-6)


def test_shrinkage_is_what_it_says():
    """With orthogonal predictors the mean of a coefficient is (1 - shrinkage) times least squares."""
    draw = {"tau": torch.tensor(0.3), "lambda": torch.tensor([0.5, 4.0]), "sigma": torch.tensor(0.8)}
    x = torch.linalg.qr(torch.randn(50, 2, generator=torch.Generator().manual_seed(0))).Q * 50**0.5
    y = torch.linspace(-1, 1, 50)
    ridge = torch.linalg.solve(x.mT @ x + (0.8 / (0.3 * draw["lambda"])).square().diag(), x.mT @ y)
    torch.testing.assert_close((1 - shrinkage(draw, 50)) * (x.mT @ y / 50), ridge)


# --- stochastic volatility --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [8, 37, 250])
def test_the_density_of_the_returns(days, prior_draw, log_joint):
    problem = _problem("stochastic_volatility", days=days)
    draw = prior_draw(problem)
    d = _numbers(draw)
    phi = 2 * d["rate"] - 1
    h = [d["sigma"] * d["move"][0] / math.sqrt(1 - phi**2)]
    for move in d["move"][1:]:
        h.append(phi * h[-1] + d["sigma"] * move)
    np.testing.assert_allclose(sv.log_variance(draw), d["mu"] + np.array(h), rtol=0, atol=1e-10)
    y = 100 * np.diff(np.log(sv.PRICES))[-days:]
    expected = (
        stats.norm(1, 2).logpdf(d["mu"]) + stats.beta(20, 1.5).logpdf(d["rate"]) + stats.norm.logpdf(d["move"]).sum()
    )
    expected += stats.halfnorm(0, 0.5).logpdf(d["sigma"])
    expected += stats.norm(0, np.exp(d["mu"] / 2 + np.array(h) / 2)).logpdf(y).sum()
    assert float(log_joint(problem, draw)) == pytest.approx(expected, rel=1e-6)


def test_the_prices_are_those_that_matplotlib_ships():
    cbook = pytest.importorskip("matplotlib.cbook")
    try:
        path = cbook.get_sample_data("goog.npz", asfileobj=False)
        table = np.load(path)["price_data"]
    except (FileNotFoundError, OSError):
        pytest.skip("this matplotlib has no goog.npz")
    np.testing.assert_allclose(sv.PRICES, table["adj_close"][-len(sv.PRICES) :], rtol=0, atol=0.005)
    assert str(table["date"][-len(sv.PRICES)]) == "2007-10-17"
    assert str(table["date"][-1]) == "2008-10-14"


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("stochastic_volatility", {"days": 251}, "'days'"),
        ("stochastic_volatility", {"days": 7}, "days is 7"),
        ("horseshoe", {"scale": 0}, "scale is 0"),
        ("horseshoe", {"slab": -1.0}, "slab is -1.0"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(lvm.ArgumentError, match=f"(?s){message}.*Fix: "):
        lvm.problem(name, **options)
