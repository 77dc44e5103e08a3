"""What goes wrong after the last step, and whether stored values are those of the fitted state."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._results.afresh import check_afresh

Y = torch.tensor([1.2, 0.4, 0.9, 1.7, 0.1, 0.8])


def level(y):
    at = pyro.sample("at", dist.Normal(0.5, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(at, 1.0), obs=y)


def fit(model: Any, *data: Any, **options: Any) -> lvm.Fit:
    return lvm.fit(
        lvm.Problem(model, *data), "mean_field", **{"max_steps": 30, "draws": 120, "progress": False, **options}
    )


def missing(fit: lvm.Fit) -> dict[str, str]:
    return dict(json.loads(fit.data.attrs.get("pyrolvm_missing", "{}")))


class Silent(dist.Normal):
    def sample(self, *args, **kwargs):
        raise NotImplementedError("this one cannot draw")

    rsample = sample


def cannot_draw(y):
    at = pyro.sample("at", dist.Normal(0.5, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", Silent(at, 1.0), obs=y)


def shares(y):
    first = pyro.sample("first", dist.Normal(0.5, 0.3))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Categorical(probs=torch.stack([first, 1 - first])), obs=y)


def varying(y):
    at = pyro.sample("at", dist.Normal(0.5, 1.0))
    pyro.deterministic("above", y[y > at])
    pyro.deterministic("twice", 2 * at)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(at, 1.0), obs=y)


@lvm.model(quantities={"wrong": lambda draw: draw["nothing"], "square": lambda draw: draw["at"] ** 2})
def with_quantities(y):
    level(y)


CASES = [
    (cannot_draw, Y, "posterior_predictive", "this one cannot draw"),
    (shares, torch.tensor([0, 1, 1, 0]), "prior", "probability tensor"),
    (varying, Y, "posterior/above", "shape varies from draw to draw"),
    (with_quantities, Y, "quantities/wrong", "KeyError: 'nothing'"),
]


@pytest.mark.parametrize(("model", "data", "what", "why"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_part_that_cannot_be_made_costs_no_other_and_is_named(model, data, what, why, tmp_path):
    found = fit(model, data)
    assert why in missing(found)[what]
    assert {"posterior", "sample_stats", "observed_data", "optimization"} <= set(found.data.children)
    assert any(what.split("/")[-1] in reason.text and "missing" in reason.text for reason in found.verdict.reasons)
    found.save(tmp_path / "run")
    assert missing(lvm.load(tmp_path / "run")) == missing(found)


def test_what_can_be_made_beside_it_is_there():
    assert "twice" in fit(varying, Y).data["posterior"]
    assert set(fit(with_quantities, Y).data["quantities"].data_vars) == {"square"}


@pytest.mark.parametrize("value", [torch.tensor(1.5), torch.tensor([1.5])], ids=["scalar", "one element"])
def test_one_value_observed_in_a_plate_costs_its_label(value):
    def model(y):
        at = pyro.sample("at", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 8):
            pyro.sample("y", dist.Normal(at, 1.0), obs=y)

    found = fit(model, value)
    assert found.data["observed_data"]["y"].size == 1
    assert found.data["log_likelihood"]["y"].sizes["rows"] == 8


def test_labels_of_another_length_are_left_out():
    from pyrolvm._results.datasets import site_dataset

    values = {"a": np.zeros((1, 5, 3)), "b": np.zeros((1, 5, 4)), "c": np.zeros((1, 5))}
    found = site_dataset(values, {"a": ["row"], "b": ["row"], "c": ["row"]}, attrs={}, coords={"row": list("xyz")})
    assert found["a"].dims == ("chain", "draw", "row")
    assert list(found.coords["row"].values) == ["x", "y", "z"]
    assert "row" not in found["b"].dims
    assert found.attrs["unlabelled"] == "b, c"


def test_draws_without_a_density_are_counted_and_the_others_kept():
    def model(y):
        corner = pyro.sample("corner", dist.Normal(0.6, 0.25))
        one = torch.ones(())
        both = torch.stack([torch.stack([one, corner]), torch.stack([corner, one])])
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.MultivariateNormal(torch.zeros(2), both), obs=y)

    def guide(y):
        pyro.sample("corner", dist.Normal(pyro.param("m", torch.tensor(0.8)), 0.25))

    problem = lvm.Problem(model, torch.tensor([[0.5, 0.7], [-1.0, -0.6]]))
    found = lvm.fit(problem, guide, max_steps=20, draws=200, engine="pyro", progress=False)
    failed = np.isnan(found.log_p).sum()
    assert 0 < failed < 100
    assert f"fails at {failed} of 200 draws" in missing(found)["sample_stats/lp"]
    assert found.verdict.status == "failed"


# --- no value is a view, and each is of the fitted state ----------------------------------------------------------------


def test_results_share_no_memory_with_parameters_or_data():
    net = torch.nn.Linear(1, 1)

    def model(x, y):
        pyro.module("net", net)
        pyro.deterministic("weight", net.weight)
        at = pyro.sample("at", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(net(x).squeeze(-1) + at, 1.0), obs=y)

    x, y = torch.linspace(0, 1, 6)[:, None], Y.clone()
    before = net.weight.detach().clone()
    found = fit(model, x, y, max_steps=60, draws=100)
    assert torch.equal(net.weight, before)
    weight = found.data["posterior"]["weight"].values.copy()
    assert weight.reshape(-1)[0] == pytest.approx(float(found.params["net$$$weight"]))
    held = [np.asarray(one.values) for group in found.data.children.values() for one in group.data_vars.values()]
    for tensor in (x, y, net.weight.detach(), *found.params.values()):
        assert not any(np.shares_memory(array, tensor.detach().numpy()) for array in held)
    y.fill_(9.0)
    assert found.data["observed_data"]["y"].values.max() < 2.0


def test_a_fit_is_compared_with_a_fresh_run():
    found = fit(level, Y)
    attrs = found.data["sample_stats"].attrs
    assert attrs["afresh_draws"] == 3
    assert "afresh_difference" not in attrs


@pytest.mark.parametrize("what", ["draws", "densities"])
def test_draws_of_another_state_fail_with_both_figures(what):
    found = fit(level, Y)
    if what == "draws":
        found.data["posterior"]["at"].values[...] += 0.7
    else:
        found.data["sample_stats"]["lp"].values[...] -= 0.25
    check_afresh(found.data, found.attached, found.params)
    reason = next(reason for reason in lvm.diagnose(found).verdict.reasons if "not of the fitted state" in reason.text)
    assert reason.status == "failed"
    assert reason.figures["lp difference"] > 0.1


def test_parameters_of_another_state_fail():
    def model(y):
        at = pyro.sample("at", dist.Normal(0.0, 1.0))
        scale = pyro.param("spread", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(at, scale), obs=y)

    found = fit(model, Y)
    check_afresh(found.data, found.attached, {**found.params, "spread": found.params["spread"] + 1.0})
    assert lvm.diagnose(found).verdict.status == "failed"


@pytest.mark.parametrize("offset", [0.0, 1e4], ids=["plain", "far from zero"])
def test_rounding_of_single_precision_is_no_other_state(offset):
    data = torch.randn(2_000, generator=torch.Generator().manual_seed(1)) + offset

    def model(y):
        at = pyro.sample("at", dist.Normal(offset, 100.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(at, 1.0), obs=y)

    found = fit(model, data)
    assert "afresh_difference" not in found.data["sample_stats"].attrs


@pytest.mark.parametrize("run", [lvm.nuts, lvm.exact, lvm.infer], ids=lambda run: run.__name__)
def test_other_methods_are_compared_too(run):
    options = {"warmup": 50, "draws": 50, "chains": 1} if run is lvm.nuts else {}
    found = run(lvm.Problem(level, Y), progress=False, **options)
    assert found.data["sample_stats"].attrs["afresh_draws"] == 3
    assert "afresh_difference" not in found.data["sample_stats"].attrs


# --- errors name what is at fault ---------------------------------------------------------------------------------------


def test_an_error_of_a_callback_is_the_callers_own():
    def stop(step):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        fit(level, Y, callbacks=[stop])


@pytest.mark.parametrize(
    "error", [StopIteration(), AssertionError(), KeyError("alpha"), RuntimeError("odd")], ids=lambda e: type(e).__name__
)
def test_no_bare_exception_of_a_program_reaches_the_caller(error):
    def model(y):
        at = pyro.sample("at", dist.Normal(0.5, 1.0))
        if at < -0.5:
            raise error
        level_of(y, at)

    def level_of(y, at):
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(at, 1.0), obs=y)

    def guide(y):
        pyro.sample("at", dist.Normal(pyro.param("m", torch.tensor(0.3)), 1.0))

    with pytest.raises(lvm.PyrolvmError, match=r"test_afterwards.py:\d+: `raise error`") as caught:
        lvm.fit(lvm.Problem(model, Y), guide, max_steps=300, progress=False)
    assert type(error).__name__ in str(caught.value) or "odd" in str(caught.value)


def test_lines_of_this_project_are_not_for_the_user_to_mend():
    from pyrolvm._base.explain import explained
    from pyrolvm._program.density import Joint

    with pytest.raises(lvm.ProblemError) as caught, explained("something"):
        Joint(lvm.Problem(level, Y)).split(torch.zeros(7))
    assert "mend that line" not in str(caught.value)
