"""Independent component analysis: densities by formula, separation beside published figures, and what ends the closed form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import pyrolvm as lvm
from pyrolvm_models.ica import Mixed, aligned, amari_distance, ica, maximum_likelihood, mcc, noisy_ica, simulate

pytestmark = pytest.mark.usefixtures("double")

LAW = {"logistic": stats.logistic, "laplace": stats.laplace, "cauchy": stats.cauchy}


def _mixed(n, seed, d=5):
    rng = np.random.default_rng(seed)
    z = rng.laplace(size=(n, d))
    mixing = rng.normal(size=(d, d))
    return z @ mixing.T, mixing, z


# --- maximum likelihood -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["laplace", "logistic", "cauchy", "adaptive"])
@pytest.mark.parametrize(("n", "published"), [(1000, 0.0284), (10_000, 0.0084)])
def test_sources_are_separated_no_worse_than_by_fastica(prior, n, published):
    """scikit-learn's FastICA, five Laplace sources, ten seeds, measured in the same way (benchmarks/ica.py)."""
    distances = []
    for seed in range(10):
        x, mixing, _ = _mixed(n, seed)
        found = maximum_likelihood(x, prior=prior)
        assert found.converged
        distances.append(amari_distance(found.matrix, mixing))
    assert np.mean(distances) <= published


def test_the_likelihood_is_that_of_the_change_of_variables():
    x, *_ = _mixed(200, 0, d=3)
    for prior, law in LAW.items():
        found = maximum_likelihood(x, prior=prior)
        z = (x - found.mean.numpy()) @ found.matrix.numpy().T
        expected = law.logpdf(z).sum(1) + np.log(abs(np.linalg.det(found.matrix)))
        np.testing.assert_allclose(found.log_density(x), expected, rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.sources(x), z, rtol=0, atol=1e-10)
        assert found.log_likelihoods[-1] == pytest.approx(expected.sum(), rel=1e-10)


@pytest.mark.parametrize("prior", ["logistic", "cauchy"])
def test_no_neighbour_is_likelier(prior):
    x, *_ = _mixed(500, 1, d=3)
    found = maximum_likelihood(x + 5, prior=prior)
    assert (np.diff(found.log_likelihoods) >= 0).all()
    rng = np.random.default_rng(0)
    for _ in range(50):
        matrix = (np.eye(3) + 1e-3 * rng.normal(size=(3, 3))) @ found.matrix.numpy()
        mean = found.mean.numpy() + 1e-3 * rng.normal(size=3)
        z = (x + 5 - mean) @ matrix.T
        near = LAW[prior].logpdf(z).sum() + len(x) * np.log(abs(np.linalg.det(matrix)))
        assert near < found.log_likelihoods[-1]


def test_the_estimate_moves_with_the_data():
    """Equivariance: data through another matrix have the same sources."""
    x, *_ = _mixed(1000, 2, d=3)
    turn = np.array([[2.0, 0.3, -1.0], [0.0, 1e-3, 0.5], [1.0, 1.0, 40.0]])
    plain, turned = maximum_likelihood(x), maximum_likelihood(x @ turn.T - 7)
    assert mcc(turned.sources(x @ turn.T - 7), plain.sources(x)) == pytest.approx(1, abs=1e-6)
    difference = turned.log_likelihoods[-1] - plain.log_likelihoods[-1]
    assert difference == pytest.approx(-1000 * np.log(abs(np.linalg.det(turn))), abs=1e-3)


def test_light_tails_are_found_out():
    rng = np.random.default_rng(0)
    t = np.arange(4000)
    z = np.column_stack([np.sin(0.1 * t), rng.uniform(-1, 1, 4000), rng.laplace(size=4000), rng.logistic(size=4000)])
    mixing = rng.normal(size=(4, 4))
    found = maximum_likelihood(z @ mixing.T, prior="adaptive")
    assert found.converged
    assert sorted(found.densities) == ["bimodal", "bimodal", "logistic", "logistic"]
    assert mcc(found.sources(z @ mixing.T), z) > 0.995
    assert mcc(maximum_likelihood(z @ mixing.T).sources(z @ mixing.T), z) < 0.95  # one density does not fit all


