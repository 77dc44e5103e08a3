from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoLaplaceApproximation, AutoNormal

import pyrolvm as lvm
from pyrolvm._results.points import all_one_value

ROWS = torch.tensor([2.1, 1.4, 0.3, 1.9, 1.2, 2.7])


def height(y):
    level = pyro.sample("level", dist.Normal(0.0, 3.0))
    spread = pyro.sample("spread", dist.HalfNormal(2.0))
    with pyro.plate("people", len(y)):
        pyro.sample("y", dist.Normal(level, spread), obs=y)


def both_points(y):
    pyro.sample("level", dist.Delta(pyro.param("at", torch.tensor(-1.0))))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    pyro.sample("spread", dist.Delta(scale).mask(torch.tensor(True)))


def one_point(y):
    pyro.sample("level", dist.Normal(pyro.param("at", torch.tensor(0.0)), 0.4))
    pyro.sample("spread", dist.Delta(pyro.param("scale", torch.tensor([1.0]), constraint=constraints.positive).sum()))


def copied(y):
    level = pyro.sample("level", dist.Normal(pyro.param("at", torch.tensor(1.0)), 0.2))
    pyro.sample("spread", dist.Delta(level.abs() + 0.5))


def amortised_point(y):
    weights = pyro.param("weights", torch.full((6,), 0.1))
    pyro.sample("level", dist.Delta((weights * y).sum()))
    pyro.sample("spread", dist.LogNormal(pyro.param("log", torch.tensor(0.0)), 0.3))


def collapsed(y):
    pyro.sample("level", dist.Normal(pyro.param("at", torch.tensor(1.5)), 1e-9))
    pyro.sample("spread", dist.LogNormal(pyro.param("log", torch.tensor(0.0)), 1e-10))


class Mapped(EasyGuide):
    def guide(self, y):
        self.map_estimate("level")
        self.map_estimate("spread")


def mixed(model):
    guide = AutoGuideList(model)
    guide.append(AutoDelta(poutine.block(model, expose=["level"])))
    guide.append(AutoNormal(poutine.block(model, expose=["spread"])))
    return guide


def fitted(guide: Any, **options: Any) -> lvm.Fit:
    return lvm.fit(lvm.Problem(height, ROWS), guide, max_steps=120, draws=120, progress=False, **options)


POINTS = [both_points, one_point, copied, amortised_point, collapsed, Mapped, AutoDelta, mixed]


@pytest.mark.parametrize("guide", POINTS, ids=lambda guide: guide.__name__)
def test_a_guide_without_a_density_is_a_point_estimate_without_evidence(guide):
    fit = fitted(guide)
    assert fit.point_estimate
    assert fit.verdict.status == "doubtful"
    assert any("point estimate" in reason.text for reason in fit.verdict.reasons)
    assert any("laplace" in step for step in fit.verdict.next_steps)
    assert fit.evidence is None
    assert np.isnan([fit.elbo, fit.elbo_error, fit.khat]).all()
    assert not {"elbo", "evidence", "khat"} & set(lvm.diagnose(fit).figures)


@pytest.mark.parametrize("engine", ["c", "jax", "pyro"])
def test_draws_of_a_point_are_at_the_fitted_parameters_whatever_runs_it(engine):
    fit = fitted(AutoDelta, engine=engine)
    level, spread = (fit.data["posterior"][name].values for name in ("level", "spread"))
    assert np.ptp(level) == 0.0
    assert level.flat[0] == pytest.approx(float(fit.params["AutoDelta.level"]), abs=1e-6)
    given = {"level": torch.tensor(level.flat[0]), "spread": torch.tensor(spread.flat[0])}
    stock = poutine.trace(poutine.condition(height, given)).get_trace(ROWS).log_prob_sum()
    assert fit.log_p.flat[0] == pytest.approx(float(stock), rel=1e-5)


def test_what_is_random_given_a_point_keeps_its_draws():
    fit = fitted(one_point)
    assert float(fit.data["posterior"]["level"].std()) > 0.1
    assert "`spread`" in fit.verdict.reasons[0].text


