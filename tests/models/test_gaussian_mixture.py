"""The mixture's density by several routes, quantities that do not see labels, and maximum likelihood by EM."""

from __future__ import annotations

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits, load_iris
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split

import pyrolvm as lvm
from pyrolvm_models.gaussian_mixture import (
    log_density,
    maximum_likelihood,
    responsibilities,
    same_component,
)

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(scope="module", params=["diagonal", "full"])
def covariance(request):
    return request.param


@pytest.fixture(scope="module")
def explicit(covariance):
    return lvm.problem("gaussian_mixture", covariance=covariance).to(dtype=torch.float64)


@pytest.fixture(scope="module")
def marginal(covariance):
    return lvm.problem("gaussian_mixture", covariance=covariance, marginal=True).to(dtype=torch.float64)


def _covariances(draw):
    """``(k, d, d)``, by NumPy."""
    scales = draw["scales"].numpy()
    lower = draw["cholesky"].numpy() if "cholesky" in draw else np.eye(scales.shape[-1])
    factor = scales[..., None] * lower
    return factor @ np.swapaxes(factor, -1, -2)


@pytest.mark.parametrize("seed", range(3))
def test_enumeration_gives_the_marginal_density(explicit, marginal, prior_draw, log_joint, seed):
    draw = prior_draw(marginal, seed)

    def guide(x):
        for name, value in draw.items():
            pyro.sample(name, dist.Delta(value, event_dim=value.dim()))

    enumerated = -TraceEnum_ELBO(max_plate_nesting=1).loss(explicit.model, guide, *explicit.args)
    assert enumerated == pytest.approx(log_joint(marginal, draw).item(), rel=1e-12, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_density_is_that_of_scipys_normals(marginal, prior_draw, log_joint, seed):
    draw = prior_draw(marginal, seed)
    (x,) = marginal.args
    parts = zip(draw["weights"].numpy(), draw["locs"].numpy(), _covariances(draw), strict=True)
    expected = torch.tensor(sum(w * multivariate_normal(m, c).pdf(x.numpy()) for w, m, c in parts)).log()
    pointwise = log_density(x, draw)
    torch.testing.assert_close(pointwise, expected, rtol=1e-9, atol=1e-9)
    prior = (
        dist.Dirichlet(torch.full((3,), 2.0)).log_prob(draw["weights"])
        + dist.Normal(0.0, 1.0).log_prob(draw["locs"]).sum()
        + dist.LogNormal(-1.0, 0.75).log_prob(draw["scales"]).sum()
    )
    if "cholesky" in draw:
        prior = prior + dist.LKJCholesky(4, 2.0).log_prob(draw["cholesky"]).sum()
    torch.testing.assert_close(log_joint(marginal, draw), prior + pointwise.sum(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
def test_neither_density_nor_quantities_see_labels(marginal, prior_draw, log_joint, permutation):
    draw = prior_draw(marginal)
    order = torch.tensor(permutation)
    renamed = {name: value[order] for name, value in draw.items()}
    torch.testing.assert_close(log_joint(marginal, renamed), log_joint(marginal, draw))
    for name, function in marginal.quantities.items():
        torch.testing.assert_close(function(renamed), function(draw), msg=lambda text, name=name: f"{name}: {text}")


def test_same_component_is_a_probability_that_finds_the_species():
    marginal = lvm.problem("gaussian_mixture", marginal=True).to(dtype=torch.float64)
    draw = {  # near the posterior mode
        "weights": torch.tensor([0.33, 0.33, 0.34]),
        "locs": torch.tensor([[-1.01, 0.84, -1.30, -1.25], [0.03, -0.77, 0.31, 0.20], [1.04, -0.03, 1.04, 1.10]]),
        "scales": torch.tensor([[0.42, 0.85, 0.10, 0.14], [0.57, 0.67, 0.28, 0.29], [0.66, 0.65, 0.31, 0.36]]),
    }
    together = marginal.quantities["same_component"](draw)
    assert ((together >= 0) & (together <= 1)).all()
    (x,) = marginal.args
    setosa, two = same_component(x[torch.tensor([[0, 1], [0, 50]])], draw).tolist()
    assert setosa > 0.99
    assert two < 1e-6


def test_a_single_component_is_a_gaussian():
    problem = lvm.problem("gaussian_mixture", components=1)
    assert problem.sites["weights"].shape == (1,)


def test_correlations_are_those_of_the_components(prior_draw):
    problem = lvm.problem("gaussian_mixture", covariance="full", marginal=True).to(dtype=torch.float64)
    draw = prior_draw(problem)
    covariances = _covariances(draw)
    sd = np.sqrt(np.diagonal(covariances, axis1=-2, axis2=-1))
    expected = covariances / (sd[:, :, None] * sd[:, None, :])
    order = np.argsort(draw["locs"][:, 2].numpy())
    found = problem.quantities["correlation"](draw)
    for column, (i, j) in enumerate([(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]):
        np.testing.assert_allclose(found[:, column], expected[order, i, j], rtol=1e-10, atol=1e-12)


# --- maximum likelihood -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    """Digits, dequantized, 75% and 25%."""
    x = load_digits().data
    x = (x + np.random.default_rng(0).uniform(size=x.shape)) / 17
    return train_test_split(x, test_size=0.25, random_state=0)


def _as_draw(fitted):
    """scikit-learn's parameters, as this module has them."""
    covariances = torch.tensor(fitted.covariances_)
    draw = {"weights": torch.tensor(fitted.weights_), "locs": torch.tensor(fitted.means_)}
    if covariances.dim() == 2:
        return draw | {"scales": covariances.sqrt()}
    scales = covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    return draw | {"scales": scales, "cholesky": torch.linalg.cholesky(covariances) / scales.unsqueeze(-1)}


@pytest.mark.parametrize(("kind", "held_out"), [("full", 60.73), ("diag", None)])
def test_density_and_responsibilities_of_scikit_learns_parameters_on_digits(digits, kind, held_out):
    train, test = digits
    fitted = GaussianMixture(10, covariance_type=kind, random_state=0, reg_covar=1e-3).fit(train)
    draw = _as_draw(fitted)
    assert float(log_density(torch.tensor(test), draw).mean()) == pytest.approx(fitted.score(test), abs=1e-6)
    np.testing.assert_allclose(log_density(torch.tensor(test), draw), fitted.score_samples(test), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        responsibilities(torch.tensor(test), draw), fitted.predict_proba(test), rtol=0, atol=1e-6
    )
    if held_out is not None:
        assert fitted.score(test) == pytest.approx(held_out, abs=0.01)


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_em_steps_are_scikit_learns(digits, kind):
    """From the same start, ten steps of ours and of theirs end in the same place."""
    from pyrolvm_models import gaussian_mixture as ours

    train = torch.tensor(digits[0])
    shares = ours._kmeans(train, 4, torch.Generator().manual_seed(0))
    name = {"full": "full", "diag": "diagonal"}[kind]
    start = _as_sklearn(ours._maximize(train, shares, name, 1e-3))
    with pytest.warns(UserWarning, match="did not converge"):
        fitted = GaussianMixture(4, covariance_type=kind, max_iter=10, tol=0.0, reg_covar=1e-3, **start).fit(digits[0])
    found = ours._em(train, shares, name, 1e-3, -1.0, 10)
    theirs = float(log_density(train, _as_draw(fitted)).sum())
    assert found.log_likelihoods[-1] == pytest.approx(theirs, rel=1e-9)
    assert not found.converged


def _as_sklearn(draw):
    covariances = _covariances(draw)
    full = "cholesky" in draw
    precisions = np.linalg.inv(covariances)
    return {
        "weights_init": draw["weights"].numpy(),
        "means_init": draw["locs"].numpy(),
        "precisions_init": precisions if full else np.diagonal(precisions, axis1=-2, axis2=-1),
    }


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_em_ascends_to_a_stationary_point_no_worse_than_scikit_learns(covariance):
    x = load_iris().data
    found = maximum_likelihood(x, 3, covariance=covariance, floor=1e-6, tolerance=1e-9, seed=1)
    assert found.converged
    assert (np.diff(found.log_likelihoods) > -1e-5).all()
    kind = {"full": "full", "diagonal": "diag"}[covariance]
    theirs = GaussianMixture(3, covariance_type=kind, tol=1e-9, max_iter=1000, n_init=4, random_state=0).fit(x)
    assert found.log_likelihoods[-1] > theirs.score(x) * len(x) - 1e-3
    leaves = {name: value.clone().requires_grad_() for name, value in found.parameters.items()}
    gradient = torch.autograd.grad(log_density(torch.tensor(x), leaves).sum(), leaves["locs"])[0]
    assert gradient.abs().max() < 0.5  # of 150 data, whose precisions are up to 1,000


def test_em_is_repeatable_and_leaves_the_random_state_alone(untouched_rng):
    x = load_iris().data
    first, second = (maximum_likelihood(x, 3, seed=3).parameters["locs"] for _ in range(2))
    assert torch.equal(first, second)


def test_one_component_has_the_moments_of_the_data():
    x = load_iris().data
    found = maximum_likelihood(x, 1, floor=0.0).parameters
    np.testing.assert_allclose(found["locs"][0], x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(_covariances(found)[0], np.cov(x.T, bias=True), rtol=1e-10)


def _rank_deficient():
    x = load_iris().data
    return np.column_stack([x, x[:, 0] + x[:, 1]])


@pytest.mark.parametrize(
    "x, options, error, message",
    [
        (load_iris().data[:5], {"components": 6}, lvm.ArgumentError, "6 components for 5 rows"),
        (
            _rank_deficient(),
            {"components": 2},
            lvm.DataError,
            "150 rows of 5 columns, have rank 4 about their mean, expected 5",
        ),
        (load_iris().data[[0, 50, 100]], {"components": 1}, lvm.DataError, "3 rows of 4 columns, have rank 2"),
        (np.ones((9, 2)), {"components": 1, "covariance": "diagonal"}, lvm.DataError, "column 0 is constant"),
        (
            load_iris().data,
            {"components": 60, "floor": 0.0},
            lvm.DataError,
            "covariance of component .* became singular",
        ),
        (np.array([[1.0, np.nan], [2.0, 3.0]]), {"components": 1}, lvm.DataError, r"x\[0, 1\] is nan"),
        (np.ones(4), {"components": 1}, lvm.DataError, r"shape \(4,\)"),
        ([["a", "b"], ["c", "d"]], {"components": 1}, lvm.DataError, "not numeric"),
        (load_iris().data, {"components": 2, "covariance": "tied"}, lvm.ArgumentError, "covariance is 'tied'"),
        (load_iris().data, {"components": 2, "floor": -1.0}, lvm.ArgumentError, "floor is -1.0"),
        (load_iris().data, {"components": 2, "starts": 0}, lvm.ArgumentError, "'starts'"),
    ],
)
def test_bad_input_is_named(x, options, error, message):
    with pytest.raises(error, match=f"(?s){message}.*Fix: "):
        maximum_likelihood(x, **options)


def test_unknown_covariances_and_too_many_components_are_named():
    with pytest.raises(lvm.ArgumentError, match=r"covariance is 'tied'\. Fix: use "):
        lvm.problem("gaussian_mixture", covariance="tied")
    with pytest.raises(lvm.ArgumentError, match="from 1 to 150"):
        lvm.problem("gaussian_mixture", components=151)
