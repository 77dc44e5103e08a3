"""The hard problems are what their references are of, and the references are as good as they say."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Predictive
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._program.density import Joint, map_draws

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FOLDER = BENCHMARKS / "posteriordb" / "hard"
NO_PROBLEMS = {"__init__", "base", "make_references"}
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NO_PROBLEMS)
REFERENCES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("references/*.json")}
EXACT = sorted(name for name, found in REFERENCES.items() if found["made_by"] == "exact")
SAMPLED = sorted(name for name, found in REFERENCES.items() if found["made_by"] == "nuts")


@pytest.fixture(scope="module")
def hard() -> Iterator[Any]:
    """The package, imported as a program of the folder does, and forgotten afterwards."""
    path = str(BENCHMARKS)
    sys.path.insert(0, path)
    yield import_module("posteriordb.hard")
    sys.path.remove(path)
    for name in [name for name in sys.modules if name.split(".")[0] == "posteriordb"]:
        del sys.modules[name]


def _log_density(problem: lvm.Problem, flat: Tensor) -> Tensor:
    return -Joint(problem).potential(flat)


def test_every_module_is_a_problem_with_a_reference(hard: Any) -> None:
    assert sorted(hard.problems()) == NAMES == sorted(REFERENCES)


def test_an_unknown_problem_is_refused_with_a_list(hard: Any) -> None:
    with pytest.raises(ValueError, match=r"no hard problem 'tunnel'. Fix: use one of funnel, "):
        hard.reference("tunnel")


@pytest.mark.parametrize("name", NAMES)
def test_the_density_at_the_centre_is_finite_and_the_one_of_the_reference(hard: Any, name: str) -> None:
    problem = hard.problems()[name]()
    assert problem.dtype == torch.float64
    with problem.session(seed=0):
        flat = torch.zeros(problem.unconstrained_size, requires_grad=True)
        value = _log_density(problem, flat)
        (gradient,) = torch.autograd.grad(value, flat)
    assert bool(torch.isfinite(value)) and bool(torch.isfinite(gradient).all())
    assert value.item() == pytest.approx(hard.reference(name).log_density, rel=1e-9), "make its reference again"


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_has_every_element_of_what_is_scored_and_a_reason_for_the_rest(hard: Any, name: str) -> None:
    problem, entry, reference = hard.problems()[name](), hard.ENTRIES[name], hard.reference(name)
    expected = [label for site in entry.scored for label in hard.base.labels(site, problem.sites[site].shape)]
    assert list(reference.moments) == expected
    assert reference.sites == entry.scored
    assert {site.name for site in problem.latents} - set(entry.scored) == set(reference.unscored)
    for moments in reference.moments.values():
        assert math.isfinite(moments.mean) and moments.sd > 0 and moments.mcse_mean >= 0 and moments.mcse_sd >= 0


def _drawn(problem: lvm.Problem, count: int = 100_000) -> tuple[dict[str, Any], Any]:
    """Draws from a model without observations, and equal weights."""
    with problem.session(seed=1), torch.no_grad():
        found = Predictive(problem.model, num_samples=count, parallel=True)(*problem.args)
    return {site: values.numpy() for site, values in found.items()}, np.full(count, 1 / count)


def _weighted(problem: lvm.Problem, count: int = 100_000) -> tuple[dict[str, Any], Any]:
    """Draws from a wide Gaussian, and importance weights by the problem's density."""
    (site,) = problem.latents
    with problem.session(seed=1), torch.no_grad():
        proposal = torch.distributions.Normal(torch.zeros(site.shape), 2.5)
        x = proposal.sample((count,))
        joint = Joint(problem)
        log_p = map_draws(lambda draw: {"p": joint.log_p(draw)}, {site.name: x})["p"]
        weights = torch.softmax(log_p - proposal.log_prob(x).sum(-1), 0)
    return {site.name: x.numpy()}, weights.numpy()


@pytest.mark.parametrize("name", EXACT)
def test_exact_moments_agree_with_draws(hard: Any, name: str) -> None:
    problem, reference = hard.problems()[name](), hard.reference(name)
    improper = any(site.distribution == "ImproperUniform" for site in problem.latents)
    draws, weights = _weighted(problem) if improper else _drawn(problem)
    count = len(weights)
    shapes = {site: problem.sites[site].shape for site in reference.sites}
    scalars = hard.elements({site: draws[site].reshape(1, count, *shape) for site, shape in shapes.items()})
    for label, exact in reference.moments.items():
        values = scalars[label][0]
        for found, wanted in ((values, exact.mean), ((values - exact.mean) ** 2, exact.sd**2)):
            error = math.sqrt(float((weights**2 * (found - weights @ found) ** 2).sum()))
            assert error < wanted / 20 or error < exact.sd / 20
            assert abs(weights @ found - wanted) < 5 * error, label
        assert exact.mcse_mean == exact.mcse_sd == 0


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_references_reach_the_goal_or_say_where_not(hard: Any, name: str) -> None:
    reference = hard.reference(name)
    told, goal = reference.diagnostics, reference.diagnostics["goal"]
    assert (goal["rhat"], goal["ess_bulk"], goal["ess_tail"]) == (1.005, 10_000, 10_000)
    assert set(told["short"]) <= set(reference.moments)
    for figure in ("ess_bulk", "ess_tail"):
        below = [row[figure] for row in told["short"].values()]
        assert told[figure] == min([told[figure], *below])
        assert (told[figure] >= goal[figure]) == all(value >= goal[figure] for value in below)
    assert (told["rhat"] < goal["rhat"]) == all(row["rhat"] < goal["rhat"] for row in told["short"].values())
    # Antithetic draws have fewer errors than independent ones; none has more than an effective sample size of 100 tells.
    for moments in reference.moments.values():
        assert 0 < moments.mcse_mean < moments.sd / 10 and 0 < moments.mcse_sd < moments.sd / 10


