"""The linear dynamical system as one large normal distribution, and at its published estimates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import halfnorm, multivariate_normal
from torch.autograd.functional import hessian as hessian_of
from torch.autograd.functional import jacobian

import pyrolvm as lvm
from pyrolvm_models import linear_dynamical_system
from pyrolvm_models.linear_dynamical_system import FLOW, log_likelihood, smoothed

pytestmark = pytest.mark.usefixtures("double")

Y = np.array(FLOW) / 100

PUBLISHED = {"drift": 1469.1, "noise": 15099.0}
"""Variances, in squared units of 10^8 cubic metres."""


@pytest.fixture(params=[False, True], ids=["level", "slope"])
def slope(request):
    return request.param


def _scales(slope):
    return {"drift": torch.tensor(0.4), "noise": torch.tensor(1.2)} | ({"bend": torch.tensor(0.05)} if slope else {})


def _covariance(draw):
    """Covariance of the levels, by following each shock through the years."""
    n = len(Y)
    drift, bend = float(draw["drift"]), float(draw.get("bend", 0.0))
    effects = []
    for born in range(n):
        for size, is_slope in ((2.0 if born == 0 else drift, False), (0.5 if born == 0 else bend, True)):
            if is_slope and "bend" not in draw:
                continue
            level, trend, path = 0.0, 0.0, []
            for t in range(n):
                level, trend = level + trend, trend
                if t == born:
                    level, trend = (level, trend + size) if is_slope else (level + size, trend)
                path.append(level)
            effects.append(path)
    effects = np.array(effects)
    return effects.T @ effects


def test_the_kalman_filter_is_the_density_of_one_large_normal(slope):
    draw = _scales(slope)
    covariance = _covariance(draw) + 1.2**2 * np.eye(100)
    expected = multivariate_normal(np.full(100, 10.0), covariance).logpdf(Y)
    assert float(log_likelihood(torch.tensor(Y), draw)) == pytest.approx(expected, abs=1e-9)


def test_the_smoother_is_the_conditional_of_one_large_normal(slope):
    draw = _scales(slope)
    prior = _covariance(draw)
    gain = prior @ np.linalg.inv(prior + 1.2**2 * np.eye(100))
    means, sds = smoothed(torch.tensor(Y), draw)
    np.testing.assert_allclose(means, 10 + gain @ (Y - 10), rtol=0, atol=1e-9)
    np.testing.assert_allclose(sds, np.sqrt(np.diagonal(prior - gain @ prior)), rtol=1e-7)


def test_the_marginal_density_is_the_kalman_filters(slope, log_joint):
    problem = lvm.problem("linear_dynamical_system", slope=slope, marginal=True).to(dtype=torch.float64)
    draw = _scales(slope)
    prior = sum(halfnorm(scale={"drift": 1.0, "noise": 2.0, "bend": 0.1}[k]).logpdf(float(v)) for k, v in draw.items())
    expected = float(log_likelihood(torch.tensor(Y), draw)) + prior
    assert float(log_joint(problem, draw)) == pytest.approx(expected, abs=1e-5)  # the data are in single precision


def test_the_explicit_density_is_the_marginal_times_the_smoothers(slope, log_joint):
    """At the smoothed path, joint density minus that of the path given the data is the marginal."""
    problem = lvm.problem("linear_dynamical_system", slope=slope, marginal=False).to(dtype=torch.float64)
    marginal = lvm.problem("linear_dynamical_system", slope=slope, marginal=True).to(dtype=torch.float64)
    draw = _scales(slope)
    shape = {"level": (100,)} | ({"slope": (100,)} if slope else {})
    flat = torch.zeros(100 * len(shape))

    def joint(point):
        parts = dict(zip(shape, point.split(100), strict=True))
        return log_joint(problem, draw | parts)

    gradient, hessian = (part(joint, flat) for part in (jacobian, hessian_of))
    lower = torch.linalg.cholesky(-hessian)
    away = torch.cholesky_solve(gradient.unsqueeze(-1), lower).squeeze(-1)
    integral = joint(flat) + 0.5 * gradient @ away - lower.diagonal().log().sum() + 0.5 * len(flat) * np.log(2 * np.pi)
    assert integral.item() == pytest.approx(float(log_joint(marginal, draw)), abs=1e-7)
    np.testing.assert_allclose(away.split(100)[0], smoothed(problem.args[0], draw)[0], rtol=0, atol=1e-7)


def test_the_published_estimates_are_a_maximum_of_the_published_height(monkeypatch):
    """Durbin and Koopman (2012), section 2.10: variances 15,099 and 1,469.1, log likelihood -632.54, under a diffuse start."""
    monkeypatch.setattr(linear_dynamical_system, "SPREAD", 1e4)
    leaves = {name: torch.tensor(v).sqrt().div(100).log().requires_grad_() for name, v in PUBLISHED.items()}
    draw = {name: value.exp() for name, value in leaves.items()}
    of_first = multivariate_normal(10.0, 1e8 + 1.5099).logpdf(Y[0])
    found = log_likelihood(torch.tensor(Y), draw) - of_first - 99 * np.log(100)
    assert found.item() == pytest.approx(-632.54, abs=0.01)
    for part in torch.autograd.grad(found, list(leaves.values())):
        assert abs(part.item()) < 1e-2


def test_the_flows_are_those_of_cobb():
    assert (len(FLOW), sum(FLOW)) == (100, 91_935)
    assert np.var(FLOW, ddof=1) == pytest.approx(28_637.95, abs=0.005)


def test_a_level_that_hardly_moves_has_a_finite_density_in_single_precision(log_joint):
    problem = lvm.problem("linear_dynamical_system")
    for drift in (1e-20, 1e-3, 1.0):
        draw = {"drift": torch.tensor(drift), "noise": torch.tensor(1.0)}
        single = log_joint(problem, {name: value.float() for name, value in draw.items()})
        double = log_joint(problem.to(dtype=torch.float64), draw)
        assert single.item() == pytest.approx(double.item(), rel=1e-4)
