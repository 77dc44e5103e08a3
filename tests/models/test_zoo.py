"""What every registered problem promises, whichever it is."""

from __future__ import annotations

import inspect
import sys

import pyro
import pytest
import torch
from pyro import poutine

import pyrolvm as lvm
from tests import zoo

NAMES = lvm.problems(ready=True)
LATENT = zoo.names(lambda kind: kind.latents)
"""Those with a posterior; the others are fitted by maximum likelihood, see test_densities.py."""
BUILT_IN = [name for name in LATENT if zoo.kind(name).module.startswith("pyrolvm_models.")]
ROWS = zoo.names(lambda kind: kind.latents and kind.rows)
"""Those whose data are independent rows."""


@pytest.fixture(scope="module", params=LATENT)
def problem(request):
    return lvm.problem(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_building_is_reproducible_and_leaves_the_random_state_alone(name, untouched_rng):
    first, second = lvm.problem(name), lvm.problem(name)
    assert first.fingerprint == second.fingerprint
    assert first.name == name
    for mine, other in zip(first.args, second.args, strict=True):
        if isinstance(mine, torch.nn.Module):
            assert mine is not other
            for a, b in zip(mine.parameters(), other.parameters(), strict=True):
                assert a.data_ptr() != b.data_ptr()
                torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not pyro.get_param_store().keys()


def test_it_is_a_joint_density_with_latents_and_data(problem):
    assert problem.latents
    assert problem.observed or problem.name == "funnel"  # which is a prior alone
    assert problem.unconstrained_size > 0 or problem.discrete
    assert problem.doc


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_density_is_finite_at_prior_draws(problem, prior_draw, log_joint, dtype):
    moved = problem.to(dtype=dtype)
    with pyro.validation_enabled(True):
        for seed in range(3):
            value = log_joint(moved, prior_draw(moved, seed))
            assert value.dtype == dtype
            assert torch.isfinite(value)


def test_dims_and_coords_fit_the_shapes(problem, prior_draw):
    shapes = {name: site.shape for name, site in problem.sites.items()}
    draw = prior_draw(problem)
    shapes |= {name: tuple(function(draw).shape) for name, function in problem.quantities.items()}
    named = {**problem.info.dims, **problem.dims}
    for name, shape in shapes.items():
        dims = named.get(name, ())
        assert len(dims) == len(shape), name
        assert not any("_dim_" in dim for dim in dims), f"{name} has an unnamed dimension: {dims}"
        for dim, length in zip(dims, shape, strict=True):
            if dim in problem.coords:
                assert len(problem.coords[dim]) == length, (name, dim)
    assert set(problem.coords) <= {dim for dims in named.values() for dim in dims}


def _one_by_one(problem, log_joint, draws):
    return torch.stack([log_joint(problem, draw) for draw in draws])


def test_log_density_runs_under_vmap(problem, prior_draw, log_joint):
    draws = [prior_draw(problem, seed) for seed in range(3)]
    stacked = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
    with pyro.validation_enabled(False), torch.no_grad():
        one_by_one = _one_by_one(problem, log_joint, draws)  # registers learnable parameters, which vmap may not
        together = torch.func.vmap(lambda draw: log_joint(problem, draw))(stacked)
        torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-3)


def test_log_density_broadcasts_over_a_plate_of_particles(problem, prior_draw, log_joint):
    draws = [prior_draw(problem, seed) for seed in range(3)]
    stacked = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
    for name, value in stacked.items():
        if not problem.sites[name].plates:  # a global: one value along the plate's dimension
            stacked[name] = value.unsqueeze(1)
    model = poutine.condition(problem.model, data=stacked)
    with torch.no_grad(), pyro.plate("particles", 3, dim=-2):
        trace = poutine.trace(model).get_trace(*problem.args, **problem.kwargs)
    trace.compute_log_prob()
    sites = [node["log_prob"] for name, node in trace.nodes.items() if name in problem.sites and "log_prob" in node]
    together = sum(term.expand(3, -1).sum(-1) for term in sites)
    with torch.no_grad():
        torch.testing.assert_close(together, _one_by_one(problem, log_joint, draws), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", ROWS)
def test_minibatches_estimate_the_whole(name, prior_draw, log_joint):
    problem = lvm.problem(name)
    (plate,) = problem.plates.values()
    draw = prior_draw(problem)
    rows = torch.arange(plate.size)
    cut = plate.size // 3
    with torch.no_grad():
        estimate = 0.0
        for part in (rows[:cut], rows[cut:]):
            local = {name: value[part] if problem.sites[name].plates else value for name, value in draw.items()}
            batch = problem.batch(part)
            with batch.active():
                estimate = estimate + len(part) / plate.size * log_joint(problem, local, batch.args)
        torch.testing.assert_close(estimate, log_joint(problem, draw), rtol=1e-5, atol=1e-3)


def test_quantities_run_under_vmap(problem, prior_draw):
    draws = [prior_draw(problem, seed) for seed in range(3)]
    stacked = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
    for function in problem.quantities.values():
        one_by_one = torch.stack([function(draw) for draw in draws])
        torch.testing.assert_close(torch.func.vmap(function)(stacked), one_by_one, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_module_says_where_it_comes_from_and_what_is_lost(name):
    doc = inspect.getdoc(sys.modules[lvm.problem(name).model.__module__]) or ""
    for part in ("Graph:", "Data:", "What variational inference loses:", "References:"):
        assert part in doc
