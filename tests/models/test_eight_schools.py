"""Eight schools against posteriordb."""

from __future__ import annotations

import pytest
import torch

import pyrolvm as lvm

pytestmark = pytest.mark.usefixtures("double")

# The first four draws of the first reference chain of posteriordb's eight_schools-eight_schools_noncentered, rounded to
# ten digits (Magnusson et al., https://github.com/stan-dev/posteriordb, BSD-3-Clause).
THETA = [
    [10.68027730, 9.717706813, 7.775070997, 9.028046546, 9.658935766, 8.823440368, 9.679577084, 13.73608102],
    [6.453839109, 4.410308244, 7.013303647, 6.380420158, 3.835823096, 5.967308938, 1.869720678, 3.743151151],
    [-2.241629646, 0.7617047864, -4.746193271, -0.7093046436, -2.329045683, -2.260513693, 1.034926934, -2.256031422],
    [2.460023119, 4.445632335, 4.313779900, 2.368099170, 0.5752249040, 0.8621798839, 5.840934690, 3.481595027],
]
MU = [9.338845253, 3.691974641, -1.013372363, 2.667787918]
TAU = [1.793946676, 2.153651950, 2.295076406, 1.708202238]

# Log joint densities at draws 1, 2, 3 minus that at draw 0, on the constrained scale, from the published joint density.
CENTERED = [-0.7439, -1.2948, 1.2619]
NONCENTERED = [0.7181, 0.6760, 0.8700]


def _draws():
    theta, mu, tau = (torch.tensor(values, dtype=torch.float64) for values in (THETA, MU, TAU))
    return [(theta[i], mu[i], tau[i]) for i in range(4)]


@pytest.mark.parametrize("name, options", [("eight_schools_centered", {}), ("eight_schools", {"centered": True})])
def test_centered_density_at_reference_draws(name, options, log_joint):
    problem = lvm.problem(name, **options).to(dtype=torch.float64)
    values = torch.stack([log_joint(problem, {"theta": t, "mu": m, "tau": s}) for t, m, s in _draws()])
    torch.testing.assert_close((values[1:] - values[0]).tolist(), CENTERED, rtol=0, atol=6e-5)


@pytest.mark.parametrize("name", ["eight_schools_noncentered", "eight_schools"])
def test_noncentered_density_at_reference_draws(name, log_joint):
    problem = lvm.problem(name).to(dtype=torch.float64)
    values = torch.stack([log_joint(problem, {"theta_trans": (t - m) / s, "mu": m, "tau": s}) for t, m, s in _draws()])
    torch.testing.assert_close((values[1:] - values[0]).tolist(), NONCENTERED, rtol=0, atol=6e-5)


def test_both_forms_differ_by_the_jacobian_alone(log_joint):
    centered = lvm.problem("eight_schools_centered").to(dtype=torch.float64)
    noncentered = lvm.problem("eight_schools_noncentered").to(dtype=torch.float64)
    for theta, mu, tau in _draws():
        left = log_joint(centered, {"theta": theta, "mu": mu, "tau": tau})
        right = log_joint(noncentered, {"theta_trans": (theta - mu) / tau, "mu": mu, "tau": tau})
        torch.testing.assert_close(left, right - 8 * tau.log())


def test_the_data_are_those_of_rubin():
    problem = lvm.problem("eight_schools")
    assert problem.arguments["y"].tolist() == [28, 8, -3, 7, -1, 1, 18, 12]
    assert problem.arguments["sigma"].tolist() == [15, 10, 16, 11, 9, 11, 10, 18]
    assert problem.coords["school"] == list("ABCDEFGH")
