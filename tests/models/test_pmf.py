"""Probabilistic matrix factorization: densities by SciPy, the mode by its gradient and, without holes, in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

import pyrolvm as lvm
from pyrolvm_models.pmf import maximum_a_posteriori

pytestmark = pytest.mark.usefixtures("double")


def _table(n=40, d=12, q=2, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, q)) @ rng.normal(size=(q, d)) + noise * rng.normal(size=(n, d))
    return x, (rng.uniform(size=(n, d)) < 0.7).astype(float)


@pytest.mark.parametrize("seed", range(2))
def test_the_density_has_a_factor_for_each_entry_seen(seed, prior_draw, log_joint):
    problem = lvm.problem("pmf", q=3).to(dtype=torch.float64)
    draw = prior_draw(problem, seed)
    x, mask = (value.numpy() for value in problem.args)
    row, column, sigma = draw["row"].numpy(), draw["column"].numpy(), float(draw["sigma"])
    expected = stats.norm.logpdf(row).sum() + stats.norm.logpdf(column).sum() + stats.halfnorm.logpdf(sigma)
    expected += (mask * stats.norm(row @ column.T, sigma).logpdf(x)).sum()
    assert float(log_joint(problem, draw)) == pytest.approx(expected, rel=1e-6)
    moved = (problem.args[0] + 100 * (1 - problem.args[1]), problem.args[1])  # what was not seen does not matter
    assert float(log_joint(problem, draw, moved)) == pytest.approx(expected, rel=1e-6)


def test_neither_density_nor_quantities_see_rotations(prior_draw, log_joint):
    problem = lvm.problem("pmf").to(dtype=torch.float64)
    draw = prior_draw(problem)
    turn = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(1))).Q
    turned = draw | {"row": draw["row"] @ turn, "column": draw["column"] @ turn}
    torch.testing.assert_close(log_joint(problem, turned), log_joint(problem, draw))
    for name, function in problem.quantities.items():
        torch.testing.assert_close(function(turned), function(draw), msg=lambda text, name=name: f"{name}: {text}")


def test_quantities_are_what_they_say(prior_draw):
    problem = lvm.problem("pmf").to(dtype=torch.float64)
    draw = prior_draw(problem)
    product = (draw["row"] @ draw["column"].mT).numpy()
    mask = problem.args[1].numpy() == 1
    values = {name: function(draw).numpy() for name, function in problem.quantities.items()}
    assert values["explained"] == pytest.approx((product**2).mean())
    np.testing.assert_allclose(values["prediction"], product[~mask][:6])
    assert 0.65 < mask.mean() < 0.75


def test_the_mode_is_one_of_the_problem(log_joint):
    problem = lvm.problem("pmf").to(dtype=torch.float64)
    found = maximum_a_posteriori(*problem.args, 2, noise=0.5, tolerance=1e-15)
    assert found.converged
    assert (np.diff(found.log_joints) > -1e-9).all()
    draw = {"row": found.rows.requires_grad_(), "column": found.columns.requires_grad_(), "sigma": torch.tensor(0.5)}
    slopes = torch.autograd.grad(log_joint(problem, draw), [draw["row"], draw["column"]])
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-3


@pytest.mark.parametrize("noise", [0.3, 2.0])
def test_without_holes_the_mode_shrinks_singular_values(noise):
    """min |x - u v'|^2 / (2 s^2) + |u|^2 / 2 + |v|^2 / 2 shrinks each singular value by s^2 (Mazumder et al. 2010)."""
    x, _ = _table()
    found = maximum_a_posteriori(x, np.ones_like(x), 2, noise=noise, tolerance=1e-15)
    left, size, right = np.linalg.svd(x, full_matrices=False)
    expected = left[:, :2] * np.maximum(size[:2] - noise**2, 0) @ right[:2]
    np.testing.assert_allclose(found.product, expected, rtol=0, atol=1e-5)


def test_what_was_hidden_is_found_again():
    x, seen = _table(n=200, noise=0.3)
    found = maximum_a_posteriori(np.where(seen == 1, x, 1e6), seen, 2)
    error = np.sqrt(((found.product.numpy() - x)[seen == 0] ** 2).mean())
    assert error < 0.4
    assert 0.22 < found.noise < 0.3  # a mode fits some of the noise


X, SEEN = _table()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: maximum_a_posteriori(X, SEEN[:, :5], 2), lvm.DataError, r"shape \(40, 5\), expected \(40, 12\)"),
        (lambda: maximum_a_posteriori(X, SEEN * 0.5, 2), lvm.DataError, "of 0 and 1"),
        (lambda: maximum_a_posteriori(np.where(SEEN == 1, X, np.nan), SEEN, 2), lvm.DataError, "is nan"),
        (lambda: maximum_a_posteriori(X, SEEN * (np.arange(12) != 3), 2), lvm.DataError, "seen of column 3"),
        (lambda: maximum_a_posteriori(X, SEEN * (np.arange(40)[:, None] != 7), 2), lvm.DataError, "seen of row 7"),
        (lambda: maximum_a_posteriori(X, SEEN, 13), lvm.ArgumentError, "'q'"),
        (lambda: maximum_a_posteriori(X, SEEN, 7), lvm.ArgumentError, "noise has no estimate"),
        (lambda: maximum_a_posteriori(X, SEEN, 2, noise=0.0), lvm.ArgumentError, "noise is 0.0"),
        (lambda: lvm.problem("pmf", seen=1.0), lvm.ArgumentError, "seen is 1.0"),
        (lambda: lvm.problem("pmf", images=19), lvm.ArgumentError, "images is 19"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=f"(?s){message}.*Fix: "):
        call()
