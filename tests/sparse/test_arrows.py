"""Blocks and a core that they meet: as full matrices do, against formulas and NUTS."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sparse_models as models
import torch

import pyrolvm as lvm
from pyrolvm._methods.sparse import ways
from pyrolvm._methods.sparse.fields.arrow import Arrow
from pyrolvm._methods.sparse.fields.coupled import Coupled
from pyrolvm._methods.sparse.fields.laplace import FieldMarginal
from pyrolvm._program.density import Joint
from tests.sparse.against import draws_are_those_of

LAYOUT = Arrow(8, np.array([[0, 1], [2, 8], [3, 4]]), np.array([0, 0, 1]))


def full(random: np.random.Generator, count: int) -> np.ndarray:
    """Positive definite matrices whose blocks are 0 1, 2 and 3 4, and that have a core of 5 6 7."""
    roots = random.normal(size=(count, 8, 8))
    kept = np.zeros((8, 8), dtype=bool)
    for block in ([0, 1], [2], [3, 4]):
        kept[np.ix_(block, block)] = True
    kept[5:] = kept[:, 5:] = True
    return np.where(kept, roots @ roots.swapaxes(1, 2) + 8 * np.eye(8), 0.0)


def test_arrows_are_factored_solved_and_drawn_from_as_full_matrices_are() -> None:
    random = np.random.default_rng(0)
    dense, right, nudge = full(random, 3), random.normal(size=(3, 8)), random.uniform(0.5, 1.0, 8)
    found = LAYOUT.matrices(np.einsum("dij,kj->dki", dense, LAYOUT.moved(nudge)), nudge)
    factors, good = LAYOUT.factored(found)
    assert good.all()
    np.testing.assert_allclose(LAYOUT.log_determinants(factors), np.linalg.slogdet(dense)[1])
    np.testing.assert_allclose(LAYOUT.product(found, right), (dense @ right[..., None])[..., 0])
    np.testing.assert_allclose(LAYOUT.solved(factors, right), np.linalg.solve(dense, right[..., None])[..., 0])
    np.testing.assert_allclose(LAYOUT.solved(factors[:1], right), np.linalg.solve(dense[0], right.T).T)
    np.testing.assert_allclose(LAYOUT.around(found), np.abs(dense).sum(-1) - LAYOUT.diagonal(found))
    drawn = LAYOUT.backward(factors[:1], np.eye(8))
    np.testing.assert_allclose(drawn.T @ drawn, np.linalg.inv(dense[0]), atol=1e-12)
    rows, columns = np.nonzero(dense[0])
    entry = LAYOUT.entry(rows, columns)
    np.testing.assert_allclose(found[0, entry[entry >= 0]], dense[0, rows, columns][entry >= 0])
    assert set(entry[entry < 0]) == {-1}
    found[1] *= -1
    assert LAYOUT.factored(found)[1].tolist() == [True, False, True]


def test_windows_of_arrows_are_the_blocks_and_the_parts_of_the_core_that_do_not_meet() -> None:
    dense = full(np.random.default_rng(1), 1)
    found = LAYOUT.matrices(np.einsum("dij,kj->dki", dense, LAYOUT.moved(np.ones(8))), np.ones(8))
    blocks, core = LAYOUT.windows()
    for window in (blocks, core):
        inside = np.where((window[:, None] == window) & (window >= 0), dense[0], np.diag(1.0 * (window < 0)))
        np.testing.assert_allclose(LAYOUT.product(LAYOUT.within(found, window), np.eye(8)), inside)
    assert (blocks.tolist(), core.tolist()) == ([0, 0, 1, 2, 2, -1, -1, -1], [-1, -1, -1, -1, -1, 0, 0, 1])
    assert LAYOUT.met(np.arange(8) == 3).tolist() == [False, False, False, True, True, True, True, True]
    assert LAYOUT.met(np.arange(8) == 7).tolist() == [True] * 5 + [False, False, True]


@pytest.mark.parametrize("make", [models.crossed, models.nested])
def test_second_differences_of_parts_are_those_of_gradients(make) -> None:
    problem = make().to(dtype=torch.float64)
    with problem.session(seed=0):
        joint = Joint(problem)
        blocks = ways.find_blocks(problem, lambda point: ways.parts_at(joint, point))
        found = Coupled.around(joint, blocks, 0)
        assert found is not None
        assert found.pairs is not None
        assert found.moves < found.pattern.layout.moves
        random = np.random.default_rng(0)
        points = (
            0.3 * random.normal(size=(2, len(found.pattern.shared))),
            0.3 * random.normal(size=(2, found.pattern.count)),
        )
        by_parts = found.hessian(*points)[2]
        found.pairs = None
        np.testing.assert_allclose(by_parts, found.hessian(*points)[2], atol=1e-3)


def exact_two_sides(y: np.ndarray) -> tuple[float, np.ndarray, float]:
    """Evidence, means of both sides and of their scale, on a grid of it."""
    one, other = y.shape
    design = np.zeros((one * other, one + other))
    rows, columns = (index.ravel() for index in np.indices(y.shape))
    design[np.arange(y.size), rows], design[np.arange(y.size), one + columns] = 1.0, 1.0
    scales, flat = np.linspace(0.4, 1.4, 60), y.ravel()
    log_p, means = [], []
    for tau in scales:
        prior = tau**2 * np.eye(one + other)
        prior[:one, :one] += 4.0
        precision = np.linalg.inv(prior) + design.T @ design
        mean = np.linalg.solve(precision, design.T @ flat)
        halves = np.linalg.slogdet(precision)[1] + np.linalg.slogdet(prior)[1] + y.size * np.log(2 * np.pi)
        log_p.append(0.5 * (mean @ (design.T @ flat) - flat @ flat - halves) + scipy.stats.halfnorm().logpdf(tau))
        means.append(mean)
    top = scipy.special.logsumexp(log_p)
    mass = np.exp(np.array(log_p) - top)
    return float(top + np.log(scales[1] - scales[0])), mass @ np.array(means), float(mass @ scales)


@pytest.mark.slow
def test_two_sides_that_meet_have_the_evidence_and_means_of_their_formula() -> None:
    problem = models.two_sides()
    found = lvm.sparse(problem, progress=False)
    evidence, means, scale = exact_two_sides(problem.args[0].numpy())
    said, drawn = found.data["integration"].attrs, found.data["posterior"]
    assert found.verdict.status == "trusted"
    assert (said["coupled"], said["members"], said["core"], said["shared"]) == (130, 66, 64, 2)
    assert abs(found.evidence.value - evidence) < 0.05
    both = [drawn[name].values.reshape(len(drawn["tau"].values.ravel()), -1) for name in ("u", "v")]
    sides = np.concatenate(both, axis=1)
    assert np.max(np.abs(sides.mean(0) - means) / sides.std(0)) < 0.2
    assert abs(float(drawn["tau"].mean()) - scale) < 0.12 * float(drawn["tau"].std())


@pytest.mark.slow
def test_draws_of_two_sides_that_meet_are_those_of_nuts() -> None:
    problem = models.two_sides(normal=False)
    found, chains = lvm.sparse(problem, progress=False), lvm.nuts(problem, draws=1_500, progress=False, seed=1)
    assert found.verdict.status == "trusted"
    assert found.data["integration"].attrs["core"] == 64
    draws_are_those_of(found, chains, furthest=0.25)


def field_of_questions() -> tuple[lvm.Problem, Joint, Coupled]:
    """Persons and questions as one field."""
    problem = models.questions(persons=500).to(dtype=torch.float64)
    with problem.session(seed=0):
        joint = Joint(problem)
        blocks = ways.find_blocks(problem, lambda point: ways.parts_at(joint, point))
        found = Coupled.around(joint, blocks, 0)
    assert found is not None
    return problem, joint, found


def test_a_field_is_centred_where_gradients_at_draws_have_no_mean() -> None:
    problem, joint, coupled = field_of_questions()
    with problem.session(seed=0):
        marginal = FieldMarginal(joint, coupled)
        layout, place = coupled.pattern.layout, np.array([-1.2])
        random = np.random.default_rng(1)

        def spread() -> float:
            given = marginal.given(place[None])
            away = layout.backward(np.repeat(given.factor, 60, axis=0), random.normal(size=(60, coupled.pattern.count)))
            points = coupled.pattern.assembled(np.repeat(place[None], 60, axis=0), given.mode + away)
            squared = (away * layout.product(np.repeat(given.hessian, 60, axis=0), away)).sum(axis=1)
            return float(np.var(coupled.at(points)[0].sum(axis=1) + 0.5 * squared))

        before = spread()
        assert not coupled.tilt.any()
        marginal.settle(place)
        assert coupled.tilt.any()
        assert spread() < 0.3 * before
        near = np.array(
            [[-1.2], [-1.2 + 1e-2], [-1.2 - 1e-2]]
        )  # far enough that where Newton's method ends does not matter
        values, slopes = marginal(near)
        # A sum over nodes around a Gaussian has a slope that is the integral's to some thousandths: 0.36% off on an Intel Xeon.
        assert slopes[0, 0] == pytest.approx((values[1] - values[2]) / 2e-2, rel=0.01)


def test_a_field_that_takes_longer_than_chains_is_refused_before_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "DEAR", 0.0)
    monkeypatch.setattr(ways, "as_chains", lambda weighted: 0.0)
    monkeypatch.setattr(ways, "MOST_ALIKE", 50)
    monkeypatch.setattr(ways, "MOST_ALONE", 60)
    with pytest.raises(lvm.FitError, match=r"coupled unknowns takes about .* to come\. Fix: use lvm\.nuts"):
        lvm.sparse(models.questions(persons=70, items=31), seed=0, progress=False)