def test_cauchy_sources_have_no_moments_and_are_found():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 4))
    found = maximum_likelihood(rng.standard_cauchy((2000, 4)) @ mixing.T + 3, prior="cauchy")
    assert amari_distance(found.matrix, mixing) < 0.005
    np.testing.assert_allclose(found.mean, 3, atol=0.3)


def test_many_data_begin_with_a_few_of_them():
    x, mixing, _ = _mixed(30_000, 0, d=3)
    found = maximum_likelihood(x + 2)
    assert found.converged
    assert amari_distance(found.matrix, mixing) < 0.01
    np.testing.assert_allclose(found.mean, 2, atol=0.1)
    z = found.sources(x + 2)
    np.testing.assert_allclose(torch.tanh(z / 2).mT @ z / len(z), np.eye(3), atol=2e-6)
    np.testing.assert_allclose(torch.tanh(z / 2).mean(0), 0, atol=2e-6)


def test_more_starts_are_no_worse():
    x, *_ = _mixed(150, 3)
    assert (
        maximum_likelihood(x, prior="laplace", starts=5).log_likelihoods[-1]
        >= maximum_likelihood(x, prior="laplace").log_likelihoods[-1]
    )


# --- measures ---------------------------------------------------------------------------------------------------------


def test_the_amari_distance_is_its_formula():
    rng = np.random.default_rng(0)
    unmixing, mixing = rng.normal(size=(2, 4, 4))
    r = np.abs(unmixing @ mixing)
    rows = sum(sum(r[i] / r[i].max()) - 1 for i in range(4))
    columns = sum(sum(r[:, j] / r[:, j].max()) - 1 for j in range(4))
    assert amari_distance(unmixing, mixing) == pytest.approx((rows + columns) / (2 * 4 * 3))


def test_measures_do_not_see_order_signs_and_scales():
    x, mixing, z = _mixed(300, 0, d=4)
    change = np.eye(4)[[2, 0, 3, 1]] * np.array([1.0, -2.0, 0.1, -30.0])
    assert amari_distance(change @ np.linalg.inv(mixing), mixing) == pytest.approx(0, abs=1e-12)
    assert mcc(z @ change.T, z) == pytest.approx(1)
    assert amari_distance(np.eye(4), np.ones((4, 4))) == pytest.approx(1)
    assert mcc(x, z) < 0.95


def test_mcc_takes_the_best_matching():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 4))
    estimated = z @ rng.normal(size=(4, 4))
    table = np.abs(np.corrcoef(estimated.T, z.T)[:4, 4:])
    best = max(np.mean([table[i, j] for i, j in enumerate(p)]) for p in itertools.permutations(range(4)))
    assert mcc(estimated, z) == pytest.approx(best)


# --- the problems -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", LAW)
def test_the_density_of_the_flow(prior, prior_draw, log_joint):
    problem = ica(sensors=2, sources=2, rows=20, prior=prior).to(dtype=torch.float64)
    draw = prior_draw(problem)
    mixing = np.eye(2) + draw["V"].numpy()
    z = np.linalg.solve(mixing, problem.args[0].numpy().T)
    expected = stats.norm(0, 3).logpdf(draw["V"]).sum() + LAW[prior].logpdf(z).sum()
    expected -= 20 * np.log(abs(np.linalg.det(mixing)))
    assert float(log_joint(problem, draw)) == pytest.approx(expected, rel=1e-9)


def _sites(problem, prior_draw):
    draw = prior_draw(problem)
    return draw, draw["A"].numpy(), float(draw["sigma"])


