"""Unknowns that are coupled to neighbours: series and maps, against formulas and NUTS."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
import sparse_models as models
import torch

import pyrolvm as lvm
from pyrolvm._methods.sparse.fields import band
from pyrolvm._methods.sparse.fields.coupled import Coupled
from pyrolvm._program.density import Joint
from tests.sparse.against import draws_are_those_of

STEPS = 110


def coupled(problem: lvm.Problem) -> Coupled:
    """The density of a problem with its pattern."""
    problem = problem.to(dtype=torch.float64, device="cpu")
    with problem.session(seed=0):
        found = Coupled.of(Joint(problem), 0)
    assert found is not None
    return found


def kalman(y: np.ndarray, step: float, noise: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Log density of a walk's noisy places, and the mean and variance of each place given all."""
    steps = len(y)
    walk = step**2 * np.minimum.outer(np.arange(1, steps + 1), np.arange(1, steps + 1))
    seen = walk + noise**2 * np.eye(steps)
    root = np.linalg.cholesky(seen)
    half, rest = (
        scipy.linalg.solve_triangular(root, walk, lower=True),
        scipy.linalg.solve_triangular(root, y, lower=True),
    )
    log_p = -0.5 * rest @ rest - np.log(np.diag(root)).sum() - 0.5 * steps * np.log(2 * np.pi)
    return float(log_p), half.T @ rest, np.diag(walk) - (half**2).sum(axis=0)


@functools.cache
def exact_level() -> tuple[float, np.ndarray, np.ndarray, tuple[float, float]]:
    """Evidence, means and sds of the walk, and means of its two scales, on a grid of these."""
    y = models.level(STEPS, summed=False).args[0].numpy()
    step, noise = np.linspace(0.05, 0.85, 26), np.linspace(0.25, 0.8, 26)
    found = [[kalman(y, s, n) for n in noise] for s in step]
    log_p = np.array([[one[0] for one in row] for row in found])
    log_p += scipy.stats.halfnorm().logpdf(step)[:, None] + scipy.stats.halfnorm().logpdf(noise)
    top = scipy.special.logsumexp(log_p)
    mass = np.exp(log_p - top)
    means, variances = (np.array([[one[k] for one in row] for row in found]) for k in (1, 2))
    mean = np.einsum("ij,ijt->t", mass, means)
    sd = np.sqrt(np.einsum("ij,ijt->t", mass, variances + means**2) - mean**2)
    evidence = top + np.log((step[1] - step[0]) * (noise[1] - noise[0]))
    return float(evidence), mean, sd, (float(mass.sum(1) @ step), float(mass.sum(0) @ noise))


def test_a_walk_that_shares_nothing_has_the_evidence_and_moments_of_its_formula() -> None:
    problem = models.walk(150)
    found, y = lvm.sparse(problem, progress=False), problem.args[0].numpy()
    steps = np.diff(np.eye(150), axis=0)
    prior, rows = np.eye(150) / 9 + steps.T @ steps / 0.09, np.eye(150) / 0.25
    scales = 150 * np.log(3.0) + 149 * np.log(0.3) + 150 * np.log(0.5) + 0.5 * (149 + 150) * np.log(2 * np.pi)
    mean = np.linalg.solve(prior + rows, y / 0.25)
    evidence = 0.5 * (y / 0.25) @ (mean - y) - scales - 0.5 * np.linalg.slogdet(prior + rows)[1]
    sd = np.sqrt(np.diag(np.linalg.inv(prior + rows)))
    drawn = found.data["posterior"]["x"].values.reshape(-1, 150)
    assert found.verdict.status == "trusted"
    assert abs(found.evidence.value - evidence) < 0.01
    assert np.all(np.abs(drawn.mean(0) - mean) < 0.15 * sd)
    assert np.all(np.abs(drawn.std(0) / sd - 1) < 0.12)


@pytest.mark.slow
@pytest.mark.parametrize("summed", [False, True])
def test_a_walk_with_noise_has_the_evidence_and_moments_of_a_kalman_filter(summed) -> None:
    found = lvm.sparse(models.level(STEPS, summed=summed), progress=False)
    evidence, mean, sd, scales = exact_level()
    said = found.data["integration"].attrs
    assert found.verdict.status == "trusted"
    assert (said["coupled"], said["bandwidth"], said["shared"], said["steps"]) == (STEPS, 1, 2, 0)
    assert abs(found.evidence.value - evidence) < 0.03
    drawn = found.data["posterior"]
    walk = drawn["x"].values.reshape(-1, STEPS)
    assert np.all(np.abs(walk.mean(0) - mean) < 0.2 * sd)
    assert np.all(np.abs(walk.std(0) / sd - 1) < 0.15)
    for name, wanted in zip(("step", "noise"), scales, strict=True):
        assert abs(float(drawn[name].mean()) - wanted) < 0.12 * float(drawn[name].std())


