"""Jointly Gaussian models against closed forms worked out here: marginal likelihoods, filters, conditional distributions."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._laws import recognition
from pyrolvm._laws.program import Program

TIGHT = 1e-10


def double(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def regression(x: Tensor, y: Tensor) -> None:
    beta = pyro.sample("beta", dist.Normal(0.5, 2.0).expand([x.shape[1]]).to_event(1))
    alpha = pyro.sample("alpha", dist.Normal(0.0, 3.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(alpha + x @ beta, 0.7), obs=y)


def flat_regression(x: Tensor, y: Tensor) -> None:
    beta = pyro.sample("beta", dist.ImproperUniform(dist.constraints.real_vector, (), (x.shape[1],)))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y)


def moments(result, *names):
    """Mean and covariance of the law itself, out of its own density, not of draws."""
    problem = result.attached
    with problem.session(seed=0):
        program = Program(problem)
        from pyrolvm._laws.gaussian import Layout, precision_root, quadratic

        layout = Layout(program, None)
        zero = torch.zeros_like(layout.join(program.values))
        _, gradient, precision = quadratic(program, layout, {}, zero)
        covariance = torch.cholesky_inverse(precision_root(precision, layout, "")[0])
    return (covariance @ gradient[0]).numpy(), covariance.numpy()


@pytest.fixture
def data(rng):
    x = rng.normal(size=(30, 3))
    return x, x @ [1.0, -2.0, 0.5] + 0.3 + 0.7 * rng.normal(size=30)


def test_linear_regression_is_the_textbook_posterior(exact, data):
    x, y = data
    result = exact(regression, double(x), double(y), draws=4000)
    design = np.column_stack([x, np.ones(len(y))])
    prior, centre = np.diag([4.0, 4.0, 4.0, 9.0]), np.array([0.5, 0.5, 0.5, 0.0])
    covariance = np.linalg.inv(np.linalg.inv(prior) + design.T @ design / 0.49)
    mean = covariance @ (np.linalg.inv(prior) @ centre + design.T @ y / 0.49)
    marginal = stats.multivariate_normal(design @ centre, design @ prior @ design.T + 0.49 * np.eye(len(y)))
    assert result.evidence.value == pytest.approx(marginal.logpdf(y), abs=TIGHT)
    found_mean, found_covariance = moments(result)
    np.testing.assert_allclose(found_mean, mean, atol=TIGHT)
    np.testing.assert_allclose(found_covariance, covariance, atol=TIGHT)
    draws = np.column_stack([result.data["posterior"]["beta"].values[0], result.data["posterior"]["alpha"].values[0]])
    np.testing.assert_allclose(result.log_q[0], stats.multivariate_normal(mean, covariance).logpdf(draws), atol=1e-9)
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((draws.mean(0) - mean) / sd, 0.0, atol=4.5 / math.sqrt(4000))
    np.testing.assert_allclose(np.cov(draws.T) / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.1)


def test_draws_are_independent_standard_normals_once_whitened(exact, data):
    result = exact(regression, *map(double, data), draws=4000)
    draws = np.column_stack([result.data["posterior"]["beta"].values[0], result.data["posterior"]["alpha"].values[0]])
    mean, covariance = moments(result)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).T)
    assert all(stats.kstest(row, "norm").pvalue > 1e-4 for row in white)
    lag = (white[:, 1:] * white[:, :-1]).mean(1)
    assert (np.abs(lag) < 4.5 / math.sqrt(4000)).all()


def test_log_weights_are_the_evidence_at_every_draw(exact, data):
    result = exact(regression, *map(double, data))
    np.testing.assert_allclose(result.log_p - result.log_q, result.evidence.value, atol=1e-9)
    assert result.evidence.error < 1e-9


def test_probabilistic_principal_components_with_fixed_loadings(exact, rng):
    loadings = rng.normal(size=(6, 2))

    def ppca(x: Tensor, w: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(z @ w.T, 0.5).to_event(1), obs=x)

    x = rng.normal(size=(200, 6))  # 400 unknowns, taken by rows
    result = exact(ppca, double(x), double(loadings), draws=300)
    assert "in each of the 200 rows of plate 'data'" in result.family
    marginal = stats.multivariate_normal(np.zeros(6), loadings @ loadings.T + 0.25 * np.eye(6))
    assert result.evidence.value == pytest.approx(marginal.logpdf(x).sum(), rel=TIGHT)
    inner = np.linalg.inv(loadings.T @ loadings + 0.25 * np.eye(2))
    z = result.data["posterior"]["z"].values[0]
    wanted = stats.multivariate_normal(np.zeros(2), 0.25 * inner).logpdf(z - x @ loadings @ inner).sum(1)
    np.testing.assert_allclose(result.log_q[0], wanted, rtol=TIGHT)


def test_rows_together_and_one_by_one_are_the_same(exact, rng, monkeypatch):
    def rows(x: Tensor) -> None:
        with pyro.plate("outer", 4, dim=-1), pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), torch.eye(2) + 0.5))
            pyro.sample("x", dist.Normal(z.sum(-1), 0.5), obs=x)

    x = double(rng.normal(size=(5, 4)))
    together = exact(rows, x)
    monkeypatch.setattr(recognition, "ROWS_PAY", 0)
    by_row = exact(rows, x)
    assert "rows" in by_row.family and "rows" not in together.family
    assert by_row.evidence.value == pytest.approx(together.evidence.value, abs=TIGHT)
    wanted = stats.norm(0, math.sqrt(2 * 1.5 + 2 * 0.5 + 0.25)).logpdf(x).sum()
    assert by_row.evidence.value == pytest.approx(wanted, abs=TIGHT)


def kalman(y, phi, q, r):
    """Log likelihood, filtered means and variances of x_t = phi x_{t-1} + q e, y_t = x_t + r e, with x_0 ~ N(0, 1)."""
    mean, variance, total = 0.0, 1.0, 0.0
    for t, value in enumerate(y):
        if t:
            mean, variance = phi * mean, phi**2 * variance + q**2
        if value is None:
            continue
        total += stats.norm(mean, math.sqrt(variance + r**2)).logpdf(value)
        gain = variance / (variance + r**2)
        mean, variance = mean + gain * (value - mean), (1 - gain) * variance
    return total, mean, variance


def chain(y: Tensor, seen: Tensor) -> None:
    x = pyro.sample("x_0", dist.Normal(0.0, 1.0))
    for t in range(len(y)):
        if t:
            x = pyro.sample(f"x_{t}", dist.Normal(0.9 * x, 0.4))
        with pyro.poutine.mask(mask=seen[t]):
            pyro.sample(f"y_{t}", dist.Normal(x, 0.6), obs=y[t])


@pytest.mark.parametrize("missing", [[], [3, 4, 9]])
def test_an_autoregression_agrees_with_a_kalman_filter(exact, rng, missing):
    y = rng.normal(size=12)
    seen = np.array([t not in missing for t in range(12)])
    result = exact(chain, double(y), torch.as_tensor(seen), draws=4000)
    total, mean, variance = kalman([v if s else None for v, s in zip(y, seen, strict=True)], 0.9, 0.4, 0.6)
    assert result.evidence.value == pytest.approx(total, abs=TIGHT)
    found_mean, found_covariance = moments(result)
    assert found_mean[-1] == pytest.approx(mean, abs=TIGHT)
    assert found_covariance[-1, -1] == pytest.approx(variance, abs=TIGHT)


def test_a_thousand_coefficients(exact, rng):
    def wide(x: Tensor, y: Tensor) -> None:
        beta = pyro.sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y)

    x, y = rng.normal(size=(60, 1000)) / 30, rng.normal(size=60)
    result = exact(wide, double(x), double(y), draws=50)
    wanted = stats.multivariate_normal(np.zeros(60), x @ x.T + np.eye(60)).logpdf(y)
    assert result.evidence.value == pytest.approx(wanted, abs=TIGHT * 100)


def test_gaussian_process_regression(exact, rng):
    def process(x: Tensor, y: Tensor) -> None:
        kernel = torch.exp(-0.5 * (x[:, None] - x) ** 2) + 1e-6 * torch.eye(len(x))
        f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(len(x)), kernel))
        pyro.sample("y", dist.Normal(f, 0.3).to_event(1), obs=y)

    x, y = np.linspace(0, 5, 25), rng.normal(size=25)
    result = exact(process, double(x), double(y))
    kernel = np.exp(-0.5 * (x[:, None] - x) ** 2) + (0.09 + 1e-6) * np.eye(25)
    assert result.evidence.value == pytest.approx(stats.multivariate_normal(np.zeros(25), kernel).logpdf(y), abs=1e-9)


def test_low_rank_covariances_and_factors_are_gaussian_too(exact, rng):
    x = rng.normal(size=5)
    w, d = rng.normal(size=(5, 2)), rng.uniform(0.5, 1.0, 5)

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
        pyro.factor("pull", -0.5 * (mu**2).sum())
        pyro.sample("x", dist.LowRankMultivariateNormal(2.0 * mu - 1.0, double(w), double(d)), obs=x)

    result = exact(model, double(x))
    marginal = stats.multivariate_normal(-np.ones(5), 4 * 0.5 * np.eye(5) + w @ w.T + np.diag(d))
    # N(0, 1) times exp(-mu^2 / 2) is 2^(-1/2) N(0, 1/2)
    assert result.evidence.value == pytest.approx(marginal.logpdf(x) - 2.5 * math.log(2), abs=TIGHT)


def test_a_flat_prior_is_allowed_where_the_data_bound_it(exact, data):
    x, y = data
    result = exact(flat_regression, double(x), double(y))
    mean, *_ = np.linalg.lstsq(x, y, rcond=None)
    rest = ((y - x @ mean) ** 2).sum()
    wanted = -0.5 * (30 - 3) * math.log(2 * math.pi) - 0.5 * rest - 0.5 * np.linalg.slogdet(x.T @ x)[1]
    assert result.evidence.value == pytest.approx(wanted, abs=TIGHT)
    np.testing.assert_allclose(moments(result)[0], mean, atol=TIGHT)


def test_rank_deficient_data_under_a_flat_prior_are_refused_with_the_direction(exact, data):
    x, y = data
    collinear = np.column_stack([x, x[:, 0] + x[:, 1]])
    with pytest.raises(lvm.ProblemError, match=r"improper.*along beta\[0\] \+ beta\[1\] - beta\[3\].*Fix:"):
        exact(flat_regression, double(collinear), double(y))
    with pytest.raises(lvm.ProblemError, match=r"improper.*along beta\[2\] \(.*Fix:"):
        exact(flat_regression, double(x * [1.0, 1.0, 0.0]), double(y))
    assert exact(regression, double(collinear), double(y)).verdict.trusted  # a proper prior makes up for it


def test_a_density_that_grows_without_bound_is_refused(exact):
    def grows(y: Tensor) -> None:
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("push", x**2)
        pyro.sample("y", dist.Normal(x, 2.0), obs=y)

    with pytest.raises(lvm.ProblemError, match=r"improper.*grows along x.*Fix:"):
        exact(grows, double(1.0))


def test_far_and_narrow_posteriors_keep_their_digits(exact):
    def far(y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(1e6, 1e4))
        b = pyro.sample("b", dist.Normal(0.0, 1e-3))
        pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)

    result = exact(far, double(1.02e6))
    wanted = stats.norm(1e6, math.sqrt(1e8 + 1 + 1e-6)).logpdf(1.02e6)
    assert result.evidence.value == pytest.approx(wanted, abs=1e-8)


def test_single_precision_data_are_taken_as_doubles(exact, data):
    x, y = (torch.as_tensor(part, dtype=torch.float32) for part in data)
    result = exact(regression, x, y)
    again = exact(regression, x.double(), y.double())
    assert result.data["posterior"]["beta"].dtype == np.float64
    assert result.evidence.value == pytest.approx(again.evidence.value, abs=TIGHT)


def test_subsampled_rows_are_all_used(exact, rng):
    def sub(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y), subsample_size=3) as rows:
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y[rows])

    y = rng.normal(size=9)
    wanted = stats.multivariate_normal(np.zeros(9), np.eye(9) + 1).logpdf(y)
    assert exact(sub, double(y)).evidence.value == pytest.approx(wanted, abs=TIGHT)


def test_learnable_parameters_are_held_at_what_is_given(exact, rng):
    def model(y: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.tensor(1.0))
        scale = pyro.param("scale", lambda: torch.tensor(2.0), constraint=dist.constraints.positive)
        x = pyro.sample("x", dist.Normal(loc, scale))
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    y = double(rng.normal())
    now = exact(model, y)
    assert now.evidence.value == pytest.approx(stats.norm(1, math.sqrt(5)).logpdf(float(y)), abs=TIGHT)
    assert any("loc, scale" in reason.text for reason in now.verdict.reasons)
    held = exact(model, y, params={"loc": double(-1.0), "scale": double(math.log(3.0))})
    assert held.evidence.value == pytest.approx(stats.norm(-1, math.sqrt(10)).logpdf(float(y)), abs=TIGHT)
    fit = lvm.fit(lvm.Problem(model, y), "mean_field", max_steps=30, draws=50, progress=False)
    fitted = exact(model, y, params=fit)
    loc, scale = float(fit.params["loc"]), math.exp(float(fit.params["scale"]))
    assert fitted.evidence.value == pytest.approx(stats.norm(loc, math.hypot(scale, 1)).logpdf(float(y)), abs=1e-6)
    with pytest.raises(lvm.ArgumentError, match=r"'scale'.*Fix:"):
        exact(model, y, params={"loc": double(0.0)})


# --- discrete latents as well -----------------------------------------------------------------------------------------


def test_a_mixture_of_factors_by_rows(exact, rng):
    """z_n chooses mean and covariance of a continuous latent, row by row: everything in closed form."""
    weights, locs, scales = np.array([0.2, 0.5, 0.3]), np.array([-3.0, 0.0, 2.0]), np.array([0.5, 1.0, 0.2])

    def model(y: Tensor) -> None:
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(double(weights)))
            x = pyro.sample("x", dist.Normal(double(locs)[z], double(scales)[z]))
            pyro.sample("y", dist.Normal(x, 0.6), obs=y)

    y = rng.normal(size=40) * 2
    result = exact(model, double(y), draws=3000)
    each = stats.norm(locs, np.sqrt(scales**2 + 0.36)).pdf(y[:, None]) * weights
    assert result.evidence.value == pytest.approx(np.log(each.sum(1)).sum(), abs=TIGHT)
    wanted = each / each.sum(1, keepdims=True)
    np.testing.assert_allclose(result.marginals["z"].values, wanted, atol=TIGHT)
    assert result.marginals["z"].dims == ("rows", "z_value")
    variance = 1 / (1 / scales**2 + 1 / 0.36)
    means = variance * (locs / scales**2 + y[:, None] / 0.36)
    x = result.data["posterior"]["x"].values[0][:, :, None]
    density = np.log((wanted * stats.norm(means, np.sqrt(variance)).pdf(x)).sum(-1)).sum(-1)
    np.testing.assert_allclose(result.log_q[0], density, atol=1e-8)
    drawn = (result.data["posterior"]["z"].values[0][:, :, None] == np.arange(3)).mean(0)
    np.testing.assert_allclose(drawn, wanted, atol=0.05)


def test_few_configurations_with_a_latent_that_all_share(exact, rng):
    def model(y: Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            pyro.sample("y", dist.Normal(shift + 4 * z - 2, 0.7), obs=y)

    y = rng.normal(size=5) * 2
    result = exact(model, double(y), draws=3000)
    bits = (np.arange(32)[:, None] >> np.arange(5)) & 1
    covariance = np.ones((5, 5)) + 0.49 * np.eye(5)
    logs = [
        stats.multivariate_normal(4 * b - 2.0, covariance).logpdf(y) + stats.bernoulli(0.4).logpmf(b).sum()
        for b in bits
    ]
    assert result.evidence.value == pytest.approx(np.logaddexp.reduce(logs), abs=TIGHT)
    probability = np.exp(logs - np.logaddexp.reduce(logs)) @ bits
    np.testing.assert_allclose(result.marginals["z"].values[:, 1], probability, atol=TIGHT)
    np.testing.assert_allclose(result.data["posterior"]["z"].values[0].mean(0), probability, atol=0.05)


def test_an_impossible_configuration_has_no_weight(exact):
    def model(y: Tensor) -> None:
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.0, 0.3, 0.7])))
        x = pyro.sample("x", dist.Normal(torch.tensor([5.0, 0.0, 1.0])[z], 1.0))
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    result = exact(model, double(0.5))
    np.testing.assert_allclose(result.marginals["z"].values, [0.0, 0.3, 0.7], atol=1e-9)


def test_too_many_configurations_are_refused(exact, rng):
    def model(y: Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            pyro.sample("y", dist.Normal(shift + z, 0.7), obs=y)

    with pytest.raises(lvm.ProblemError, match=r"'z'.*10\^30 joint values.*Fix: use lvm.infer"):
        exact(model, double(rng.normal(size=100)))