@pytest.mark.parametrize("prior", LAW)
def test_the_density_with_noise(prior, prior_draw, log_joint):
    problem = noisy_ica(sensors=2, sources=3, rows=10, prior=prior, marginal=False).to(dtype=torch.float64)
    draw, mixing, sigma = _sites(problem, prior_draw)
    z = draw["z"].numpy()
    expected = stats.norm().logpdf(mixing).sum() + stats.halfnorm().logpdf(sigma) + LAW[prior].logpdf(z).sum()
    expected += stats.norm(z @ mixing.T, sigma).logpdf(problem.args[0]).sum()
    assert float(log_joint(problem, draw)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("prior", ["laplace", "cauchy"])
def test_the_marginal_form_is_the_same_model(prior, prior_draw, log_joint):
    """One source, one sensor: the integral over the variance is the integral over the source."""
    problem = noisy_ica(sensors=1, sources=1, rows=3, prior=prior).to(dtype=torch.float64)
    draw, mixing, sigma = _sites(problem, prior_draw)
    a, u, x = float(mixing[0, 0]), draw["u"].numpy()[:, 0], problem.args[0].numpy()[:, 0]
    law = stats.expon(scale=2) if prior == "laplace" else stats.invgamma(0.5, scale=0.5)

    def given(u):
        return stats.norm(0, np.sqrt(a**2 * u + sigma**2))

    for value in x:

        def density(v, value=value):
            return np.exp(v + law.logpdf(np.exp(v))) * given(np.exp(v)).pdf(value)

        by_variance = integrate.quad(density, -40, 40)
        points = np.linspace(value / a - 8 * sigma / abs(a), value / a + 8 * sigma / abs(a), 200_001)
        by_source = integrate.trapezoid(LAW[prior].pdf(points) * stats.norm(a * points, sigma).pdf(value), points)
        assert by_variance[0] == pytest.approx(by_source, rel=1e-5)
    expected = stats.norm().logpdf(a) + stats.halfnorm().logpdf(sigma) + law.logpdf(u).sum() + given(u).logpdf(x).sum()
    assert float(log_joint(problem, draw)) == pytest.approx(expected, rel=1e-9)


def test_the_marginal_form_of_several_sources(prior_draw, log_joint):
    problem = noisy_ica(sensors=2, sources=3, rows=4).to(dtype=torch.float64)
    draw, mixing, sigma = _sites(problem, prior_draw)
    u, x = draw["u"].numpy(), problem.args[0].numpy()
    expected = stats.norm().logpdf(mixing).sum() + stats.halfnorm().logpdf(sigma) + stats.expon(scale=2).logpdf(u).sum()
    for variances, row in zip(u, x, strict=True):
        covariance = mixing @ np.diag(variances) @ mixing.T + sigma**2 * np.eye(2)
        expected += stats.multivariate_normal(np.zeros(2), covariance).logpdf(row)
    assert float(log_joint(problem, draw)) == pytest.approx(expected, rel=1e-9)
    scaled = mixing * np.sqrt(u[0])  # x_0 = scaled e + noise
    expected = np.sqrt(u[0]) * np.linalg.solve(scaled.T @ scaled + sigma**2 * np.eye(3), scaled.T @ x[0])
    found = problem.quantities["source"](draw)[0].abs().sort().values
    np.testing.assert_allclose(found, np.sort(np.abs(expected)), rtol=1e-7)


def test_draws_of_the_flow_are_mixed_sources():
    mixing = torch.tensor([[1.0, 0.5], [0.0, 2.0]])
    torch.manual_seed(0)
    x = Mixed(mixing, "laplace").sample(torch.Size([100_000]))
    np.testing.assert_allclose(x.T.cov(), 2 * mixing @ mixing.T, atol=0.15)


@pytest.mark.parametrize("build", [ica, noisy_ica])
def test_quantities_do_not_see_order_and_signs(build, prior_draw, log_joint):
    problem = build(sensors=3, sources=3, rows=30).to(dtype=torch.float64)
    draw = prior_draw(problem)
    order, signs = torch.tensor([2, 0, 1]), torch.tensor([1.0, -1.0, -1.0])
    if build is ica:
        other = {"V": (draw["V"] + torch.eye(3))[:, order] * signs - torch.eye(3)}
    else:
        other = draw | {"A": draw["A"][:, order] * signs, "u": draw["u"][:, order]}
        torch.testing.assert_close(log_joint(problem, other), log_joint(problem, draw))
    for name, function in problem.quantities.items():
        torch.testing.assert_close(function(other), function(draw), msg=lambda text, name=name: f"{name}: {text}")


def test_the_truth_has_a_perfect_score():
    x, mixing, z = simulate(50, 3, 3)
    problem = ica(rows=50, prior="logistic").to(dtype=torch.float64)
    torch.testing.assert_close(problem.args[0], x, rtol=1e-6, atol=1e-6)
    turned = mixing[:, [1, 2, 0]] * torch.tensor([-1.0, 1.0, -1.0])
    values = {name: function({"V": turned - torch.eye(3)}) for name, function in problem.quantities.items()}
    torch.testing.assert_close(values["mixing"], mixing)
    torch.testing.assert_close(values["source"], z[:3])
    assert float(values["mcc"]) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(aligned(turned, z, mixing)[0], mixing)


def test_without_noise_the_mode_is_about_the_maximum_of_the_likelihood():
    problem = ica(sensors=2, sources=2, rows=500, prior="logistic")
    draws = lvm.fit(problem, "laplace", seed=0, progress=False).data["quantities"]["mixing"]
    mean, sd = draws.mean(["chain", "draw"]).values, draws.std(["chain", "draw"]).values
    found = maximum_likelihood(problem.args[0], prior="logistic")
    own = aligned(found.mixing, torch.zeros(1, 2), torch.tensor(mean, dtype=torch.float64))[0].numpy()
    assert (np.abs(mean - own) < 0.3 * sd).all()


# --- bad input --------------------------------------------------------------------------------------------------------

X = _mixed(50, 0, d=3)[0]


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: maximum_likelihood(np.column_stack([X, X[:, 0] + X[:, 1]])), lvm.DataError, "have rank 3"),
        (lambda: maximum_likelihood(X[:3]), lvm.DataError, "3 rows of 3 columns, have rank 2"),
        (lambda: maximum_likelihood(np.where(X == X[4, 1], np.nan, X)), lvm.DataError, r"x\[4, 1\] is nan"),
        (lambda: maximum_likelihood(np.column_stack([X, np.ones(50)])), lvm.DataError, "column 3 is constant"),
        (lambda: maximum_likelihood(X, prior="gaussian"), lvm.ArgumentError, "prior is 'gaussian'"),
        (lambda: maximum_likelihood(X, starts=0), lvm.ArgumentError, "'starts'"),
        (lambda: maximum_likelihood(X, tolerance=0), lvm.ArgumentError, "tolerance is 0"),
        (lambda: maximum_likelihood(X).sources(X[:, :2]), lvm.DataError, "x has 2 columns, expected 3"),
        (lambda: ica(sensors=2, sources=3), lvm.ArgumentError, "3 sources for 2 sensors"),
        (lambda: ica(sensors=3, sources=2), lvm.ArgumentError, "2 sources for 3 sensors"),
        (lambda: ica(rows=2), lvm.ArgumentError, "rows is 2"),
        (lambda: noisy_ica(noise=0.0), lvm.ArgumentError, "noise is 0.0"),
        (lambda: noisy_ica(sources=6), lvm.ArgumentError, "'sources'"),
        (lambda: noisy_ica(prior="logistic"), lvm.ArgumentError, "no simple mixture"),
        (lambda: noisy_ica(prior="normal"), lvm.ArgumentError, "prior is 'normal'"),
        (lambda: amari_distance(np.eye(3), np.ones((2, 3))), lvm.DataError, r"shape \(3, 3\) and mixing \(2, 3\)"),
        (lambda: amari_distance(np.eye(3), np.zeros((3, 3))), lvm.DataError, "is 0"),
        (lambda: mcc(X, X[:, :2]), lvm.DataError, r"\(50, 3\) and \(50, 2\)"),
        (lambda: mcc(X, np.ones((50, 3))), lvm.DataError, "constant"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=f"(?s){message}.*Fix: "):
        call()