def test_auto_laplace_is_converted_to_its_gaussian():
    fit = fitted(AutoLaplaceApproximation)
    assert not fit.point_estimate
    assert fit.evidence is not None
    assert float(fit.data["posterior"]["level"].std()) > 0.1
    assert float(fit.sample(100)["level"].std()) > 0.1


def test_a_saved_point_estimate_is_one_when_it_is_loaded(tmp_path):
    fit = fitted(AutoDelta)
    fit.save(tmp_path / "map")
    found = lvm.load(tmp_path / "map")
    assert isinstance(found, lvm.Fit)
    assert found.evidence is None
    assert [reason.text for reason in found.verdict.reasons] == [reason.text for reason in fit.verdict.reasons]


def test_what_needs_weights_refuses_a_point(tmp_path):
    fit = fitted(both_points)
    for use in (
        lambda: lvm.evidence(fit, progress=False),
        lambda: lvm.evidence(fit, "bridge", progress=False),
        lambda: lvm.gaps(fit, progress=False),
    ):
        with pytest.raises(lvm.ArgumentError, match="point estimate"):
            use()
    found = lvm.evaluate(fit, progress=False)  # it predicts, and the doubts about it are told
    assert any("The posterior itself is" in reason.text for reason in found.verdict.reasons)


def test_infer_prefers_chains_to_a_point():
    found = lvm.infer(lvm.Problem(height, ROWS), methods=[AutoDelta, "nuts"], draws=400, progress=False)
    assert isinstance(found, lvm.Chains)
    assert found.ladder[0]["method"] == "AutoDelta"


def test_a_comparison_says_that_it_is_a_point():
    report = lvm.compare({"map": fitted(AutoDelta), "normal": fitted(AutoNormal)}, reference="normal")
    assert np.isnan(report.methods.loc["map", ["khat", "elbo", "evidence"]].astype(float)).all()
    assert any("point estimate" in advice for advice in report.advice if advice.startswith("map"))


def test_a_delta_behind_a_transform_is_refused_with_the_way_to_write_it():
    def guide(y):
        pyro.sample("level", dist.Normal(0.0, 1.0))
        point = dist.Delta(pyro.param("at", torch.tensor(0.0)))
        pyro.sample("spread", dist.TransformedDistribution(point, [dist.transforms.ExpTransform()]))

    with pytest.raises(lvm.GuideError, match=r"Delta pushed through a transform.*Fix:"):
        fitted(guide)


def test_zeros_of_a_triangle_are_no_points():
    def model(y):
        root = pyro.sample("root", dist.LKJCholesky(3, torch.tensor(2.0)))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.MultivariateNormal(torch.zeros(3), scale_tril=root), obs=y)

    fit = lvm.fit(lvm.Problem(model, torch.randn(5, 3)), "mean_field", max_steps=50, draws=100, progress=False)
    assert not fit.point_estimate
    assert fit.evidence is not None


def test_old_results_are_read_by_their_draws():
    import xarray as xr

    one = np.ones((1, 300))
    old = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset({"a": (("chain", "draw"), 1.5 * one)}),
            "sample_stats": xr.Dataset({name: (("chain", "draw"), -3.0 * one) for name in ("lp", "log_weight")}),
        }
    )
    assert "point estimate" in lvm.diagnose(old).verdict.reasons[0].text


def test_two_draws_of_many_numbers_agree_somewhere_by_chance_and_are_no_point():
    rows = 100 + torch.randn(2_000, generator=torch.Generator().manual_seed(0))

    def each(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(100.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.01), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.tensor(0.01), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, scale))

    words = {"max_steps": 2, "tolerance": 0, "draws": 2, "engine": "pyro", "progress": False}
    fit = lvm.fit(lvm.Problem(each, rows), guide, num_particles=1, **words)
    assert all_one_value(fit.data["posterior"]["z"].values[0])  # some of the numbers, in float32
    assert not fit.point_estimate
    assert lvm.fit(lvm.Problem(each, rows[:50]), AutoDelta, **words).point_estimate