@pytest.mark.parametrize(
    ("problem", "coupled_unknowns", "most", "summed"),
    [
        (models.neighbours(shuffled=True), 121, 20, 0),
        (models.panel(), 220, 10, 0),
        pytest.param(models.level(120, summed=True), 120, 1, 1, marks=pytest.mark.slow),
        pytest.param(models.level(120, summed=False), 120, 1, 0, marks=pytest.mark.slow),
        pytest.param(models.volatile(), 150, 1, 0, marks=pytest.mark.slow),
        pytest.param(models.neighbours(), 121, 11, 0, marks=pytest.mark.slow),
        pytest.param(models.neighbours(joint=True), 121, 11, 0, marks=pytest.mark.slow),
        pytest.param(models.looped(), 110, 1, 0, marks=pytest.mark.slow),
    ],
)
def test_who_meets_whom_is_found_by_trying(problem, coupled_unknowns, most, summed) -> None:
    found = coupled(problem)
    pattern = found.pattern
    assert pattern.count == coupled_unknowns
    assert isinstance(pattern.layout, band.Band)
    assert pattern.layout.bandwidth <= most
    assert len(found.sums) == summed
    random = np.random.default_rng(0)
    shared, local = 0.3 * random.normal(size=(1, len(pattern.shared))), 0.3 * random.normal(size=(1, pattern.count))
    _, slopes, bands = found.hessian(shared, local)
    dense = np.empty((pattern.count, pattern.count))
    for k in range(pattern.count):
        there = local.copy()
        there[:, k] += 1e-5
        dense[k] = (slopes - found.at(pattern.assembled(shared, there))[1])[0, pattern.local] / 1e-5
    unit = np.eye(pattern.count)
    product = pattern.layout.product(bands, unit)
    np.testing.assert_allclose(product, dense, atol=2e-3 * np.abs(dense).max())


def test_bands_are_factored_solved_and_drawn_from_as_full_matrices_are() -> None:
    random = np.random.default_rng(1)
    bands = random.normal(size=(3, 30, 4))
    bands[..., 0] = 12.0
    for gap in range(1, 4):
        bands[:, -gap:, gap] = 0.0
    full = np.stack([sum(np.diag(one[: 30 - gap, gap], -gap) for gap in range(4)) for one in bands])
    full = full + np.tril(full, -1).swapaxes(1, 2)
    factors, good = band.factored(bands)
    right = random.normal(size=(3, 30))
    assert good.all()
    np.testing.assert_allclose(band.log_determinants(factors), np.linalg.slogdet(full)[1])
    np.testing.assert_allclose(band.solved(factors, right), np.linalg.solve(full, right[..., None])[..., 0])
    np.testing.assert_allclose(band.product(bands, right, range(4)), (full @ right[..., None])[..., 0])
    roots = np.linalg.cholesky(full)
    np.testing.assert_allclose(band.forward(factors, right), np.linalg.solve(roots, right[..., None])[..., 0])
    np.testing.assert_allclose(
        band.backward(factors, right), np.linalg.solve(roots.swapaxes(1, 2), right[..., None])[..., 0]
    )
    bands[1, 5, 0] = -1.0
    assert band.factored(bands)[1].tolist() == [True, False, True]


@pytest.mark.slow
def test_two_modes_of_coupled_unknowns_are_not_trusted() -> None:
    found = lvm.sparse(models.squares(), progress=False)
    assert found.verdict.status == "doubtful"
    assert found.verdict.figures["modes"] >= 2


@pytest.mark.slow
def test_coupled_unknowns_without_a_mode_are_refused_in_words() -> None:
    with pytest.raises(lvm.FitError, match="120 coupled unknowns of model have no mode"):
        lvm.sparse(models.boundless(), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        models.counted_walk,
        models.neighbours,
        functools.partial(models.neighbours, joint=True),
        models.panel,
    ],
    ids=["counts", "map", "map in one piece", "panel"],
)
def test_draws_of_coupled_unknowns_are_those_of_nuts(make) -> None:
    problem = make()
    found, chains = lvm.sparse(problem, progress=False), lvm.nuts(problem, draws=2_000, progress=False, seed=1)
    assert found.verdict.status == "trusted"
    assert found.data["integration"].attrs["coupled"] >= 100
    draws_are_those_of(found, chains, furthest=0.3)


@pytest.mark.slow
def test_simulations_of_coupled_unknowns_rank_their_truths_uniformly() -> None:
    found = lvm.calibrate(models.counted_walk(), "sparse", simulations=100, seed=0, progress=False)
    assert found.verdict.status == "trusted"