def _stacked(values: dict[str, Tensor], names: list[str]) -> Tensor:
    return torch.cat([values[name].reshape(-1) for name in names])


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_has_the_same_density_up_to_the_jacobian(hard: Any, name: str) -> None:
    entry = hard.ENTRIES[name]
    if entry.twin is None:
        return
    problem, twin = entry.problem(), entry.twin()
    ours, theirs = [site.name for site in problem.latents], [site.name for site in twin.latents]
    assert set(entry.scored) <= set(twin.sites)
    with problem.session(seed=3):
        joint, other = Joint(problem), Joint(twin)
        shapes = {site: twin.sites[site].shape for site in theirs}

        def draw(flat: Tensor) -> dict[str, Tensor]:
            parts = flat.split([math.prod(shape) for shape in shapes.values()])
            return {site: part.reshape(shapes[site]) for site, part in zip(theirs, parts, strict=True)}

        def original(flat: Tensor) -> Tensor:
            values = draw(flat)
            return _stacked(values | other.deterministic(values), ours)

        for _ in range(2):
            with torch.no_grad():
                point = other.constrain(0.3 * torch.randn(twin.unconstrained_size))
            flat = _stacked(point, theirs)
            values = point | other.deterministic(point)
            jacobian = torch.autograd.functional.jacobian(original, flat, vectorize=True)
            expected = joint.log_p({site: values[site] for site in ours}) + torch.linalg.slogdet(jacobian).logabsdet
            assert float(other.log_p(point)) == pytest.approx(float(expected), rel=1e-9)


def test_elements_are_counted_from_zero_in_the_order_of_the_flattened_array(hard: Any) -> None:
    found = hard.elements({"a": np.zeros((2, 3)), "b": np.arange(24.0).reshape(2, 2, 2, 3)})
    assert list(found) == ["a", *(f"b[{i}]" for i in range(6))]
    np.testing.assert_array_equal(found["b[4]"], [[4.0, 10.0], [16.0, 22.0]])


def test_the_autoregression_is_that_of_a_loop(hard: Any) -> None:
    steps, phi = torch.randn(37, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.tensor(-0.9)
    h, expected = torch.zeros((), dtype=torch.float64), []
    for step in steps:
        h = phi.double() * h + step
        expected.append(h)
    found = hard.stochastic_volatility.accumulate(steps, phi.double())
    torch.testing.assert_close(found, torch.stack(expected))


def test_a_short_scalar_is_listed_and_a_good_one_is_not(hard: Any) -> None:
    make = import_module("posteriordb.hard.make_references")
    rng = np.random.default_rng(0)
    good, bad = rng.standard_normal((8, 2500)), np.repeat(rng.standard_normal((8, 50)), 50, axis=1)
    found = {label: make.summarize(draws)[1] for label, draws in {"good": good, "bad": bad}.items()}
    assert list(make.short(found)) == ["bad"]
    moments, _ = make.summarize(good)
    assert moments.mcse_mean == pytest.approx(1 / math.sqrt(20_000), rel=0.3)
    assert moments.mcse_sd == pytest.approx(1 / math.sqrt(40_000), rel=0.3)


def test_the_error_of_a_mean_sees_a_slow_part_behind_draws_that_change_sides(hard: Any) -> None:
    make = import_module("posteriordb.hard.make_references")
    rng, chains, draws = np.random.default_rng(1), 400, 5000
    sides = rng.standard_normal((chains, draws // 2, 1)) * np.array([1.0, -1.0])
    slow = np.repeat(rng.standard_normal((chains, draws // 50)), 50, axis=1)
    values = sides.reshape(chains, draws) + 0.3 * slow
    true = 0.3 / math.sqrt(draws / 50)
    found = np.array([make.error_of_mean(values[i : i + 4]) for i in range(0, chains, 4)])
    assert np.sqrt((found**2).mean()) == pytest.approx(true / 2, rel=0.15)


def test_a_reference_is_read_as_it_was_written(hard: Any, tmp_path: Path) -> None:
    written = hard.reference("funnel")
    hard.base.write(written, tmp_path)
    assert hard.base.read("funnel", tmp_path) == written
    with pytest.raises(ValueError, match=r"Fix: python benchmarks/posteriordb/hard/make_references\.py banana"):
        hard.base.read("banana", tmp_path)


def test_problems_leave_no_parameters_behind(hard: Any) -> None:
    for build in hard.problems().values():
        assert not build().parameters
    assert not pyro.get_param_store().keys()
