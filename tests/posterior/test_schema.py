"""Every group, dimension, coordinate and attribute that an ArviZ object of ours promises, for both methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._results import build

GROUPS = {
    "posterior", "unconstrained_posterior", "sample_stats", "log_likelihood", "posterior_predictive", "prior",
    "prior_predictive", "observed_data",
}  # fmt: skip
NUTS_STATS = {
    "lp", "diverging", "acceptance_rate", "step_size", "tree_depth", "n_steps", "energy", "reached_max_treedepth",
}  # fmt: skip
SAMPLED = ("posterior", "quantities", "unconstrained_posterior", "log_likelihood", "log_prior", "posterior_predictive")


def test_groups(any_result: Any, method: str) -> None:
    found = set(any_result.data.children)
    assert found >= GROUPS - (set() if any_result.problem.continuous else {"unconstrained_posterior"})
    assert ("optimization" in found) == (method == "svi")
    assert ("quantities" in found) == bool(any_result.problem.quantities)
    assert next(iter(any_result.data.children)) == "posterior"


def test_posterior_holds_latents_then_deterministic_sites(any_result: Any) -> None:
    problem = any_result.problem
    wanted = [site.name for site in problem.latents]
    wanted += [site.name for site in problem.sites.values() if site.kind == "deterministic"]
    assert list(any_result.data["posterior"].data_vars) == wanted


def test_dims_are_chain_draw_plates_events(any_result: Any, method: str) -> None:
    problem = any_result.problem
    for group in SAMPLED:
        if group not in any_result.data.children:
            continue
        data = any_result.data[group]
        assert data.sizes["chain"] == (1 if method == "svi" else 2), group
        for name, variable in data.data_vars.items():
            assert variable.dims[:2] == ("chain", "draw"), (group, name)
            if group in ("posterior", "posterior_predictive"):
                assert variable.shape[2:] == problem.sites[name].shape, (group, name)
                assert list(variable.dims[2:]) == problem.dims[name], (group, name)
            if group in ("log_likelihood", "log_prior"):
                batch = problem.dims[name][: len(problem.sites[name].shape) - problem.sites[name].event_dim]
                assert list(variable.dims[2:]) == batch, (group, name)


def test_plates_name_dimensions(any_result: Any) -> None:
    problem = any_result.problem
    for site in [*problem.latents, *problem.observed]:
        for plate in site.plates:
            group = "observed_data" if site.kind == "observed" else "posterior"
            assert plate in any_result.data[group][site.name].dims
            assert any_result.data[group].sizes[plate] == problem.plates[plate].size


def test_labels_of_the_model_are_coordinates_everywhere(any_result: Any) -> None:
    problem = any_result.problem
    for group in any_result.data.children.values():
        for dim, labels in problem.coords.items():
            if dim in group.dims:
                assert list(group.coords[dim].values) == labels, (group.name, dim)


def test_sample_stats(any_result: Any, method: str) -> None:
    stats = any_result.data["sample_stats"]
    sizes = (any_result.data["posterior"].sizes["chain"], any_result.data["posterior"].sizes["draw"])
    if method == "svi":
        learned = any_result.data["posterior"].attrs["model_parameters"]
        assert set(stats.data_vars) - {"site_kl"} == {"lp", "log_q", "log_weight", "khat"}
        assert learned or "site_kl" not in stats
        assert stats["khat"].dims == ()
        np.testing.assert_allclose(
            stats["log_weight"].values, (stats["lp"] - stats["log_q"]).values, rtol=1e-6, atol=1e-6
        )
        assert any_result.log_q.shape == sizes
    else:
        assert set(stats.data_vars) == NUTS_STATS
        assert any_result.log_q is None
    for name, variable in stats.data_vars.items():
        if name == "site_kl":
            assert variable.dims == ("site",)
        elif name != "khat":
            assert variable.dims == ("chain", "draw"), name
            assert variable.shape == sizes, name
    assert any_result.log_p.shape == sizes


def test_values_are_finite_and_in_their_supports(any_result: Any) -> None:
    problem = any_result.problem
    for site in problem.latents:
        values = torch.as_tensor(any_result.data["posterior"][site.name].values)
        assert bool(torch.isfinite(values).all()), site.name
        if site.support is not None and not site.is_discrete:
            ok = site.support.check(values)
            assert bool(ok.all()), site.name
    for group in ("log_likelihood", "log_prior"):
        if group in any_result.data.children:
            for name, variable in any_result.data[group].data_vars.items():
                assert np.isfinite(variable.values).all(), (group, name)


def test_unconstrained_draws_are_the_images_of_the_draws(any_result: Any) -> None:
    from torch.distributions import biject_to

    problem = any_result.problem
    for site in problem.continuous:
        real = torch.as_tensor(any_result.data["unconstrained_posterior"][site.name].values)
        assert tuple(real.shape[2:]) == tuple(site.unconstrained_shape)
        back = biject_to(site.support)(real)
        wanted = torch.as_tensor(any_result.data["posterior"][site.name].values)
        torch.testing.assert_close(back, wanted, rtol=1e-3, atol=1e-4)


def test_densities_add_up_to_log_p(any_result: Any) -> None:
    """log p(data, draw) is the sum of the pointwise log likelihood and of the log prior, where rows separate."""
    data = any_result.data
    total = 0.0
    for group in ("log_likelihood", "log_prior"):
        assert "thinned_by" not in data[group].attrs
        for variable in data[group].data_vars.values():
            total = total + variable.values.astype(float).reshape(*variable.shape[:2], -1).sum(-1)
    np.testing.assert_allclose(any_result.log_p, total, rtol=1e-4, atol=1e-2)


def test_attributes(any_result: Any, method: str) -> None:
    attrs = any_result.data["posterior"].attrs
    assert attrs["inference_library"] == "pyrolvm"
    assert attrs["inference_method"] == method
    assert attrs["pyrolvm_problem"] == any_result.problem.name
    assert attrs["seed"] == any_result.seed
    assert ("pyrolvm_guide" in attrs) == (method == "svi")
    for group in any_result.data.children.values():
        if group.name not in ("optimization", "sample_stats"):
            assert group.attrs["inference_library"] == "pyrolvm", group.name


def test_attributes_of_chains_name_the_engine_and_the_time(eight_chains: lvm.Chains) -> None:
    attrs = eight_chains.data["posterior"].attrs
    assert attrs["engine"] == eight_chains.engine
    assert attrs["sampling_time"] > 0


def test_attributes_of_a_fit_name_the_engine_and_the_time(eight_fit: lvm.Fit) -> None:
    attrs = eight_fit.data["posterior"].attrs
    assert attrs["engine"] == eight_fit.engine
    assert attrs["sampling_time"] > 0


def test_optimization_trace(any_fit: lvm.Fit) -> None:
    trace = any_fit.data["optimization"]
    assert trace["loss"].dims == ("step",)
    np.testing.assert_array_equal(trace["elbo"].values, -trace["loss"].values)
    assert trace.sizes["step"] == len(any_fit.losses)
    assert set(trace.data_vars) >= {"loss", "elbo", "learning_rate"}
    assert set(trace.attrs) >= {"converged", "stop_reason", "num_particles"}
    assert trace.attrs["converged"] in (0, 1)
    assert any_fit.elbo == pytest.approx(float(any_fit.log_weight.mean()))
    assert any_fit.stop_reason == trace.attrs["stop_reason"]


def test_observed_and_constant_data_are_the_arguments(any_result: Any) -> None:
    problem, data = any_result.problem, any_result.data
    assert set(data["observed_data"].data_vars) == {site.name for site in problem.observed}
    arguments = {name: value for name, value in problem.arguments.items() if isinstance(value, Tensor)}
    constant = data["constant_data"].data_vars if "constant_data" in data.children else {}
    shown = [variable.values for variable in (*data["observed_data"].data_vars.values(), *constant.values())]
    for name, value in arguments.items():
        assert any(array.shape == tuple(value.shape) and np.array_equal(array, value.numpy()) for array in shown), name


def test_prior_groups(any_result: Any) -> None:
    problem, data = any_result.problem, any_result.data
    assert set(data["prior_predictive"].data_vars) == {site.name for site in problem.observed}
    assert {site.name for site in problem.latents} <= set(data["prior"].data_vars)
    for name, variable in data["prior"].data_vars.items():
        assert variable.shape[2:] == problem.sites[name].shape, name
        assert list(variable.dims[2:]) == problem.dims[name], name
        assert variable.values.std() > 0, name


def test_sample(any_result: Any) -> None:
    drawn = any_result.sample(7, seed=3)
    assert isinstance(drawn, xr.Dataset)
    assert dict(drawn.sizes)["chain"] == 1
    assert dict(drawn.sizes)["draw"] == 7
    posterior = any_result.data["posterior"]
    assert list(drawn.data_vars) == list(posterior.data_vars)
    for name, variable in drawn.data_vars.items():
        assert variable.dims == posterior[name].dims, name
        assert variable.shape[2:] == posterior[name].shape[2:], name
        assert variable.dtype == posterior[name].dtype, name
    assert drawn.equals(any_result.sample(7, seed=3))
    first = next((name for name in drawn.data_vars if drawn[name].dtype.kind == "f"), next(iter(drawn.data_vars)))
    assert not np.array_equal(drawn[first].values, any_result.sample(7, seed=4)[first].values)


def test_the_zoo_covers_both_methods() -> None:
    """Parametrising over the registry must not come to nothing."""
    assert len(lvm.problems(ready=True)) >= 5
    assert any(lvm.problem(name).quantities for name in lvm.problems(ready=True))
    assert any(lvm.problem(name).discrete for name in lvm.problems(ready=True))


# --- cases of their own -----------------------------------------------------------------------------------------------


def short(problem: lvm.Problem, kind: str, **options: Any) -> Any:
    if kind == "svi":
        return lvm.fit(problem, "mean_field", **{"max_steps": 3, "draws": 12, "progress": False, **options})
    return lvm.nuts(problem, **{"chains": 2, "warmup": 5, "draws": 12, "progress": False, **options})


def test_a_plate_named_like_a_variable(kind: str) -> None:
    """xarray has one name space for dimensions and variables."""

    def clash(y: Tensor) -> None:
        with pyro.plate("y", len(y)):
            x = pyro.sample("x", dist.Normal(y.new_tensor(0.0), 1.0))
            pyro.sample("obs", dist.Normal(x, 1.0), obs=y)

    def own_name(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(x.new_tensor(0.0), 1.0))
        with pyro.plate("x", len(x)):
            pyro.sample("x_", dist.Normal(mean, 1.0), obs=x)

    data = torch.tensor([0.5, 1.0, -1.0])
    result = short(lvm.Problem(clash, data), kind)
    assert result.data["posterior"]["x"].dims == ("chain", "draw", "y_plate")
    assert result.data["log_likelihood"]["obs"].dims == ("chain", "draw", "y_plate")
    result = short(lvm.Problem(own_name, data), kind)
    assert result.data["observed_data"]["x_"].dims == ("x_plate",)
    assert result.sample(2)["mean"].shape == (1, 2)


def test_site_names_that_files_and_xarray_must_survive(kind: str, tmp_path: Any) -> None:
    def odd(y: Tensor) -> None:
        a = pyro.sample("layer.weight", dist.Normal(y.new_tensor(0.0), 1.0))
        b = pyro.sample("β 1", dist.Normal(a, 1.0))
        with pyro.plate("the rows", len(y)):
            pyro.sample("y", dist.Normal(b, 1.0), obs=y)

    problem = lvm.Problem(odd, torch.zeros(3))
    result = short(problem, kind)
    result.save(tmp_path / "odd")
    loaded = lvm.load(tmp_path / "odd", problem=problem)
    assert list(loaded.data["posterior"].data_vars) == ["layer.weight", "β 1"]
    assert loaded.data.identical(result.data)


def test_event_dims_and_nested_plates(kind: str) -> None:
    @lvm.model(
        dims={"w": ["feature"]}, coords={"feature": ["a", "b"]}, quantities={"norm": lambda d: d["w"].norm(dim=-1)}
    )
    def nested(y: Tensor) -> None:
        rows, groups = y.shape
        with pyro.plate("group", groups, dim=-1):
            w = pyro.sample("w", dist.Normal(y.new_zeros(2), 1.0).to_event(1))
            with pyro.plate("row", rows, dim=-2):
                pyro.sample("y", dist.Normal(w.sum(-1), 1.0), obs=y)

    result = short(lvm.Problem(nested, torch.zeros(4, 3)), kind)
    data = result.data
    assert data["posterior"]["w"].dims == ("chain", "draw", "group", "feature")
    assert list(data["posterior"].coords["feature"].values) == ["a", "b"]
    assert data["log_likelihood"]["y"].dims == ("chain", "draw", "row", "group")
    assert data["log_likelihood"]["y"].shape[2:] == (4, 3)
    assert data["log_prior"]["w"].dims == ("chain", "draw", "group")
    assert data["quantities"]["norm"].shape[2:] == (3,)
    np.testing.assert_allclose(
        data["quantities"]["norm"].values, np.linalg.norm(data["posterior"]["w"].values, axis=-1), rtol=1e-5
    )


def test_supports_that_change_their_shape(kind: str) -> None:
    def shapes(y: Tensor) -> None:
        parts = pyro.sample("parts", dist.Dirichlet(y.new_ones(4)))
        factor = pyro.sample("factor", dist.LKJCholesky(3, y.new_tensor(2.0)))
        pyro.sample("y", dist.Normal(parts[0] + factor[1, 0], 1.0), obs=y)

    data = short(lvm.Problem(shapes, torch.tensor(0.3)), kind).data
    assert data["posterior"]["parts"].shape[2:] == (4,)
    assert data["unconstrained_posterior"]["parts"].shape[2:] == (3,)
    assert data["posterior"]["factor"].shape[2:] == (3, 3)
    assert data["unconstrained_posterior"]["factor"].shape[2:] == (3,)


def test_an_improper_prior_has_no_prior_groups(kind: str) -> None:
    def improper(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.ImproperUniform(dist.constraints.real, (), ()))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    try:
        problem = lvm.Problem(improper, torch.zeros(5))
    except lvm.ProblemError as error:
        pytest.skip(f"refused: {error}")
    data = short(problem, kind).data
    assert "prior" not in data.children
    assert "posterior_predictive" in data.children


@pytest.mark.parametrize("limit", [60, pytest.param(1_000, marks=pytest.mark.slow)])
def test_large_groups_are_thinned_and_say_so(kind: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only pointwise groups lose draws; draws, statistics and their order stay complete."""

    def wide(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    problem = lvm.Problem(wide, torch.zeros(20))
    full = short(problem, kind).data
    monkeypatch.setattr(build, "MAX_ELEMENTS", limit)
    options = {"draws": 12}
    data = short(problem, kind, **options).data
    chains = data["posterior"].sizes["chain"]
    step = max(1, -(-12 * chains * 20 // limit))
    for group in ("log_likelihood", "posterior_predictive"):
        assert data[group].sizes["chain"] == chains, group
        kept = list(range(0, 12, step))
        assert list(data[group].coords["draw"].values) == kept, group
        assert data[group].attrs.get("thinned_by", 1) == step, group
        assert data[group].sizes["row"] == 20
    assert data["posterior"].sizes["draw"] == 12
    assert data["sample_stats"]["lp"].sizes["draw"] == 12
    np.testing.assert_array_equal(
        data["log_likelihood"]["y"].values,
        full["log_likelihood"]["y"].sel(draw=data["log_likelihood"].coords["draw"]).values,
    )


def test_masked_rows_have_no_likelihood(kind: str) -> None:
    def masked(y: Tensor, seen: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 1.0))
        with pyro.plate("row", len(y)), pyro.poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    result = short(lvm.Problem(masked, torch.tensor([0.0, 1.0, 2.0]), torch.tensor([True, False, True])), kind)
    terms = result.data["log_likelihood"]["y"]
    assert terms["row"].values.tolist() == [0, 2]
    assert result.data["observed_data"]["y"].values.tolist() == [0.0, 2.0]
    assert (terms.values != 0).all()
    mean = torch.as_tensor(result.data["posterior"]["mean"].values)
    wanted = dist.Normal(0.0, 1.0).log_prob(mean)
    wanted = (
        wanted + dist.Normal(mean, 1.0).log_prob(torch.tensor(0.0)) + dist.Normal(mean, 1.0).log_prob(torch.tensor(2.0))
    )
    np.testing.assert_allclose(result.log_p, wanted.numpy(), rtol=1e-4)


def test_posterior_predictive_follows_the_draws(kind: str) -> None:
    def tight(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 5.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, 1e-3), obs=y)

    result = short(lvm.Problem(tight, torch.full((3,), 2.0)), kind, draws=30)
    predicted = result.data["posterior_predictive"]["y"].values
    mean = result.data["posterior"]["mean"].values
    assert np.abs(predicted - mean[..., None]).max() < 0.01
    assert (predicted[..., 0] != predicted[..., 1]).any()


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_wrong_numbers_of_draws_are_refused(eight: Any, n: Any) -> None:
    with pytest.raises(lvm.ArgumentError, match="n must be"):
        eight.sample(n)


def test_chains_are_sampled_without_repetition_while_they_last() -> None:
    def line(y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)

    chains = short(lvm.Problem(line, torch.tensor(0.0)), "nuts")
    stored = chains.data["posterior"]["a"].values
    all_of_them = chains.sample(stored.size)["a"].values
    np.testing.assert_array_equal(np.sort(all_of_them.reshape(-1)), np.sort(stored.reshape(-1)))
    more = chains.sample(100)["a"].values
    assert more.shape == (1, 100)
    assert set(more.reshape(-1)) <= set(stored.reshape(-1))


def test_results_print_in_a_line(eight: Any) -> None:
    text = str(eight)
    assert "\n" not in text
    assert "eight_schools" in text
    assert eight.verdict.status in text
    assert repr(eight) == f"<{text}>"
    assert "eight_schools" in eight._repr_html_()
